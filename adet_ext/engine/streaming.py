"""Prediction on the frames of a video, one after the other."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from ..data.scene_augmentation import resize_frames, with_longer_side
from .predictor import Predictor, check_image

__all__ = ["FramePredictor", "predict_apart", "predicted_classes"]


class FramePredictor:
    """Predict frame by frame; a model that has ``step`` gets its state from the frame before.

    ``model.step(image, state)`` takes a uint8 (3, h, w) image in ``INPUT.FORMAT`` and the state that it gave for the
    frame before, None for the first, and returns float scores (C, h', w') and the new state. Other models see each
    frame alone. One state is kept, so memory does not grow with the video.

    Args:
        static: give every frame to ``step`` as a first one.
    """

    def __init__(self, predictor: Predictor, *, static: bool = False):
        self.predictor, self.static = predictor, static
        self._state: Any = None
        self._size: tuple[int, int] | None = None

    @property
    def has_state(self) -> bool:
        return hasattr(self.predictor.model, "step")

    def __call__(self, frame: np.ndarray) -> dict[str, Any]:
        """Return Detectron2's outputs for the next frame; of a model with ``step`` {"sem_seg": (C, H, W) scores}.

        A frame of another size than the one before starts anew.

        Args:
            frame: BGR uint8 (H, W, 3).

        Raises:
            UserError: it is no such image.
        """
        if not self.has_state:
            return self.predictor(frame)
        check_image(frame)
        size = frame.shape[:2]
        if self.static or size != self._size:
            self._state, self._size = None, size
        cfg = self.predictor.cfg
        (image,) = resize_frames([frame], with_longer_side(size, cfg.INPUT.SEMANTIC.LONGER_SIDE))
        if cfg.INPUT.FORMAT == "RGB":
            image = image[:, :, ::-1]
        image = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))  # 3, h, w
        with self.predictor.inference():
            scores, self._state = self.predictor.model.step(image, self._state)
            if scores.shape[-2:] != size:
                scores = F.interpolate(scores[None], size, mode="bilinear", align_corners=False)[0]
        return {"sem_seg": scores}


def predict_apart(predictor: Predictor, images: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    """Return the outputs for BGR uint8 images that are no frames of one video, also of a model with ``step``."""
    if hasattr(predictor.model, "step"):
        return [FramePredictor(predictor, static=True)(image) for image in images]
    return predictor(images)


def predicted_classes(outputs: dict[str, Any]) -> np.ndarray | None:
    """Return the classes of a purely semantic output, uint8 (H, W); None for instances and panoptic outputs."""
    if "instances" in outputs or "panoptic_seg" in outputs or "sem_seg" not in outputs:
        return None
    return outputs["sem_seg"].argmax(dim=0).to(torch.uint8).cpu().numpy()
