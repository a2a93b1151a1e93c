"""How the mask of an instance comes about, step by step (equations 4.1 to 4.4, 5.7 and 5.8).

Shapes: G instances, D bases, h, w their height and width, K of them that attentions weight, M the side of attentions,
R of masks, E numbers of an embedding.
"""

import numpy as np
import torch
from torch.nn import functional as F

from ..d2.structures import Instances
from ..data.catalog import name_of
from ..layers.blend import crop_bases
from ..modeling.mask.blendmask import BlendMask
from ..modeling.mask.dr1mask import DR1Mask
from ..modeling.mask.instance_prediction import FactoredPrediction, FullPrediction
from .maps import InstanceMaps

__all__ = ["can_follow", "instance_maps"]


def can_follow(model: BlendMask | DR1Mask) -> bool:
    """Whether a mask is a sum of maps: not where a single basis and its attention are multiplied as probabilities
    (section 4.4.1), nor where attentions are fixed."""
    if isinstance(model, BlendMask):
        return model.blender.merge_kind == "blender" and model.blender.num_bases > 1
    return not isinstance(model.prediction, FullPrediction) or model.prediction.num_bases > 1


@torch.inference_mode()
def instance_maps(
    model: BlendMask | DR1Mask,
    bases: torch.Tensor,
    instances: Instances,
    image: np.ndarray,
    image_size: tuple[int, int],
    class_names: list[str],
) -> list[InstanceMaps]:
    """Follow the masks of an image's instances, in their boxes as clipped to the image.

    Args:
        model: one that :func:`can_follow` is true of.
        bases: float [D, h, w].
        instances: G, in the frame of ``image``, with ``top_feat`` (BlendMask) or ``embeddings`` (DR1Mask).
        image: RGB uint8 [H, W, 3].
        image_size: (height, width) of the image in the network's frame.
        class_names: names by class index.
    """
    boxes = instances.pred_boxes.tensor
    scale = [image_size[0] / image.shape[0], image_size[1] / image.shape[1]]
    parts = _parts(model, bases[None], instances, boxes * boxes.new_tensor(scale[::-1] * 2))
    labels = [
        f"{name_of(class_names, category)} {100 * score:.0f}%"
        for category, score in zip(instances.pred_classes.tolist(), instances.scores.tolist())
    ]
    return [
        InstanceMaps(label=labels[g], crop=_cut(image, box), **{name: part[g].cpu() for name, part in parts.items()})
        for g, box in enumerate(boxes.tolist())
    ]


def _parts(
    model: BlendMask | DR1Mask, bases: torch.Tensor, instances: Instances, boxes: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The tensors of InstanceMaps, each (G, ...), from bases (1, D, h, w) and boxes (G, 4) in the network's frame."""
    blending = isinstance(model, BlendMask)
    crop = model.blender.crop_options if blending else model.prediction.crop
    module = model.blender if blending else model.prediction
    embeddings = (instances.top_feat if blending else instances.embeddings).to(bases)  # G, E
    if isinstance(module, FullPrediction):
        bases = module.project(bases)
    of_image = torch.zeros(len(boxes), dtype=torch.long, device=bases.device)
    crops = crop_bases(bases, boxes, of_image, **crop)  # G, D, R, R
    softmax = True
    if isinstance(module, FactoredPrediction):
        t = embeddings[:, : module.lengths[0]].unflatten(1, (module.num_bases, -1))  # G, K, D
        attentions, projected = module.attentions(embeddings), torch.einsum("gkd,gdyx->gkyx", t, crops)
        softmax = module.softmax and module.num_bases > 1
    elif blending or isinstance(module, FullPrediction):
        side = module.attention_size if blending else module.side
        attentions, projected = embeddings.view(-1, module.num_bases, side, side), crops  # G, K, M, M
    else:
        return {"channels": embeddings, "logits": torch.einsum("gd,gdyx->gyx", embeddings, crops)}
    weights = F.interpolate(attentions, crops.shape[-2:], mode=module.top_interp)  # G, K, R, R
    if softmax:
        weights = weights.softmax(dim=1)
    products = weights * projected
    shares = {"weights": weights} if softmax else {}
    return {
        "attentions": attentions, "projected": projected, **shares, "products": products, "logits": products.sum(dim=1)
    }  # fmt: skip


def _cut(image: np.ndarray, box: list[float]) -> np.ndarray:
    """The image in a box; at least a pixel of it."""
    height, width = image.shape[:2]
    x0, y0 = min(max(0, int(box[0])), width - 1), min(max(0, int(box[1])), height - 1)
    return image[y0 : max(y0 + 1, round(box[3])), x0 : max(x0 + 1, round(box[2]))]
