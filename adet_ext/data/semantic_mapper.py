"""Map dicts of semantic data sets, clips or single images, to a model's input.

T: frames of a clip; H, W: height and width before the augmentations; H', W' after them; C: classes.
"""

import logging
import os

import numpy as np
import torch

from ..d2.config import CfgNode, configurable
from ..errors import UserError
from ..utils.image_io import read_as, read_labels
from .mapper import read_with_reason
from .scene_augmentation import SceneAugmentation, resize_frames, with_longer_side
from .semantic_sets import IGNORE

__all__ = ["SemanticMapper", "read_classes_map"]

logger = logging.getLogger(__name__)


class SemanticMapper:
    """Read frames and their label maps, augment all frames of a clip alike, and make tensors of them.

    A clip gives a dict with

    - ``frames``: uint8 [T, 3, H', W'], in ``image_format``;
    - ``sem_segs``: int64 [T, H', W'] in training, [T, H, W] in evaluation; 255 is no class, and all of a frame without
      labels;
    - ``file_names``: list of T; ``file_name``: the last of them; ``sequence``; ``scored``: bool [T], the frames that
      evaluation counts;
    - ``height``, ``width``: H and W.

    A single image gives Detectron2's dict: ``image`` uint8 [3, H', W'], ``sem_seg`` int64 [H', W'] or [H, W],
    ``file_name``, ``image_id``, ``height``, ``width``.

    Args:
        is_train: whether to augment.
        augmentation: in evaluation only its ``longer_side`` is used.
        image_format: "BGR" or "RGB".
        num_classes: C; label maps with other numbers than 0 to C - 1 and ``ignore_label`` are refused.
    """

    @configurable
    def __init__(
        self, is_train: bool = True, *, augmentation: SceneAugmentation, image_format: str = "BGR", num_classes: int
    ):
        self.is_train = is_train
        self.augmentation = augmentation
        self.image_format = image_format
        self.num_classes = num_classes
        logger.info("Augmentations in %s: %s", "training" if is_train else "inference", augmentation)

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict:
        return {
            "is_train": is_train,
            "augmentation": SceneAugmentation.from_config(cfg),
            "image_format": cfg.INPUT.FORMAT,
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
        }

    def __call__(self, record: dict) -> dict:
        """Return a new dict.

        Args:
            record: of :func:`~.clips.training_clips` or :func:`~.clips.test_clips`, or of a single image.

        Raises:
            UserError: a file is missing, broken, or of another size than the other frames; naming it.
        """
        is_clip = "file_names" in record
        files = record["file_names"] if is_clip else [record["file_name"]]
        label_files = record["sem_seg_file_names"] if is_clip else [record["sem_seg_file_name"]]
        frames = [read_with_reason(path, lambda p: read_as(p, self.image_format), path) for path in files]
        height, width = frames[0].shape[:2]
        for path, frame in zip(files, frames):
            if frame.shape[:2] != (height, width):
                raise UserError(
                    f"{path}: the frame is {frame.shape[1]} x {frame.shape[0]} pixels, {files[0]} of the same sequence "
                    f"{width} x {height}; frames of a sequence must be of one size"
                )
        labels = [self._labels(path, (height, width), record) for path in label_files]
        if self.is_train:
            frames, labels = self.augmentation(frames, labels)
        elif self.augmentation.longer_side:
            frames = resize_frames(frames, with_longer_side((height, width), self.augmentation.longer_side))
        images = torch.from_numpy(np.stack([x.transpose(2, 0, 1) for x in frames]))  # T, 3, H', W'
        classes = torch.from_numpy(np.stack(labels).astype(np.int64))  # T, H', W'
        common = {"file_name": files[-1], "height": height, "width": width}
        if not is_clip:
            return {**common, "image_id": record.get("image_id"), "image": images[0], "sem_seg": classes[0]}
        scored = record.get("scored", [True] * len(files))
        sequence = record.get("sequence", os.path.dirname(files[0]))
        return {
            **common, "file_names": list(files), "sequence": sequence, "scored": list(scored),
            "frames": images, "sem_segs": classes,
        }  # fmt: skip

    def _labels(self, path: str | None, size: tuple[int, int], record: dict) -> np.ndarray:
        if path is None:
            return np.full(size, IGNORE, np.uint8)
        labels = read_classes_map(path, self.num_classes, record.get("ignore_label", IGNORE))
        if labels.shape != size:
            raise UserError(
                f"{path}: the labels are {labels.shape[1]} x {labels.shape[0]} pixels, their image {size[1]} x "
                f"{size[0]}; make them again"
            )
        return labels


def read_classes_map(path: str, num_classes: int, ignore_label: int = IGNORE) -> np.ndarray:
    """Return a label map, uint8 (H, W): classes 0 to C - 1, and 255 for no class.

    Args:
        ignore_label: the file's own number for no class.

    Raises:
        UserError: the file is missing, broken, or has other numbers.
    """
    labels = read_with_reason(path, read_labels, path)
    void = labels == ignore_label
    wrong = (labels >= num_classes) & ~void
    if wrong.any():
        raise UserError(
            f"{path}: a pixel has class {int(labels[wrong][0])}, but there are {num_classes} classes, from 0 on, and "
            f"{ignore_label} for none; correct the labels, or MODEL.SEM_SEG_HEAD.NUM_CLASSES"
        )
    labels = labels.astype(np.uint8)
    labels[void] = IGNORE
    return labels
