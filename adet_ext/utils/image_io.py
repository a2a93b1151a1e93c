"""Reading and writing image files, with sentences for what can go wrong. Images are uint8 [H, W, 3] in BGR order."""

import cv2
import numpy as np
from PIL import Image, ImageOps

from ..d2.data import detection_utils
from ..d2.utils import PathManager
from ..errors import UserError
from .files import written_beside

__all__ = ["read_as", "read_image", "write_image"]


def read_as(path: str, image_format: str) -> np.ndarray:
    """Detectron2's ``read_image``, with the upper 8 bits of grey images that have 16, as :func:`read_image` has them.

    Detectron2 would show everything from 256 on as white.

    Args:
        image_format: "BGR", "RGB" or, of Pillow's modes, another one with three channels.

    Returns:
        uint8 [H, W, 3], upright.

    Raises:
        ValueError: the pixels are floats, or whole numbers of more than 16 bits.
        Exception: whatever Pillow raises for broken files.
    """
    if path.lower().endswith((".png", ".tif", ".tiff")):  # the others have no such images
        with PathManager.open(path, "rb") as file, Image.open(file) as image:
            if image.mode[0] in "IF":
                return _eight_bits(image)
    return detection_utils.read_image(path, format=image_format)


def _eight_bits(image: Image.Image) -> np.ndarray:
    deep = np.asarray(ImageOps.exif_transpose(image))
    if deep.dtype.kind == "f" or deep.size and not 0 <= int(deep.min()) <= int(deep.max()) < 1 << 16:
        raise ValueError(f"its pixels are {deep.dtype} numbers of unknown range; save it with 8 or 16 bits a pixel")
    return np.repeat((deep >> 8).astype(np.uint8)[:, :, None], 3, axis=2)


def read_image(path: str) -> np.ndarray:
    """Return the image at ``path`` as BGR uint8 [H, W, 3], turned upright as its EXIF data says.

    Raises:
        UserError: the file is missing, cannot be opened, or is no complete image.
    """
    try:
        data = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    if image is None:
        reason = "the file is empty" if not len(data) else "it is not an image, or it is cut off"
        raise UserError(f"{path}: cannot be read: {reason}")
    return image


def write_image(path: str, image: np.ndarray) -> None:
    """Write a BGR uint8 [H, W, 3] image in the format of the suffix, beside ``path``, and rename.

    Raises:
        UserError: it cannot be written; what was at ``path`` is still there.
    """
    with written_beside(path) as beside:
        try:
            written = cv2.imwrite(beside, np.ascontiguousarray(image))
        except cv2.error as error:  # an unknown suffix
            raise UserError(f"{path}: cannot be written: no image format has this suffix") from error
        if not written:
            raise OSError("the folder does not exist or cannot be written to, or the disk is full")
