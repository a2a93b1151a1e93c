"""Visualize what a model's masks are made of (the thesis' Figures 4.3, 5.4 and 5.5).

The model's own part says what there is to draw, see :class:`~adet_ext.modeling.mask.instance_prediction
.InstancePrediction`; this module knows no family of models.

Shapes: C bases, h, w their height and width, K maps of attention, M their side, D instances.
"""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from ..d2.modeling import META_ARCH_REGISTRY
from ..d2.structures import Instances
from ..data.catalog import class_names_of
from ..engine.predictor import Predictor, confident, on_cpu
from ..errors import UserError
from ..modeling.mask.instance_prediction import InstancePrediction
from .blending import draw_blending
from .instance_maps import instance_maps
from .maps import draw_bases, draw_components, draw_instance_maps
from .predictions import draw_outputs

__all__ = ["PICTURES", "can_follow", "check_explainable", "components_picture", "explain", "explainable"]

# The names of all pictures that explain() can return.
PICTURES = ("prediction", "bases", "blending", "instances")


def explainable(model: type | nn.Module) -> bool:
    """Return whether a model, or class of models, has bases or attentions to draw."""
    return getattr(model, "explained_by", None) is not None


def check_explainable(model: type | nn.Module) -> None:
    """Raise UserError if a model, or class of models, has nothing to draw."""
    if not explainable(model):
        name = (model if isinstance(model, type) else type(model)).__name__
        others = sorted(name for name, kind in META_ARCH_REGISTRY if explainable(kind))
        raise UserError(
            f"the model must have bases or attentions to draw; got {name}. Use a config of {' or '.join(others)}, "
            "with or without panoptic segmentation"
        )


def can_follow(model: nn.Module) -> bool:
    """Return whether a model's masks are sums of maps, so that ``instances`` can be drawn."""
    return explainable(model) and _part_of(model).is_sum


def components_picture(model: nn.Module) -> np.ndarray | None:
    """Return the components of a model's factored attention, RGB; None for models without. All images share them."""
    components = _part_of(model).components() if explainable(model) else None
    return None if components is None else draw_components(components)


def explain(
    predictor: Predictor,
    image: np.ndarray,
    metadata: Any = None,
    *,
    threshold: float = 0.5,
    count: int = 3,
    side: int = 384,
) -> dict[str, np.ndarray]:
    """Return what a model makes its masks of on one image, as RGB pictures by name.

    ``blending``: the prediction, the K bases that attentions weight, and the attentions in their colors; for models
        whose weighted bases are common to all instances.
    ``bases``: all C bases, unless ``blending`` shows them.
    ``instances``: how the masks of some instances come about; absent if there is no instance.
    ``prediction``: present if ``blending`` is not.

    Args:
        image: BGR uint8 (H, W, 3).
        metadata: the data set's, for names and colors.
        threshold: instances from this score on take part.
        count: how many of them, the best ones, to draw in ``instances``.
        side: smaller images are enlarged by a whole factor to about this longer side.

    Raises:
        UserError: the model has nothing to draw, or the image is not an image.
    """
    model = predictor.model
    check_explainable(model)
    part = _part_of(model)
    with _visualizing(model):
        outputs = confident(predictor(image), threshold)
    height, width = predictor.prepare(image)["image"].shape[-2:]
    rows, columns = (math.ceil(length * part.crop_options["scale"]) for length in (height, width))
    bases, found = outputs["bases"][:, :rows, :columns], outputs["instances"]  # without the padding
    embeddings = found.get(part.field).to(bases) if found.has(part.field) else None
    with torch.inference_mode():
        blending = part.blending(bases, embeddings)
    rgb = np.ascontiguousarray(image[:, :, ::-1])
    scale = max(1, round(side / max(image.shape[:2])))
    prediction = draw_outputs(rgb, on_cpu(outputs), metadata, scale=scale)
    pictures = {}
    if blending is None or blending[0] is not bases:
        pictures["bases"] = draw_bases(bases, rgb.shape[:2], title=f"{len(bases)} bases")
    if blending is None:
        pictures["prediction"] = prediction
    else:
        pictures["blending"] = _draw_blending(rgb, *blending, found, prediction, scale)
    if len(found) and count and part.is_sum:
        best = torch.argsort(found.scores, descending=True, stable=True)[:count]
        maps = instance_maps(part, bases, found[best], rgb, (height, width), class_names_of(metadata))
        pictures["instances"] = draw_instance_maps(maps)
    return pictures


def _part_of(model: nn.Module) -> InstancePrediction:
    return getattr(model, model.explained_by)


@contextlib.contextmanager
def _visualizing(model: nn.Module) -> Iterator[None]:
    before, model.visualize = model.visualize, True
    try:
        yield
    finally:
        model.visualize = before


def _draw_blending(
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
