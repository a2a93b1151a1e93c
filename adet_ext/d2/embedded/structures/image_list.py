"""A batch of images of different sizes in one padded tensor.

N images, H and W the padded height and width.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class ImageList:
    """``tensor`` (N, ..., H, W) and ``image_sizes``, the (height, width) of each image before padding.

    Images are in the upper left corner. Indexing gives one image without its padding.
    """

    def __init__(self, tensor: Tensor, image_sizes: list[tuple[int, int]]):
        self.tensor = tensor
        self.image_sizes = image_sizes

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __getitem__(self, idx: int | slice) -> Tensor:
        height, width = self.image_sizes[idx]
        return self.tensor[idx, ..., :height, :width]

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def to(self, *args: Any, **kwargs: Any) -> "ImageList":
        return ImageList(self.tensor.to(*args, **kwargs), self.image_sizes)

    @staticmethod
    def from_tensors(tensors: Sequence[Tensor], size_divisibility: int = 0, pad_value: float = 0.0) -> "ImageList":
        """Pad images (..., Hi, Wi), equal but for their last two sizes, to the largest height and width.

        Height and width are rounded up to a multiple of ``size_divisibility``.
        """
        if len(tensors) == 0:
            raise AssertionError("an image list needs at least one image")
        for image in tensors:
            if image.shape[:-2] != tensors[0].shape[:-2]:
                raise AssertionError(f"images differ: {tuple(image.shape)} and {tuple(tensors[0].shape)}")
        sizes = [(image.shape[-2], image.shape[-1]) for image in tensors]
        height, width = (max(lengths) for lengths in zip(*sizes, strict=True))
        if size_divisibility > 1:
            height, width = (-(-length // size_divisibility) * size_divisibility for length in (height, width))
        if len(tensors) == 1:
            padding = (0, width - sizes[0][1], 0, height - sizes[0][0])
            batch = F.pad(tensors[0], padding, value=pad_value)[None]
        else:
            batch = tensors[0].new_full((len(tensors), *tensors[0].shape[:-2], height, width), pad_value)
            for padded, image, (h, w) in zip(batch, tensors, sizes, strict=True):
                padded[..., :h, :w].copy_(image)
        return ImageList(batch.contiguous(), sizes)
