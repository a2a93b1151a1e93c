"""Prediction on images as they come from a file or a camera, with any model a config describes."""

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, overload

import numpy as np
import torch
from torch import nn

from ..d2.config import CfgNode
from ..d2.modeling import build_model
from ..errors import UserError

__all__ = ["Predictor", "check_image", "confident", "on_cpu"]

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


# Models that threads predict with now: how many threads, and the modules that were in training mode before.
_predicting: dict[int, tuple[int, list[nn.Module]]] = {}
_predicting_lock = threading.Lock()


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put ``model`` in evaluation mode; the last of several threads to leave restores the modes from before."""
    key = id(model)
    with _predicting_lock:
        count, training = _predicting.get(key, (0, []))
        if not count:
            training = [module for module in model.modules() if module.training]
            if training:
                model.eval()
        _predicting[key] = count + 1, training
    try:
        yield
    finally:
        with _predicting_lock:
            count, training = _predicting.pop(key)
            if count > 1:
                _predicting[key] = count - 1, training
            else:
                for module in training:
                    module.training = True


class Predictor:
    """A model ready to predict: weights loaded, in evaluation mode, images resized as ``INPUT`` of its config says.

    Example::

        predictor = Predictor(load_config("BlendMask/R_50_1x.yaml", ["MODEL.WEIGHTS", "model.pth"]))
        outputs = predictor(cv2.imread("street.jpg"))          # {"instances": Instances}
        several = predictor([first, second])                   # a list of such dicts; one pass through the net

    Several threads may call one predictor: a call keeps nothing on the model.

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
        # The names of the classes in the file of the weights; None where it has none.
        self.classes: list[str] | None = None
        if model is None:
            if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
                logger.warning("MODEL.DEVICE is %s, but there is no GPU; predicting on the CPU", cfg.MODEL.DEVICE)
                cfg.defrost()
                cfg.MODEL.DEVICE = "cpu"
            model = build_model(cfg)
            self.classes = self._load(model, cfg.MODEL.WEIGHTS)
        self.model = model.eval()
        self.min_size, self.max_size = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST

    @staticmethod
    def _load(model: nn.Module, weights: str) -> list[str] | None:
        from .checkpoint import AdetCheckpointer

        if not weights:
            logger.warning("MODEL.WEIGHTS is empty: the model predicts with random weights")
            return None
        checkpointer = AdetCheckpointer(model)
        checkpointer.load_to_predict(weights)
        return checkpointer.loaded_classes

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
        if isinstance(images, (list, tuple)):
            return self._predict(images) if len(images) else []
        if isinstance(images, np.ndarray) and images.ndim == 4:
            return self._predict(list(images)) if len(images) else []
        return self._predict([images])[0]

    def _predict(self, images: Sequence[np.ndarray]) -> list[dict[str, Any]]:
        return self._run([self.prepare(image) for image in images])

    def _run(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        with self.inference():
            return self.model(inputs)

    @contextmanager
    def inference(self) -> Iterator[None]:
        """The model in evaluation mode, without gradients; several threads may be in it."""
        with _evaluation_mode(self.model), torch.inference_mode():
            yield

    def prepare(self, image: np.ndarray) -> dict[str, Any]:
        """Return the model's input for one BGR uint8 [H, W, 3] image: ``image`` (float32 [3, h, w]), its size."""
        check_image(image)
        return self._input(self.resize(image), *image.shape[:2])

    def as_it_is(self, image: np.ndarray) -> dict[str, Any]:
        """Predict on one BGR uint8 image that has been resized already."""
        check_image(image)
        return self._run([self._input(image, *image.shape[:2])])[0]

    def _input(self, resized: np.ndarray, height: int, width: int) -> dict[str, Any]:
        if self.cfg.INPUT.FORMAT == "RGB":
            resized = resized[:, :, ::-1]
        tensor = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1), dtype=np.float32))
        return {"image": tensor, "height": height, "width": width}

    def resize(self, image: np.ndarray) -> np.ndarray:
        """Return the image at the size that the network sees."""
        from ..d2.data import transforms as T

        if not self.min_size:  # Detectron2's value for "keep the size"
            return image
        height, width = image.shape[:2]
        size = T.ResizeShortestEdge.get_output_shape(height, width, self.min_size, self.max_size)
        # The short side of a very long image would be rounded to 0.
        return T.ResizeTransform(height, width, *(max(side, 1) for side in size)).apply_image(image)


def check_image(image: Any) -> None:
    """Raise UserError unless ``image`` is a BGR uint8 array [H, W, 3] with pixels."""
    if not isinstance(image, np.ndarray):
        got = "None, as cv2.imread returns for a missing file" if image is None else type(image).__name__
        advice = "Read it with adet_ext.utils.image_io.read_image or cv2.imread"
    elif image.dtype != np.uint8:
        got, advice = f"{image.dtype} {list(image.shape)}", "Scale it to 0 to 255 and call astype(numpy.uint8)"
    elif image.ndim != 3 or image.shape[2] != 3:
        got = f"uint8 {list(image.shape)}"
        advice = "Convert gray images with cv2.COLOR_GRAY2BGR and images with alpha with cv2.COLOR_BGRA2BGR"
    elif not image.size:
        got, advice = f"an image without pixels, {image.shape[0]} x {image.shape[1]}", "Leave it out"
    else:
        return
    raise UserError(f"an image must be a uint8 array [height, width, 3] in BGR order; got {got}. {advice}.")
