"""The panoptic part of exported graphs: the maps that the graph makes, and the segments that are made of them.

N images, D detections an image, C semantic classes, S = C - 1 stuff classes, h x w the maps.
"""

from typing import Any

import torch

from ..d2.config import CfgNode
from ..modeling.mask.blendmask import BlendMask
from ..modeling.mask.dr1mask import DR1Mask
from ..modeling.mask.unified_inference import UnifiedMerger
from ..modeling.one_stage import OneStageDetector, Prediction
from ..modeling.panoptic import PanopticMerger, semantic_scores

__all__ = ["complete", "map_stride", "panoptic_maps"]


def panoptic_maps(model: OneStageDetector, found: Prediction, sizes: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return what segments are made of.

    Args:
        sizes: (N, 2), heights and widths of the images without padding.

    Returns:
        of a panoptic BlendMask ``semantic`` (N, C, h, w), logits; of a panoptic DR1Mask ``unified``
        (N, S + D, h, w), the logits of stuff and detections, without regions; of other models nothing.
    """
    if isinstance(model, BlendMask) and model.merger is not None:
        return {"semantic": found.extras["sem_seg"].float()}
    if not isinstance(model, DR1Mask) or model.merger is None:
        return {}
    most = sizes.flip(1).repeat(1, 2)[:, None].to(found.detections.boxes.dtype)  # (N, 1, 4): w, h, w, h
    boxes = torch.minimum(found.detections.boxes.clamp(min=0), most)
    each = zip(found.extras["bases"], found.fields["embeddings"], boxes)
    maps = [model.panoptic.logits(model.prediction, bases, rows, one) for bases, rows, one in each]
    return {"unified": torch.stack(maps).float()}


def map_stride(model: OneStageDetector) -> int | None:
    """Return the stride of :func:`panoptic_maps`; None where there are none."""
    if getattr(model, "merger", None) is None:
        return None
    return model.panoptic_module.common_stride if isinstance(model, BlendMask) else model.panoptic.stride


def complete(
    cfg: CfgNode, stride: int | None, result: dict[str, Any], found: dict[str, torch.Tensor], size: tuple[int, int]
) -> None:
    """Add ``sem_seg`` and ``panoptic_seg`` to one image's results, in place, where the graph gave their maps.

    Args:
        stride: of the maps, see :func:`map_stride`.
        result: with ``instances`` at the size asked for and their places among the graph's D.
        found: the graph's results for the image, (D, ...) and (C, h, w) or (S + D, h, w).
        size: (height, width) of the image in the network's frame.
    """
    instances = result["instances"]
    if "semantic" in found:
        result["sem_seg"] = semantic_scores(found["semantic"], stride, size, *instances.image_size)
        result["panoptic_seg"] = PanopticMerger.from_config(cfg)(instances, result["sem_seg"].argmax(dim=0))
    if "unified" in found:
        merger, stuff = UnifiedMerger.from_config(cfg), cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES - 1
        h, w = (-(-length // stride) for length in size)
        maps = found["unified"][:, :h, :w]
        places = merger.confident(instances)
        things = maps[stuff:][instances.places[places]]
        result["sem_seg"], result["panoptic_seg"] = merger.merge(
            torch.cat([maps[:stuff], things]), instances, places, size,
            num_stuff=stuff, stride=stride, in_boxes=cfg.MODEL.DR1MASK.PANOPTIC.IN_BOX_TEST,
        )  # fmt: skip
