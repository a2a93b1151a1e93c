"""The built-in "shapes" data set: pictures of overlapping shapes, made from (seed, index) when they are read.

Nothing is downloaded or kept on disk. The file names of images and label maps start with ``shapes://``. The path
manager (Detectron2's if it is installed) can read them, so that the data set is used like any other:

    shapes://seed0-128x128-n2000/images/000123.png      RGB
    shapes://seed0-128x128-n2000/sem_seg/000123.png     0: things, 1..3: stuff classes
    shapes://seed0-128x128-n2000/panoptic/000123.png    RGB coded segment ids, COCO's panoptic format
    shapes://seed0-128x128-n2000/instances.json         ground truth in COCO's format; also panoptic.json

``shapes_train`` and ``shapes_val`` are registered on import, and as ``..._panoptic`` with semantic and panoptic
labels. Image i of a split is a function of the seed, the size and i alone.
"""

import functools
import io
import json
import os
import re
from collections.abc import Callable

import numpy as np

from ..d2.data import DatasetCatalog, MetadataCatalog
from ..d2.utils import PathHandler, PathManager
from ..errors import UserError
from ..utils.files import written_beside
from .catalog import process_folder, replace_dataset
from .shapes_content import (
    PREFIX,
    STUFF_COLORS,
    STUFF_IDS,
    THING_COLORS,
    ShapesSpec,
    coco_instances,
    coco_panoptic,
    shapes_dicts,
    shapes_image,
    shapes_labels,
)
from .shapes_scene import STUFF_CLASSES, THING_CLASSES

__all__ = [
    "ShapesSpec",
    "register_shapes",
    "shapes_coco_json",
    "shapes_dicts",
    "shapes_image",
    "shapes_labels",
]

IGNORE_LABEL = 255


def shapes_coco_json(name_or_spec: str | ShapesSpec) -> dict:
    """Return the ground truth of a split or a registered shapes data set in COCO's instances format."""
    return coco_instances(_spec_of(name_or_spec))


def _spec_of(name_or_spec: str | ShapesSpec) -> ShapesSpec:
    if isinstance(name_or_spec, ShapesSpec):
        return name_or_spec
    root = MetadataCatalog.get(name_or_spec).get("image_root", "") if name_or_spec in DatasetCatalog else ""
    if not str(root).startswith(PREFIX):
        raise UserError(f"{name_or_spec!r} is not a registered shapes data set; register_shapes() makes one")
    return _parse(root)[0]


def register_shapes(
    name: str, num_images: int, size: int | tuple[int, int] = 128, seed: int = 0, panoptic: bool = False
) -> ShapesSpec:
    """Register a shapes data set under ``name``, and forget what was registered there before.

    Args:
        num_images: number of images. Image i does not depend on it.
        size: side in pixels, or (height, width).
        seed: splits with different seeds share no image.
        panoptic: also give semantic and panoptic labels, and evaluate PQ.
    """
    height, width = (size, size) if isinstance(size, int) else size
    spec = ShapesSpec(num_images, height, width, seed)
    metadata = {
        "image_root": f"{spec.root}/images",
        "json_file": f"{spec.root}/instances.json",
        "evaluator_type": "coco",
        "thing_classes": list(THING_CLASSES),
        "thing_colors": [list(c) for c in THING_COLORS],
        "thing_dataset_id_to_contiguous_id": {i + 1: i for i in range(len(THING_CLASSES))},
    }
    if panoptic:
        # As Detectron2's separated panoptic sets: semantic label 0 stands for all things.
        metadata.update(
            evaluator_type="coco_panoptic_seg",
            panoptic_root=f"{spec.root}/panoptic",
            panoptic_json=f"{spec.root}/panoptic.json",
            sem_seg_root=f"{spec.root}/sem_seg",
            stuff_classes=["things", *STUFF_CLASSES],
            stuff_colors=[[60, 60, 60], *(list(c) for c in STUFF_COLORS)],
            stuff_dataset_id_to_contiguous_id={0: 0, **{c: s + 1 for s, c in enumerate(STUFF_IDS)}},
            ignore_label=IGNORE_LABEL,
        )
    replace_dataset(name, functools.partial(shapes_dicts, spec, panoptic), metadata)
    return spec


