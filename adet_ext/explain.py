"""The inner life of a model on an image: what its masks are made of (the thesis' Figures 4.3, 5.4 and 5.5).

Shapes: D bases, h, w their height and width, K maps of attention, M their side, R the side of masks, G instances.
"""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .d2.structures import Instances
from .errors import UserError
from .layers.blend import crop_bases
from .modeling.mask.blendmask import BlendMask
from .modeling.mask.dr1mask import DR1Mask
from .modeling.mask.instance_prediction import FactoredPrediction, FullPrediction
from .predictor import Predictor, confident, on_cpu
from .visualize import class_names_of, draw_outputs, name_of
from .visualize_blend import draw_blending
from .visualize_dr1 import InstanceMaps, draw_bases, draw_components, draw_instance_maps

__all__ = ["PICTURES", "check_explainable", "components_picture", "explain", "explainable", "instance_maps"]

# The names of all pictures that explain() can give.
PICTURES = ("prediction", "bases", "blending", "instances")


def explainable(model: type | nn.Module) -> bool:
    """Whether a model, or class of models, has bases or attentions to draw."""
    return issubclass(model if isinstance(model, type) else type(model), (BlendMask, DR1Mask))


def check_explainable(model: type | nn.Module) -> None:
    """Raise UserError where a model, or class of models, has nothing to draw."""
    if not explainable(model):
        name = (model if isinstance(model, type) else type(model)).__name__
        raise UserError(
            f"{name} has no bases or attentions to draw; models that have are BlendMask and DR1Mask, each with or "
            "without panoptic segmentation"
        )


def components_picture(model: nn.Module) -> np.ndarray | None:
    """Return the components of a DR1Mask's factored attention, RGB; None for models without. They are the model's."""
    prediction = getattr(model, "prediction", None)
    if not isinstance(prediction, FactoredPrediction):
        return None
    return draw_components(prediction.components())


def explain(
    predictor: Predictor,
    image: np.ndarray,
    metadata: Any = None,
    *,
    threshold: float = 0.5,
    count: int = 4,
    side: int = 384,
) -> dict[str, np.ndarray]:
    """Return what a BlendMask or DR1Mask makes its masks of on one image, as RGB pictures by name.

    BlendMask gives ``blending``: the prediction, the bases, the attentions; with fixed attentions
    (MODEL.BLENDMASK.MERGE: assembler) ``prediction`` and ``bases``. DR1Mask gives ``prediction``; ``bases``, all D of
    them; and with full attention ``blending``, of the K bases that those are projected to, else ``instances``: how the
    masks of some instances come about. Where there is no instance, there is no ``instances``.

    Args:
        image: BGR uint8 [H, W, 3].
        metadata: the data set's, for names and colours.
        threshold: instances from this score on take part.
        count: of how many of them, the best ones, to draw ``instances``.
        side: smaller images are enlarged by a whole factor to about this longer side.

    Raises:
        UserError: the model is another one, or the image is none.
    """
    model = predictor.model
    check_explainable(model)
    with _showing(model):
        outputs = confident(predictor(image), threshold)
    height, width = predictor.prepare(image)["image"].shape[-2:]
    bases = _without_padding(model, outputs["bases"], height, width)
    found = outputs["instances"]
    rgb = np.ascontiguousarray(image[:, :, ::-1])
    scale = max(1, round(side / max(image.shape[:2])))
    prediction = draw_outputs(rgb, on_cpu(outputs), metadata, scale=scale)
    if isinstance(model, BlendMask) and found.has("top_feat"):
        return {"blending": _blending(rgb, bases, found.top_feat, found, prediction, scale)}
    pictures = {"prediction": prediction, "bases": draw_bases(bases, rgb.shape[:2], title=f"{len(bases)} bases")}
    if isinstance(model, BlendMask):
        return pictures
    if isinstance(model.prediction, FullPrediction):
        with torch.inference_mode():
            projected = model.prediction.project(bases[None])[0]  # K, h, w
        pictures["blending"] = _blending(rgb, projected, found.embeddings, found, prediction, scale)
    elif len(found) and count:
        best = found[torch.argsort(found.scores, descending=True, stable=True)[:count]]
        maps = instance_maps(model, bases, best, rgb, (height, width), class_names_of(metadata))
        pictures["instances"] = draw_instance_maps(maps)
    return pictures


