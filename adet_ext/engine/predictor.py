"""Prediction on images as they come from a file or a camera, with any model a config describes."""

import logging
from collections.abc import Sequence
from typing import Any, overload

import numpy as np
import torch
from torch import nn

from ..d2.config import CfgNode
from ..d2.modeling import build_model
from ..errors import UserError

__all__ = ["Predictor", "confident", "on_cpu"]

logger = logging.getLogger(__name__)


def on_cpu(outputs: dict[str, Any]) -> dict[str, Any]:
    """The outputs for one image, with every tensor on the CPU."""
    moved = {key: value.to("cpu") if hasattr(value, "to") else value for key, value in outputs.items()}
    if "panoptic_seg" in outputs:
        panoptic_seg, segments_info = outputs["panoptic_seg"]
        moved["panoptic_seg"] = (panoptic_seg.cpu(), segments_info)
    return moved


def confident(outputs: dict[str, Any], threshold: float) -> dict[str, Any]:
    """The outputs for one image with the instances whose score is at least ``threshold``."""
    if "instances" not in outputs:
        return outputs
    instances = outputs["instances"]
    return {**outputs, "instances": instances[instances.scores >= threshold]}


class Predictor:
    """A model ready to predict: weights loaded, in evaluation mode, images resized as ``INPUT`` of its config says.

    Example::

        predictor = Predictor(load_config("BlendMask/R_50_1x.yaml", ["MODEL.WEIGHTS", "model.pth"]))
        outputs = predictor(cv2.imread("street.jpg"))          # {"instances": Instances}
        several = predictor([first, second])                   # a list of such dicts; one pass through the net

    Args:
        cfg: the config; it is copied. ``MODEL.DEVICE: cuda`` falls back to the CPU, with a warning, where there
            is no GPU.
        model: an already built and loaded model; its device is kept. By default ``cfg`` is built and
            ``cfg.MODEL.WEIGHTS`` loaded.
    """

    def __init__(self, cfg: CfgNode, model: nn.Module | None = None):
        self.cfg = cfg = cfg.clone()
        if cfg.INPUT.FORMAT not in ("BGR", "RGB"):
            raise UserError(f"INPUT.FORMAT is {cfg.INPUT.FORMAT!r}; images can be fed as BGR or RGB")
        if model is None:
            if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
                logger.warning("MODEL.DEVICE is %s, but there is no GPU; predicting on the CPU", cfg.MODEL.DEVICE)
                cfg.defrost()
                cfg.MODEL.DEVICE = "cpu"
            model = build_model(cfg)
            self._load(model, cfg.MODEL.WEIGHTS)
        self.model = model.eval()
        self.min_size, self.max_size = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST

    @staticmethod
    def _load(model: nn.Module, weights: str) -> None:
        from .checkpoint import AdetCheckpointer

        if not weights:
            logger.warning("MODEL.WEIGHTS is empty: the model predicts with random weights")
        AdetCheckpointer(model).load(weights)

    @overload
    def __call__(self, images: np.ndarray) -> dict[str, Any]: ...

    @overload
    def __call__(self, images: Sequence[np.ndarray]) -> list[dict[str, Any]]: ...

    def __call__(self, images):
        """Return Detectron2's outputs for one image (a dict) or for several (a list of dicts, in their order).

        Images are BGR uint8 [H, W, 3], of any sizes; boxes and masks come back in the pixels of the image given.

        Raises:
            UserError: something is not such an image.
        """
        if isinstance(images, np.ndarray) and images.ndim <= 3:
            return self._predict([images])[0]
        return self._predict(list(images)) if len(images) else []

    def _predict(self, images: list[np.ndarray]) -> list[dict[str, Any]]:
        return self._run([self.prepare(image) for image in images])

    def _run(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        training = self.model.training  # the model may be one that its owner goes on training
        self.model.eval()
        try:
            with torch.inference_mode():
                return self.model(inputs)
        finally:
            self.model.train(training)

    def prepare(self, image: np.ndarray) -> dict[str, Any]:
        """Return the model's input for one BGR uint8 [H, W, 3] image: ``image`` (float32 [3, h, w]), its size."""
        if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            got = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
            raise UserError(f"an image has to be a uint8 array [height, width, 3] in BGR order; got {got}")
        height, width = image.shape[:2]
        if not height or not width:
            raise UserError(f"an image without pixels: {height} x {width}")
        return self._input(self.resize(image), height, width)

    def as_it_is(self, image: np.ndarray) -> dict[str, Any]:
        """Predict on one BGR uint8 image that has been resized already."""
        return self._run([self._input(image, *image.shape[:2])])[0]

    def _input(self, resized: np.ndarray, height: int, width: int) -> dict[str, Any]:
        if self.cfg.INPUT.FORMAT == "RGB":
            resized = resized[:, :, ::-1]
        tensor = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1), dtype=np.float32))
        return {"image": tensor, "height": height, "width": width}

    def resize(self, image: np.ndarray) -> np.ndarray:
        """The image at the size at which the network sees it."""
        from ..d2.data import transforms as T

        if not self.min_size:  # Detectron2's way of saying: leave the size alone
            return image
        augmentation = T.ResizeShortestEdge([self.min_size, self.min_size], self.max_size)
        return augmentation.get_transform(image).apply_image(image)
