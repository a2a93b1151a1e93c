"""The embedded data pipeline beside Detectron2's: the same dicts, metadata, order, pixels and ground truth.

``ADET_EXT_TEST_DATA`` may name a folder with the data sets ``pennfudan`` and ``coco_tiny`` (COCO format:
``annotations/instances_train.json`` and ``train/``); the comparison then also runs on them.
"""

import itertools
import json
import os

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from PIL import Image

from adet_ext.d2.embedded import data as ours

pytestmark = pytest.mark.needs_detectron2

NAME = "test_coco_engines"


@pytest.fixture
def theirs():
    return pytest.importorskip("detectron2.data")


def generate(folder, n=7):
    """Random polygons (some in two parts, some as run lengths) and crowds on images of noise."""
    rng = np.random.RandomState(1)
    (folder / "train").mkdir()
    (folder / "annotations").mkdir()
    coco = {"images": [], "annotations": [], "categories": [{"id": i, "name": f"c{i}"} for i in (2, 3, 9)]}
    for i in range(n):
        h, w = rng.randint(40, 90, 2).tolist()
        name = f"{i}.jpg"
        Image.fromarray(rng.randint(0, 256, (h, w, 3), dtype=np.uint8)).save(folder / "train" / name)
        coco["images"].append({"id": 100 - i, "file_name": name, "height": h, "width": w})
        for _ in range(rng.randint(0, 5)):
            parts = []
            for _ in range(rng.randint(1, 3)):
                angle = np.sort(rng.rand(7)) * 2 * np.pi
                centre, radius = rng.rand(2) * [w, h], 5 + 20 * rng.rand()
                points = centre + radius * np.stack([np.cos(angle), np.sin(angle)], 1)
                parts.append(points.clip(0, [w, h]).round(2).ravel().tolist())
            rle = mask_util.merge(mask_util.frPyObjects(parts, h, w))
            anno = {"id": len(coco["annotations"]) + 1, "image_id": 100 - i, "iscrowd": int(rng.rand() < 0.15),
                    "bbox": mask_util.toBbox(rle).tolist(), "area": float(mask_util.area(rle)),
                    "category_id": [2, 3, 9][rng.randint(3)], "segmentation": parts}  # fmt: skip
            if anno["iscrowd"]:
                anno["segmentation"] = {"size": rle["size"], "counts": rle["counts"].decode()}
            coco["annotations"].append(anno)
    (folder / "annotations" / "instances_train.json").write_text(json.dumps(coco))
    return folder


@pytest.fixture(params=["generated", "pennfudan", "coco_tiny"])
def files(request, tmp_path):
    """(annotation file, image folder) of a data set."""
    folder = tmp_path
    if request.param == "generated":
        generate(tmp_path)
    else:
        root = os.environ.get("ADET_EXT_TEST_DATA")
        if not root:
            pytest.skip("ADET_EXT_TEST_DATA does not name a folder with real data")
        folder = os.path.join(root, request.param)
    return os.path.join(folder, "annotations", "instances_train.json"), os.path.join(folder, "train")


@pytest.fixture
def registered(files, theirs):
    for data in (ours, theirs):
        (data.datasets if data is theirs else data).register_coco_instances(NAME, {}, *files)
    yield
    for data in (ours, theirs):
        data.DatasetCatalog.remove(NAME)
        data.MetadataCatalog.remove(NAME)


def plain(x):
    """Comparable with ==: arrays and tensors as lists, structures as their fields."""
    if isinstance(x, dict):
        return {k: plain(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)):
        return [plain(v) for v in x]
    if isinstance(x, torch.Tensor):
        return [str(x.dtype), x.tolist()]
    if isinstance(x, np.ndarray):
        return [str(x.dtype), x.tolist()]
    if hasattr(x, "get_fields"):
        return [tuple(x.image_size), plain(x.get_fields())]
    if hasattr(x, "polygons"):
        return plain(x.polygons)
    return plain(x.tensor) if hasattr(x, "tensor") else x


def test_loaded_dicts_and_metadata_are_equal(registered, theirs):
    a, b = ours.DatasetCatalog.get(NAME), theirs.DatasetCatalog.get(NAME)
    assert plain(a) == plain(b)
    assert ours.MetadataCatalog.get(NAME).as_dict() == theirs.MetadataCatalog.get(NAME).as_dict()


def test_conversions_to_coco_are_equal(registered, theirs):
    from detectron2.data.datasets.coco import convert_to_coco_dict

    a, b = ours.convert_to_coco_dict(NAME), convert_to_coco_dict(NAME)
    assert all(a[key] == b[key] for key in ("images", "categories", "annotations", "licenses"))


def test_builtin_metadata_are_equal(theirs):
    for name in ours.MetadataCatalog.list():
        if name in ours.DatasetCatalog and name.startswith("coco_20"):
            assert name in theirs.DatasetCatalog
            assert ours.MetadataCatalog.get(name).as_dict() == theirs.MetadataCatalog.get(name).as_dict(), name
    assert {n for n in theirs.DatasetCatalog if n.startswith("coco_20")} <= set(ours.DatasetCatalog)


def test_read_images_are_equal(theirs, tmp_path):
    image = Image.fromarray(np.random.RandomState(0).randint(0, 256, (9, 14, 3), dtype=np.uint8))
    for orientation, mode, format in itertools.product((1, 3, 6, 7), ("RGB", "L", "P"), ("BGR", "RGB", "L", None)):
        exif = Image.Exif()
        exif[274] = orientation
        path = str(tmp_path / "x.png")
        image.convert(mode).save(path, exif=exif)
        assert np.array_equal(
            ours.detection_utils.read_image(path, format), theirs.detection_utils.read_image(path, format)
        )
