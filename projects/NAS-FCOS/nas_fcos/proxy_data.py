"""The images of the proxy task (thesis 7.4.1): resized, cropped once, split into meta-train and meta-val.

The crop is drawn once per image, from the seed and the image's number, because features are computed once.
"""

import random
from typing import NamedTuple

import numpy as np

from adet_ext.d2.config import CfgNode
from adet_ext.d2.data import transforms as T
from adet_ext.data.loader import dataset_dicts
from adet_ext.data.mapper import AdetDatasetMapper
from adet_ext.errors import UserError

__all__ = ["ProxyImages", "Split", "image_files", "split"]


class ProxyImages:
    """Crops of SIZE x SIZE pixels with their boxes.

    Args:
        cfg: DATASETS.TRAIN and INPUT as for training; MODEL.NAS_FCOS.SEARCH.SIZE and IMAGES.
        seed: of the crops.

    Raises:
        UserError: a data set is missing, wrong or empty, or has fewer images than SEARCH.IMAGES asks for.
    """

    def __init__(self, cfg: CfgNode, seed: int):
        node = cfg.MODEL.NAS_FCOS.SEARCH
        self.seed, self.size = seed, node.SIZE
        self.dicts = dataset_dicts(cfg.DATASETS.TRAIN, "DATASETS.TRAIN", filter_empty=True)
        if node.IMAGES > len(self.dicts):
            raise UserError(
                f"MODEL.NAS_FCOS.SEARCH.IMAGES must be at most {len(self.dicts)}, the images with objects of "
                f"{', '.join(cfg.DATASETS.TRAIN)}; got {node.IMAGES}. Lower it"
            )
        if node.IMAGES:
            chosen = sorted(random.Random(seed).sample(range(len(self.dicts)), node.IMAGES))
            self.dicts = [self.dicts[i] for i in chosen]
        size = (self.size, self.size)
        augmentations = [T.ResizeShortestEdge(self.size, 10**6), T.RandomCrop("absolute", size)]
        self._map = AdetDatasetMapper(is_train=True, augmentations=augmentations, image_format=cfg.INPUT.FORMAT)

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
