"""Fuzz image files: the demo and training read the same pixels from a file, or both refuse it in one sentence.

``python -m tests.fuzz.fuzz_images 5000`` prints how many files came to which end. A sample is its seed.
"""

import collections
import functools
import io
import os
import random
import struct
import sys
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageOps

from adet_ext.data.mapper import AdetDatasetMapper
from adet_ext.errors import UserError, one_line
from adet_ext.utils.image_io import read_as, read_image, read_labels

from .harness import main, quiet_folder, run_samples

MODES = {
    "PNG": ("RGB", "L", "P", "1", "LA", "RGBA", "I;16"),
    "JPEG": ("RGB", "L", "CMYK"),
    "TIFF": ("RGB", "L", "P", "1", "LA", "RGBA", "I;16", "I", "F", "CMYK"),
    "BMP": ("RGB", "L", "P", "1", "RGBA"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("L", "P", "1"),
}
SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "TIFF": ".tif", "BMP": ".bmp", "WEBP": ".webp", "GIF": ".gif"}
SIZES = [0, 1, 2, 1000, 12000, 20000, 32767, 65535, 2**17, 2**24, 2**31 - 1, 2**32 - 1]


def good_file(rng: random.Random) -> tuple[bytes, str, np.ndarray | None]:
    """Return a whole file, its format, and its RGB pixels where the format keeps 8 bits without loss."""
    kind = rng.choice(list(MODES))
    mode = rng.choice(MODES[kind])
    height, width = rng.choice([(1, rng.randint(1, 300)), (rng.randint(1, 300), 1), (13, 17), (32, 40), (64, 64)])
    noise = np.random.default_rng(rng.randrange(2**32))
    if mode in ("I;16", "I", "F"):
        top = rng.choice([200, 65535]) if mode == "I;16" else rng.choice([200, 65535, 2**24])
        kinds = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
        image = Image.fromarray(noise.integers(0, top, (height, width), endpoint=True).astype(kinds[mode]))
    else:
        image = Image.fromarray(noise.integers(0, 256, (height, width, 4), dtype=np.uint8), "RGBA")
        image = image if mode == "RGBA" else image.convert("RGB").convert(mode)
    options = {}
    if mode == "P" and kind in ("PNG", "GIF") and rng.random() < 0.5:
        options["transparency"] = rng.randrange(256)
    if kind in ("PNG", "JPEG", "TIFF", "WEBP") and rng.random() < 0.4:
        exif = Image.Exif()
        exif[0x112] = rng.choice([1, 2, 3, 4, 5, 6, 7, 8, 9, 0])
        options["exif"] = exif
    if kind in ("GIF", "WEBP", "PNG", "TIFF") and mode in ("RGB", "L", "P", "RGBA") and rng.random() < 0.25:
        options.update(save_all=True, append_images=[ImageOps.flip(image)])
    if kind == "WEBP":
        options["lossless"] = True
    file = io.BytesIO()
    image.save(file, kind, **options)
    if kind not in ("PNG", "TIFF", "BMP") or mode not in ("RGB", "L", "P", "1", "LA", "RGBA"):
        return file.getvalue(), kind, None
    if "exif" in options:
        image.getexif()[0x112] = options["exif"][0x112]
    return file.getvalue(), kind, np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def _other_size(data: bytes, kind: str, rng: random.Random) -> bytes:
    """Change the declared width or height."""
    size, data = rng.choice(SIZES), bytearray(data)
    which = rng.randrange(2)
    if kind == "PNG":
        struct.pack_into(">I", data, 16 + 4 * which, size)
        struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
    elif kind == "BMP":
        struct.pack_into("<I", data, 18 + 4 * which, size)
    elif kind == "GIF":
        struct.pack_into("<H", data, 6 + 2 * which, size & 0xFFFF)
    elif kind == "JPEG":
        place = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
        struct.pack_into(">H", data, place + 5 + 2 * which, size & 0xFFFF)
    elif kind == "WEBP":
        place = data.find(b"VP8X") if b"VP8X" in data else data.find(b"VP8L")
        data[place + 9 : place + 13] = struct.pack("<I", rng.randrange(2**32))
    else:
        start = struct.unpack_from("<I", data, 4)[0]
        for entry in range(start + 2, start + 2 + 12 * struct.unpack_from("<H", data, start)[0], 12):
            if struct.unpack_from("<H", data, entry)[0] == 256 + which:
                struct.pack_into("<HHII", data, entry, 256 + which, 4, 1, size)
    return bytes(data)


