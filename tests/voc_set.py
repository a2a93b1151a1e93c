"""A small data set in PASCAL VOC's format on disk, laid out as the archives are."""

import os
from pathlib import Path

import numpy as np
from PIL import Image


def xml(name, width, height, objects, *, extra=""):
    """An annotation file; ``objects`` are (class, xmin, ymin, xmax, ymax) or the same and whether it is difficult."""
    parts = []
    for label, *box in objects:
        sides = "".join(f"<{side}>{value}</{side}>" for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box))
        difficult = int(box[4]) if len(box) > 4 else 0
        parts.append(
            f"<object><name>{label}</name><pose>Unspecified</pose><truncated>0</truncated>"
            f"<difficult>{difficult}</difficult><bndbox>{sides}</bndbox></object>"
        )
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation>{extra}<filename>{name}.jpg</filename>{size}{''.join(parts)}</annotation>"


class VocSet:
    """Images of 60 x 40 pixels, by name the objects in them."""

    def __init__(self, folder: Path, images: dict, split: str = "train", size=(60, 40)):
        self.folder = folder
        self.images = str(folder / "JPEGImages")
        self.list = str(folder / "ImageSets" / "Main" / f"{split}.txt")
        for path in (self.images, os.path.dirname(self.list), folder / "Annotations"):
            os.makedirs(path, exist_ok=True)
        rng = np.random.RandomState(0)
        for name, objects in images.items():
            pixels = rng.randint(0, 256, (size[1], size[0], 3)).astype(np.uint8)
            Image.fromarray(pixels).save(os.path.join(self.images, f"{name}.jpg"))
            self.write(name, xml(name, *size, objects))
        Path(self.list).write_text("".join(f"{name}\n" for name in images))

    def path(self, name):
        return self.folder / "Annotations" / f"{name}.xml"

    def write(self, name, content):
        if isinstance(content, str):
            self.path(name).write_text(content, encoding="utf-8")
        else:
            self.path(name).write_bytes(content)


IMAGES = {
    "000012": [("dog", 11, 9, 30, 24), ("cat", 1, 1, 60, 40)],
    "000007": [("cat", 5, 5, 14, 14), ("cat", 21, 5, 30, 34, True)],
    "000030": [("dog", 2, 2, 9, 9, True)],
    "000031": [],
}
