"""The images of a search's proxy task (thesis 7.4.1): resized, cropped once, split into meta-train and meta-val.

The crop is drawn once per image, from the seed and the image's number, because features are computed once.
"""

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..d2.config import CfgNode
from ..d2.data import transforms as T
from ..errors import UserError
from .augmentation import RandomCropWithInstance
from .loader import dataset_dicts
from .mapper import AdetDatasetMapper

__all__ = ["ProxyImages", "Split", "feature_settings", "image_files", "split"]


class ProxyImages:
    """Crops of SIZE x SIZE pixels with their boxes, and with masks where they are asked for.

    Args:
        cfg: DATASETS.TRAIN and INPUT as for training.
        key: of the search's node, whose SIZE and IMAGES are used; 0 images are all.
        seed: of the crops.
        masks: give the instances gt_masks, with boxes around what the crop leaves of them; a crop has an object, then.

    Raises:
        UserError: a data set is missing, wrong or empty, or has fewer images than IMAGES asks for.
    """

    def __init__(self, cfg: CfgNode, key: str, seed: int, *, masks: bool = False):
        node = cfg
        for part in key.split("."):
            node = node[part]
        self.seed, self.size = seed, node.SIZE
        self.dicts = dataset_dicts(cfg.DATASETS.TRAIN, "DATASETS.TRAIN", filter_empty=True)
        if node.IMAGES > len(self.dicts):
            raise UserError(
                f"{key}.IMAGES must be at most {len(self.dicts)}, the images with objects of "
                f"{', '.join(cfg.DATASETS.TRAIN)}; got {node.IMAGES}. Lower it"
            )
        if node.IMAGES:
            chosen = sorted(random.Random(seed).sample(range(len(self.dicts)), node.IMAGES))
            self.dicts = [self.dicts[i] for i in chosen]
        size = (self.size, self.size)
        crop = (RandomCropWithInstance if masks else T.RandomCrop)("absolute", size)
        augmentations = [T.ResizeShortestEdge(self.size, 10**6), crop]
        self._map = AdetDatasetMapper(
            is_train=True,
            augmentations=augmentations,
            image_format=cfg.INPUT.FORMAT,
            use_instance_mask=masks,
            instance_mask_format=cfg.INPUT.MASK_FORMAT,
            recompute_boxes=masks,
        )

    def __len__(self) -> int:
        return len(self.dicts)

    def __getitem__(self, number: int) -> dict:
        """Return ``image`` (3, SIZE, SIZE), uint8, and ``instances`` with gt_boxes and gt_classes."""
        state = np.random.get_state()
        np.random.seed(np.random.SeedSequence([self.seed, number]).generate_state(1))
        try:
            return self._map(self.dicts[number])
        finally:
            np.random.set_state(state)


class Split(NamedTuple):
    """Numbers of images."""

    train: list[int]
    val: list[int]


def split(count: int, val_fraction: float, seed: int) -> Split:
    """Return a random split of ``count`` images into meta-train and meta-val, each with at least one.

    Raises:
        UserError: there are fewer than two images.
    """
    if count < 2:
        raise UserError(f"a proxy must have two images or more, to train and to validate; got {count}. Add images")
    numbers = list(range(count))
    random.Random(f"split {seed}").shuffle(numbers)
    val = min(max(1, round(val_fraction * count)), count - 1)
    return Split(sorted(numbers[val:]), sorted(numbers[:val]))


def image_files(images: ProxyImages) -> list[str]:
    """Return the paths of the images, for a fingerprint."""
    return [record["file_name"] for record in images.dicts]


def feature_settings(images: ProxyImages, cfg: CfgNode, names: Sequence[str]) -> dict[str, Any]:
    """Return what the features ``names`` of the images depend on besides files and weights, for a fingerprint."""
    return {
        "size": images.size,
        "seed": images.seed,
        "features": list(names),
        "format": cfg.INPUT.FORMAT,
        "mean": list(cfg.MODEL.PIXEL_MEAN),
        "std": list(cfg.MODEL.PIXEL_STD),
        "model": cfg.MODEL.BACKBONE.NAME,
    }