def spoiled_file(seed: int) -> tuple[bytes, str, np.ndarray | None]:
    """Return the bytes of the file of ``seed``, its suffix, and its RGB pixels where they are known."""
    rng = random.Random(seed)
    data, kind, pixels = good_file(rng)
    suffix = rng.choice([*SUFFIXES.values(), ".tiff", ""]) if rng.random() < 0.15 else SUFFIXES[kind]
    fate = rng.randrange(4)
    if fate == 0:
        return data, suffix, pixels
    if fate == 1:
        return _other_size(data, kind, rng), suffix, None
    if fate == 2:
        return data[: rng.randrange(len(data))], suffix, None
    changed = bytearray(data)
    end = len(changed) if rng.random() < 0.5 else min(len(changed), 120)  # the header is worth more
    for _ in range(rng.choice([1, 2, 8])):
        changed[rng.randrange(end)] = rng.choice([0, 255, rng.randrange(256)])
    return bytes(changed), suffix, None


def check(seed: int, folder: str) -> tuple[str, str]:
    """Return the class of the file of ``seed``, and what there is to say about it."""
    data, suffix, pixels = spoiled_file(seed)
    path = os.path.join(folder, "image" + suffix)
    with open(path, "wb") as file:
        file.write(data)
    mapper = AdetDatasetMapper(False, augmentations=[])
    readers = {
        "demo": lambda: read_image(path),
        "training": lambda: mapper({"file_name": path})["image"].numpy().transpose(1, 2, 0),
        "BGR": lambda: _in_sentences(lambda: read_as(path, "BGR")),
        "RGB": lambda: _in_sentences(lambda: read_as(path, "RGB"))[:, :, ::-1],
    }
    ends = {}
    for name, read in readers.items():
        try:
            ends[name] = read()
        except UserError as error:
            ends[name] = str(error)
            if "\n" in str(error) or path not in str(error) and name in ("demo", "training"):
                return "FAULT: sentence", f"{name}: {error}"
    refused = [name for name, end in ends.items() if isinstance(end, str)]
    if refused:
        said = "\n".join(f"{name}: {ends[name]}" for name in refused)
        if any(ends[name] == "MemoryError" for name in refused):
            return "more memory than the cap, in one of the readers", said
        if len(refused) < len(ends):
            return "FAULT: refused by some readers only", said
        return ("FAULT: a good image is refused" if pixels is not None else "refused by both"), said
    image = ends["demo"]
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        return "FAULT: no image", f"{image.dtype} {image.shape}"
    if not all(np.array_equal(end, image) for end in ends.values()):
        return "FAULT: different pixels", str({n: (e.shape, int(e.sum())) for n, e in ends.items()})
    if pixels is not None and not np.array_equal(image[:, :, ::-1], pixels):
        return "FAULT: other pixels than were written", f"{image.shape} {pixels.shape}"
    del ends
    return _labels(path, image, mapper)


def _labels(path: str, image: np.ndarray, mapper: AdetDatasetMapper) -> tuple[str, str]:
    try:
        labels = _in_sentences(lambda: read_labels(path))
    except UserError:
        labels = None
    try:
        mapped = mapper({"file_name": path, "sem_seg_file_name": path})["sem_seg"].numpy()
    except UserError as error:
        if "\n" in str(error) or path not in str(error):
            return "FAULT: sentence", str(error)
        mapped = None
    if (labels is None) != (mapped is None):
        return "FAULT: labels refused by one reader only", f"{labels is None} {mapped is None}"
    if labels is None:
        return "same pixels, no label map", ""
    if labels.shape != image.shape[:2] or not np.array_equal(labels, mapped):
        return "FAULT: labels", f"{labels.shape} {image.shape}"
    return "same pixels, also a label map", ""


def _in_sentences(read: Callable[[], np.ndarray]) -> np.ndarray:
    """Raise UserError for every error of a broken file, as the mapper does."""
    try:
        return read()
    except Exception as error:
        raise UserError(one_line(error) if str(error) else type(error).__name__) from error


def run(n: int, seed: int = 0) -> tuple[collections.Counter, list]:
    """Check ``n`` files and return the counts of the classes, and the faults."""
    with quiet_folder() as folder:
        return run_samples(functools.partial(check, folder=folder), range(seed, seed + n))


if __name__ == "__main__":
    sys.exit(main(run, 5000))
