"""An exported file in the place of a model: Detectron2's inputs and outputs, with another runtime between them.

N images, D detections an image, H x W the frame of the network.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..config import get_cfg
from ..d2.config import CfgNode
from ..d2.data import transforms as T
from ..d2.structures import Boxes, Instances
from ..errors import UserError
from ..modeling.postprocess import detector_postprocess
from .card import Card
from .panoptic import complete

__all__ = ["ExportedModel", "Runner", "config_of", "fit", "image_result"]


class Runner(ABC):
    """Runs a graph: an open file of one format."""

    card: Card

    @abstractmethod
    def __call__(self, images: torch.Tensor, sizes: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Map what :class:`~.wrapper.TensorModel` takes to what it returns, on the CPU."""


def config_of(card: Card, path: str) -> CfgNode:
    """Return the config that a file was made with, for images that are not resized before they come to the model.

    Keys of projects that are not imported here are left out: the graph needs them no more.
    """
    cfg = get_cfg()
    try:
        cfg.merge_from_other_cfg(_known(type(cfg).load_cfg(card.config), cfg))
    except (KeyError, ValueError, AssertionError) as error:
        raise UserError(
            f"{path} is of adet_ext {card.version}, whose config does not fit this version: {error}. Export again"
        ) from error
    return cfg


def _known(given: CfgNode, known: CfgNode) -> CfgNode:
    """Return what of ``given`` has a key in ``known``."""
    found = type(known)()
    for key, value in given.items():
        if key in known:
            nested = isinstance(value, dict) and isinstance(known[key], dict)
            found[key] = _known(value, known[key]) if nested else value
    return found


class ExportedModel(nn.Module):
    """A file behind the interface of a model in evaluation: :meth:`forward` takes and returns what Detectron2's do.

    Images come as they are, of any size; they are resized here, as INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST say and so
    that they fit into the file's frame.
    """

    def __init__(self, runner: Runner, path: str):
        super().__init__()
        self.runner, self.card = runner, runner.card
        self.cfg = config_of(runner.card, path)
        self.path = path

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Predict.

        Args:
            batched_inputs: a dict for each image: ``image`` (3, h, w), uint8 or whole numbers as float, in the channel
                order of the config; optionally ``height`` and ``width``, the size of the results.
        """
        batch = len(batched_inputs) if self.card.dynamic else self.card.batch
        results: list[dict[str, Any]] = []
        for start in range(0, len(batched_inputs), batch):
            results += self._predict(batched_inputs[start : start + batch], batch)
        return results

    def _predict(self, inputs: list[dict[str, Any]], batch: int) -> list[dict[str, Any]]:
        packed = self.packed([x["image"] for x in inputs], batch)
        found = self.runner(*packed)
        sizes = [self.card.source] * len(inputs) if self.card.source else [tuple(row) for row in packed[1].tolist()]
        rows = [{name: value[i] for name, value in found.items()} for i in range(len(inputs))]
        return [image_result(self.cfg, self.card.map_stride, *each) for each in zip(rows, inputs, sizes)]

    def packed(self, images: list[torch.Tensor], batch: int | None = None) -> tuple[torch.Tensor, ...]:
        """Return what the graph takes for images (3, h, w) of any size: resized, padded, filled up to ``batch``."""
        batch = batch or self.card.batch
        images = [self._resized(image) for image in images]
        if self.card.source:
            return (torch.stack(images + [torch.zeros_like(images[0])] * (batch - len(images))),)
        sizes = [tuple(image.shape[1:]) for image in images]
        frame = self.card.frame
        if self.card.dynamic:
            step = self.card.divisibility
            frame = tuple(max(-(-max(size[i] for size in sizes) // step) * step, 2 * step) for i in (0, 1))
        padded = [F.pad(image, (0, frame[1] - image.shape[2], 0, frame[0] - image.shape[1])) for image in images]
        padded += [torch.zeros_like(padded[0])] * (batch - len(images))  # a fixed batch is filled up
        all_sizes = sizes + [frame] * (batch - len(images))
        return torch.stack(padded), torch.tensor(all_sizes)

    def _resized(self, image: torch.Tensor) -> torch.Tensor:
        """Return an image as the graph takes it: (3, h, w) uint8."""
        image = image.round().clamp(0, 255).to(torch.uint8)
        height, width = image.shape[1:]
        size = self.card.source or self._target(height, width)
        if size == (height, width):
            return image
        array = T.ResizeTransform(height, width, *size).apply_image(image.permute(1, 2, 0).contiguous().numpy())
        return torch.from_numpy(array.copy()).permute(2, 0, 1)

    def _target(self, height: int, width: int) -> tuple[int, int]:
        """Return the size that evaluation resizes an image to, or the largest one that fits into the frame."""
        frame = None if self.card.dynamic else self.card.frame
        return fit(height, width, frame, self.cfg.INPUT.MIN_SIZE_TEST, self.cfg.INPUT.MAX_SIZE_TEST)


def fit(
    height: int, width: int, frame: tuple[int, int] | None = None, least: int = 0, most: int = 0
) -> tuple[int, int]:
    """Return the size to resize an image of height x width to.

    Args:
        frame: (H, W) that must hold it, or None.
        least, most: INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST; with ``least`` 0, the size is kept where it fits.
    """
    size = (height, width)
    if least:
        size = T.ResizeShortestEdge.get_output_shape(height, width, least, most)
    if frame is not None and (size[0] > frame[0] or size[1] > frame[1]):
        scale = min(frame[0] / height, frame[1] / width)
        size = (min(round(height * scale), frame[0]), min(round(width * scale), frame[1]))
    return max(size[0], 1), max(size[1], 1)


def image_result(
    cfg: CfgNode, stride: int | None, found: dict[str, torch.Tensor], x: dict[str, Any], size: tuple[int, int]
) -> dict[str, Any]:
    """Return one image's results at the size asked for, as Detectron2's models do.

    Args:
        stride: of panoptic maps, see :func:`~.panoptic.map_stride`.
        found: the graph's results for the image, (D, ...) each.
        x: the image's input, see :meth:`ExportedModel.forward`.
        size: (height, width) of the image in the network's frame.
    """
    keep = found["valid"].nonzero()[:, 0]
    instances = Instances(size)
    instances.pred_boxes = Boxes(found["boxes"][keep].float())
    instances.scores = found["scores"][keep].float()
    instances.pred_classes = found["classes"][keep].long()
    instances.places = keep
    if "masks" in found:
        instances.pred_masks = found["masks"][keep, None].float()
    height, width = (x.get(name, given) for name, given in zip(("height", "width"), x["image"].shape[1:]))
    result = {"instances": detector_postprocess(instances, height, width)}
    complete(cfg, stride, result, found, size)
    result["instances"].remove("places")
    return result