@contextlib.contextmanager
def _showing(model: nn.Module) -> Iterator[None]:
    before, model.visualize = model.visualize, True
    try:
        yield
    finally:
        model.visualize = before


def _without_padding(model: nn.Module, bases: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The part of an image's bases [D, h, w] that lies on its ``height`` x ``width`` pixels in the network's frame."""
    crop = model.prediction.crop if isinstance(model, DR1Mask) else model.blender.crop_options
    rows, columns = (math.ceil(length * crop["scale"]) for length in (height, width))
    return bases[:, :rows, :columns]


def _blending(
    image: np.ndarray,
    bases: torch.Tensor,
    attentions: torch.Tensor,
    instances: Instances,
    prediction: np.ndarray,
    scale: int,
) -> np.ndarray:
    order = torch.argsort(instances.scores, stable=True)  # the best on top
    return draw_blending(
        image,
        bases.cpu(),
        attentions[order].cpu(),
        instances.pred_boxes.tensor[order].cpu(),
        masks=instances.pred_masks[order].cpu(),
        prediction=prediction,
        scale=scale,
    )


@torch.inference_mode()
def instance_maps(
    model: DR1Mask,
    bases: torch.Tensor,
    instances: Instances,
    image: np.ndarray,
    image_size: tuple[int, int],
    class_names: list[str],
) -> list[InstanceMaps]:
    """Follow the masks of instances step by step (equations 5.7 and 5.8), in their boxes as clipped to the image.

    Args:
        model: with vector or factored attention.
        bases: float [D, h, w].
        instances: one image's, with ``embeddings``, in the frame of ``image``.
        image: RGB uint8 [H, W, 3].
        image_size: (height, width) of the image in the network's frame.
        class_names: names by class index.
    """
    prediction, count = model.prediction, len(instances)
    boxes, embeddings = instances.pred_boxes.tensor, instances.embeddings.to(bases)
    scale = [image_size[0] / image.shape[0], image_size[1] / image.shape[1]]
    network_boxes = boxes * boxes.new_tensor(scale[::-1] * 2)
    of_image = torch.zeros(count, dtype=torch.long, device=bases.device)
    crops = crop_bases(bases[None], network_boxes, of_image, **prediction.crop)  # G, D, R, R
    parts: dict[str, torch.Tensor] = {}
    if isinstance(prediction, FactoredPrediction):
        t = embeddings[:, : prediction.lengths[0]].unflatten(1, (prediction.num_bases, -1))  # G, K, D
        parts["attentions"] = prediction.attentions(embeddings)  # G, K, M, M
        parts["projected"] = torch.einsum("gkd,gdyx->gkyx", t, crops)  # G, K, R, R
        weights = F.interpolate(parts["attentions"], crops.shape[-2:], mode=prediction.top_interp)
        if prediction.softmax and prediction.num_bases > 1:
            parts["weights"] = weights = weights.softmax(dim=1)
        parts["products"] = weights * parts["projected"]
        parts["logits"] = parts["products"].sum(dim=1)
    else:
        parts["channels"] = embeddings
        parts["logits"] = torch.einsum("gd,gdyx->gyx", embeddings, crops)
    labels = [
        f"{name_of(class_names, category)} {100 * score:.0f}%"
        for category, score in zip(instances.pred_classes.tolist(), instances.scores.tolist())
    ]
    return [
        InstanceMaps(label=labels[g], crop=_cut(image, box), **{name: part[g].cpu() for name, part in parts.items()})
        for g, box in enumerate(boxes.tolist())
    ]


def _cut(image: np.ndarray, box: list[float]) -> np.ndarray:
    """The image in a box; at least a pixel of it."""
    height, width = image.shape[:2]
    x0, y0 = min(max(0, int(box[0])), width - 1), min(max(0, int(box[1])), height - 1)
    return image[y0 : max(y0 + 1, round(box[3])), x0 : max(x0 + 1, round(box[2]))]
