"""What the layouts of small public data sets share: JPEG of quality 95 without color subsampling, and run lengths."""

import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from PIL import Image

from ..errors import UserError, one_line
from ..utils.files import written_beside

__all__ = ["VALIDATION_STEP", "copy_as_jpeg", "required", "run_lengths"]

VALIDATION_STEP = 5  # where a set has no split, every fifth image of the sorted names validates


def required(folder: str, names: Iterable[str], archive: str) -> None:
    """Refuse a folder that lacks one of the files or folders ``names``.

    Raises:
        UserError: naming the first that is missing and the archive that has it.
    """
    for name in names:
        if not os.path.exists(os.path.join(folder, name)):
            raise UserError(f"{os.path.join(folder, name)} is missing; {folder} must be {archive}")


def copy_as_jpeg(source: str, target: str) -> tuple[int, int]:
    """Write the image ``source`` as the JPEG file ``target`` unless that is there; return its width and height.

    Raises:
        UserError: the source is no image, or the target cannot be written.
    """
    try:
        with Image.open(source) as image:
            if not os.path.isfile(target):
                with written_beside(target) as beside:
                    image.convert("RGB").save(beside, "JPEG", quality=95, subsampling=0)
            return image.size
    except UserError:
        raise
    except Exception as error:  # Pillow raises errors of many types for broken files
        raise UserError(f"{source} is not an image, or only a part of one ({one_line(error)}); replace it") from error


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """Return a mask (H, W) as COCO's compressed run lengths, for JSON."""
    code = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": code["counts"].decode("ascii")}
