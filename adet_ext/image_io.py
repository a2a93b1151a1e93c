"""Reading and writing image files, with sentences for what can go wrong. Images are uint8 [H, W, 3] in BGR order."""

import cv2
import numpy as np

from .errors import UserError
from .files import written_beside

__all__ = ["read_image", "write_image"]


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