_PATH = re.compile(r"shapes://seed(\d+)-(\d+)x(\d+)-n(\d+)(?:/(.*))?$")
_FILE = re.compile(r"(images|sem_seg|panoptic)/(\d+)\.png$")


def _parse(path: str) -> tuple[ShapesSpec, str]:
    match = _PATH.match(path)
    if not match:
        raise UserError(f"{path}: not a shapes path; they look like shapes://seed0-128x128-n2000/images/000007.png")
    seed, height, width, count = (int(group) for group in match.groups()[:4])
    return ShapesSpec(count, height, width, seed), (match[5] or "").rstrip("/")


def png_of(array: np.ndarray) -> bytes:
    """Return uint8 [H, W] or RGB [H, W, 3] as the bytes of a PNG file."""
    import cv2

    pixels = array[..., ::-1] if array.ndim == 3 else array  # OpenCV takes colors as BGR
    # It is read back at once, so compression would only cost time.
    return cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 0])[1].tobytes()


def _content(path: str) -> bytes:
    spec, rest = _parse(path)
    match = _FILE.match(rest)
    if match and int(match[2]) < spec.num_images:
        kind, index = match[1], int(match[2])
        if kind == "images":
            return png_of(shapes_image(spec, index))
        sem_seg, panoptic, _ = shapes_labels(spec, index)
        if kind == "sem_seg":
            return png_of(sem_seg)
        return png_of(np.stack([panoptic % 256, panoptic // 256 % 256, panoptic // 65536], -1).astype(np.uint8))
    makers: dict[str, Callable] = {"instances.json": coco_instances, "panoptic.json": coco_panoptic}
    if rest in makers:
        return json.dumps(makers[rest](spec)).encode()
    raise FileNotFoundError(f"{path}: the shapes data set has no such file")


class _ShapesHandler(PathHandler):
    """Read ``shapes://`` paths. A local copy is removed when the process ends, so it is never stale."""

    def __init__(self) -> None:
        super().__init__()
        self._folder, self._owner = "", 0

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _isfile(self, path: str, **kwargs) -> bool:
        spec, rest = _parse(path)
        match = _FILE.match(rest)
        return rest in ("instances.json", "panoptic.json") or bool(match and int(match[2]) < spec.num_images)

    def _isdir(self, path: str, **kwargs) -> bool:
        return _parse(path)[1] in ("", "images", "sem_seg", "panoptic")

    def _exists(self, path: str, **kwargs) -> bool:
        return self._isfile(path) or self._isdir(path)

    def _ls(self, path: str, **kwargs) -> list[str]:
        spec, rest = _parse(path)
        if not rest:
            return ["images", "sem_seg", "panoptic", "instances.json", "panoptic.json"]
        return [f"{index:06d}.png" for index in range(spec.num_images)]

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs):
        if set(mode) - set("rbt"):
            raise UserError(f"{path}: shapes files are made on the fly and cannot be written")
        content = _content(path)
        return io.BytesIO(content) if "b" in mode else io.StringIO(content.decode())

    def _get_local_path(self, path: str, force: bool = False, **kwargs) -> str:
        if self._owner != os.getpid():  # none yet, or it belongs to the parent process
            self._folder, self._owner = process_folder(), os.getpid()
        local = os.path.join(self._folder, path[len(PREFIX) :].rstrip("/"))
        if self._isdir(path):
            for name in self._ls(path):
                self._get_local_path(f"{path.rstrip('/')}/{name}")
        elif not os.path.exists(local):
            os.makedirs(os.path.dirname(local), exist_ok=True)
            with written_beside(local) as beside, open(beside, "wb") as file:
                file.write(_content(path))
        return local


PathManager.register_handler(_ShapesHandler(), allow_override=True)
for _suffix, _panoptic in (("", False), ("_panoptic", True)):
    register_shapes(f"shapes_train{_suffix}", num_images=2000, size=128, seed=0, panoptic=_panoptic)
    register_shapes(f"shapes_val{_suffix}", num_images=200, size=128, seed=1, panoptic=_panoptic)
