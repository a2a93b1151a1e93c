"""Read and write image files, with one sentence for each error. Images are uint8 [H, W, 3] in BGR order."""

import logging
import os
import re

import numpy as np
from PIL import ExifTags, Image

from ..d2.data import detection_utils
from ..d2.utils import PathManager
from ..errors import UserError
from .files import written_beside

__all__ = ["IMAGE_SUFFIXES", "read_as", "read_image", "read_labels", "sort_frames", "write_image"]

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")

_warned: list[str] = []  # the first file of 16 bits with values of 8 bits

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_as(path: str, image_format: str) -> np.ndarray:
    """Return an image as Detectron2's ``read_image`` does, but with gray images of 16 bits reduced to 8.

    Detectron2 reads all values from 256 on as white. Here the upper 8 bits are taken. If no value reaches 256, the file
    holds 8-bit values, and they are taken as they are; a warning names the first such file.

    Args:
        image_format: "BGR", "RGB" or another of Pillow's modes with three channels.

    Returns:
        uint8 [H, W, 3], upright.

    Raises:
        ValueError: the pixels are floats, or whole numbers of more than 16 bits.
        Exception: whatever Pillow raises for broken files.
    """
    try:
        with PathManager.open(path, "rb") as file, Image.open(file) as image:  # reads the header only
            if image.mode[0] in "IF":
                return _eight_bits(image, path)
            if image.format == "TIFF" and image_format in ("BGR", "RGB"):  # Detectron2 would turn it twice
                colors = np.asarray(_upright(image).convert("RGB"))
                return colors if image_format == "RGB" else colors[:, :, ::-1]
        return detection_utils.read_image(path, format=image_format)
    except Exception as error:
        if not isinstance(error.__cause__ or error, Image.DecompressionBombError):
            raise
    # Pillow refuses more than 179 megapixels; OpenCV takes six times as many.
    image = _read_huge(path)
    return image if image_format == "BGR" else np.ascontiguousarray(image[:, :, ::-1])


def read_image(path: str) -> np.ndarray:
    """Return the image at ``path`` as training reads it: BGR uint8 [H, W, 3], upright.

    Raises:
        UserError: the file is missing, cannot be opened, or is not a complete image.
    """
    try:
        if os.path.isfile(path) and not os.path.getsize(path):
            raise ValueError("the file is empty")
        return np.ascontiguousarray(read_as(path, "BGR"))
    except UserError:
        raise
    # For broken files Pillow raises SyntaxError, struct errors and more; for cut ones OSError.
    except Exception as error:
        raise UserError(f"{path}: cannot be read: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, MemoryError):
        return "it does not fit in memory; make it smaller"
    if type(error) is ValueError and str(error).startswith(("its pixels", "the file is empty")):
        return str(error)
    return "it is not an image, or it is cut off"


def read_labels(path: str) -> np.ndarray:
    """Return the class numbers of a label map, (H, W), upright. A palette is ignored.

    Raises:
        ValueError: the pixels are colors, negative, larger than 16 bits, or numbers with a fraction.
        Exception: whatever Pillow raises for broken files.
    """
    with PathManager.open(path, "rb") as file, Image.open(file) as image:
        labels = np.asarray(_upright(image))
        mode = image.mode
    if labels.ndim == 3:
        colors = labels[:, :, : 1 if mode == "LA" else 3]
        if mode not in ("LA", "RGB", "RGBA") or (colors != colors[:, :, :1]).any():
            raise ValueError(f"its pixels are colors ({mode}), not class numbers; save one number a pixel")
        labels = colors[:, :, 0]
    if labels.dtype.kind == "f":
        raise ValueError(f"its pixels are {labels.dtype} numbers, not class numbers; save whole numbers")
    if not _fits_16_bits(labels):
        raise ValueError("its class numbers must be from 0 to 65535; save it with 8 or 16 bits a pixel")
    # Augmentations support 8 bits, or floats, which represent all whole numbers of 16 bits.
    return labels.astype(np.uint8) if labels.size == 0 or labels.max() < 256 else labels.astype(np.float32)


def _eight_bits(image: Image.Image, path: str) -> np.ndarray:
    deep = np.asarray(_upright(image))
    if deep.dtype.kind == "f" or not _fits_16_bits(deep):
        raise ValueError(f"its pixels are {deep.dtype} numbers of unknown range; save it with 8 or 16 bits a pixel")
    if deep.size and 0 < deep.max() < 256:
        if not _warned:
            _warned.append(path)
            logger.warning(
                "%s has 16 bits a pixel but no value above 255; such images are read as if they had 8 bits", path
            )
    else:
        deep = deep >> 8
    return np.repeat(deep.astype(np.uint8)[:, :, None], 3, axis=2)


def _fits_16_bits(numbers: np.ndarray) -> bool:
    return not numbers.size or 0 <= int(numbers.min()) <= int(numbers.max()) < 1 << 16


def _upright(image: Image.Image) -> Image.Image:
    """Rotate or flip ``image`` as its EXIF data says. Broken EXIF data is ignored, as in Detectron2."""
    image.load()  # this also rotates a TIFF and removes the orientation from its EXIF data
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # damaged bytes make Pillow raise errors of any type
        turn = None
    return image if turn is None else image.transpose(turn)


def _read_huge(path: str) -> np.ndarray:
    import cv2

    try:
        image = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        reason = "it is not an image, or it is cut off"
        if "CV_IO_MAX_IMAGE" in str(error):
            reason = "it declares more than 2**30 pixels or 2**20 a side; it is broken, or must be cut or made smaller"
        raise UserError(f"{path}: cannot be read: {reason}") from error
    if image is None:
        raise UserError(f"{path}: cannot be read: it is not an image, or it is cut off")
    return image


def write_image(path: str, image: np.ndarray) -> None:
    """Write a BGR uint8 [H, W, 3] image in the format of the suffix, beside ``path``, and rename.

    Raises:
        UserError: it cannot be written. The old file is still at ``path``.
    """
    import cv2

    with written_beside(path) as beside:
        try:
            written = cv2.imwrite(beside, np.ascontiguousarray(image))
        except cv2.error as error:  # an unknown suffix
            raise UserError(f"{path}: cannot be written: no image format has this suffix") from error
        if not written:
            raise OSError("the folder does not exist or cannot be written to, or the disk is full")


def sort_frames(names: list[str]) -> list[str]:
    """Return file names by the numbers in them, so that 9.png comes before 10.png."""
    return sorted(names, key=lambda name: [(int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", name)])
