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

from ..d2.structures import Instances
from ..data.catalog import class_names_of
from ..engine.predictor import Predictor, confident, on_cpu
from ..errors import UserError
from ..modeling.mask.blendmask import BlendMask
from ..modeling.mask.dr1mask import DR1Mask
from ..modeling.mask.instance_prediction import FactoredPrediction, FullPrediction
from .blending import draw_blending
from .instance_maps import can_follow, instance_maps
from .maps import draw_bases, draw_components, draw_instance_maps
from .predictions import draw_outputs

__all__ = ["PICTURES", "check_explainable", "components_picture", "explain", "explainable"]

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
    count: int = 3,
    side: int = 384,
) -> dict[str, np.ndarray]:
    """Return what a BlendMask or DR1Mask makes its masks of on one image, as RGB pictures by name.

    ``blending``: the prediction, K bases, and the attentions in their colours. DR1Mask has one where its attention is
        full, of the K bases that its own are projected to.
    ``bases``: all D of a DR1Mask, or those of a BlendMask whose attentions are fixed.
    ``instances``: how the masks of some instances come about. Where there is no instance, there is none.
    ``prediction``: where ``blending`` does not have it.

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
    pictures = {}
    if isinstance(model, DR1Mask) or not found.has("top_feat"):
        pictures["bases"] = draw_bases(bases, rgb.shape[:2], title=f"{len(bases)} bases")
    if found.has("top_feat"):
        pictures["blending"] = _blending(rgb, bases, found.top_feat, found, prediction, scale)
    elif isinstance(model, DR1Mask) and isinstance(model.prediction, FullPrediction):
        with torch.inference_mode():
            projected = model.prediction.project(bases[None])[0]  # K, h, w
        pictures["blending"] = _blending(rgb, projected, found.embeddings, found, prediction, scale)
    else:
        pictures["prediction"] = prediction
    if len(found) and count and can_follow(model):
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
