"""What models are measured on: pictures, or noise.

H x W the network's input.
"""

from collections.abc import Sequence

import torch

from ..errors import UserError

__all__ = ["make_inputs"]


def make_inputs(paths: Sequence[str], height: int, width: int, batch: int = 1, seed: int = 0) -> list[dict]:
    """Return inputs of Detectron2's models, of H x W: the pictures at ``paths``, or ``batch`` images of noise."""
    return _read(paths, height, width) or _noise(batch, height, width, seed)


def _noise(batch: int, height: int, width: int, seed: int) -> list[dict]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (batch, 3, height, width), generator=generator, dtype=torch.uint8)
    return [{"image": image, "height": height, "width": width} for image in images]


def _read(paths: Sequence[str], height: int, width: int) -> list[dict]:
    """Read images in BGR, resized to ``height`` x ``width``; results are asked for at their own size."""
    import cv2

    inputs = []
    for path in paths:
        image = cv2.imread(path)
        if image is None:
            raise UserError(f"{path} must be an image; got something that cannot be read")
        resized = torch.from_numpy(cv2.resize(image, (width, height))).permute(2, 0, 1).contiguous()  # (3, H, W)
        inputs.append({"image": resized, "height": image.shape[0], "width": image.shape[1]})
    return inputs
