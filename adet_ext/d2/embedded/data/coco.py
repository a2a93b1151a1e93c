"""Convert COCO's instance annotations, and folders of label maps, to and from data set dicts."""

import json
import logging
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from ..structures import Boxes, BoxMode, PolygonMasks
from ..utils.file_io import PathManager
from .catalog import DatasetCatalog, MetadataCatalog

logger = logging.getLogger(__name__)


_REQUIRED = {
    "images": ("id", "file_name", "height", "width"),
    "categories": ("id", "name"),
    "annotations": ("id", "image_id", "category_id"),
}


def read_coco_file(json_file: "str | os.PathLike", *lists: str) -> dict:
    """Return the content of a COCO annotation file, which must have ``lists``.

    Raises:
        ValueError: the file is not JSON, or lacks a list or an entry's key; the message says where.
    """
    with PathManager.open(str(json_file), "rb") as f:
        try:
            content = json.loads(f.read())
        except (ValueError, RecursionError) as error:  # bad JSON, and bytes that are not text
            raise ValueError(f"{json_file} is not JSON ({error}); write it again or name another file") from error
    missing = [k for k in lists if not isinstance(content, dict) or not isinstance(content.get(k), list)]
    if missing:
        raise ValueError(f"{json_file} is not a COCO annotation file: it has no list under {', '.join(missing)}")
    for part, keys in _REQUIRED.items():
        for index, entry in enumerate(content.get(part) or ()):
            absent = [key for key in keys if key not in entry]
            if absent:
                raise ValueError(f"{json_file}: {part}[{index}] lacks {', '.join(absent)}; it has {list(entry)[:8]}")
    return content


def _category_map(categories: list[dict], json_file: str, dataset_name: str) -> dict[int, int]:
    """Return the contiguous class id of each COCO category id. Write these and the class names to the metadata."""
    meta = MetadataCatalog.get(dataset_name)
    categories = sorted(categories, key=lambda c: c["id"])
    ids = [c["id"] for c in categories]
    if len(set(ids)) < len(ids):
        raise ValueError(f"{json_file}: the category ids {sorted({i for i in ids if ids.count(i) > 1})} occur twice")
    meta.thing_classes = [c["name"] for c in categories]
    if ids != list(range(1, len(ids) + 1)) and "coco" not in dataset_name:
        logger.warning("the category ids of %s are not 1 to %d; they are renumbered in order", json_file, len(ids))
    meta.thing_dataset_id_to_contiguous_id = {category: i for i, category in enumerate(ids)}
    return meta.thing_dataset_id_to_contiguous_id


def _usable_segmentation(segm: "list | dict") -> "list | dict":
    """Return compressed run lengths, or the polygons of at least three points, which may be none."""
    if isinstance(segm, dict):
        return mask_util.frPyObjects(segm, *segm["size"]) if isinstance(segm["counts"], list) else segm
    return [polygon for polygon in segm if len(polygon) % 2 == 0 and len(polygon) >= 6]


def load_coco_json(json_file: str, image_root: "str | os.PathLike", dataset_name: str | None = None) -> list[dict]:
    """Load a COCO instance annotation file.

    Args:
        image_root: the folder that the file names in the annotations start from.
        dataset_name: registers class names and the id map in this data set's metadata and makes category
            ids contiguous; without it they stay those of the file.

    Returns:
        One dict per image, by ascending id: "file_name", "height", "width", "image_id", "annotations". An
        annotation whose polygons all have fewer than three points is left out.

    Raises:
        ValueError: the file is not COCO's format; the message says where.
        KeyError: an annotation has a category that the file does not list.
    """
    keys = ["images"] if dataset_name is None else ["images", "categories"]
    content = read_coco_file(json_file, *keys)
    images = {image["id"]: image for image in content["images"]}
    by_image = _annotations_by_image(images, content.get("annotations", []), json_file)
    id_map = None
    if dataset_name is not None:
        id_map = _category_map(content["categories"], json_file, dataset_name)
    dataset_dicts, without_polygon = [], 0
    for image_id in sorted(images):
        image, objects = images[image_id], []
        for anno in by_image[image_id]:
            obj = _object(anno, f"{json_file}, image {image_id}, annotation {anno['id']}", id_map)
            if obj is None:
                without_polygon += 1
            else:
                objects.append(obj)
        record = {"file_name": os.path.join(image_root, image["file_name"])}
        record.update(height=image["height"], width=image["width"], image_id=image_id, annotations=objects)
        dataset_dicts.append(record)
    logger.info("loaded %d images in COCO format from %s", len(dataset_dicts), json_file)
    if without_polygon:
        logger.warning("%s: left out %d instances without a polygon of 3 points", json_file, without_polygon)
    return dataset_dicts


def _annotations_by_image(images: Iterable, annotations: list[dict], json_file: str) -> dict[Any, list[dict]]:
    """Return the annotations of each image id; annotation ids must differ."""
    by_image: dict = {image_id: [] for image_id in images}
    for anno in annotations:
        by_image.get(anno["image_id"], []).append(anno)
    used = [anno["id"] for annos in by_image.values() for anno in annos]
    if len(used) < len(annotations):
        logger.warning("%s: %d annotations belong to no listed image", json_file, len(annotations) - len(used))
    # COCO 2014's published minival files repeat some ids, which does no harm.
    if len(set(used)) < len(used) and "minival" not in str(json_file):
        raise ValueError(f"{json_file}: {len(used) - len(set(used))} annotation ids occur more than once")
    return by_image


def _object(anno: dict, where: str, id_map: dict[int, int] | None) -> dict | None:
    """Return the annotation of a data set dict, or None if all its polygons have fewer than three points."""
    if anno.get("ignore", 0) != 0:
        raise ValueError(f'{where}: "ignore" is not supported; use "iscrowd" or leave the annotation out')
    obj = {key: anno[key] for key in ("iscrowd", "bbox", "keypoints", "category_id") if key in anno}
    if "bbox" in obj and len(obj["bbox"]) != 4:
        raise ValueError(f"{where}: bbox must be [x, y, width, height], got {obj['bbox']}")
    if anno.get("segmentation"):
        obj["segmentation"] = _usable_segmentation(anno["segmentation"])
        if not obj["segmentation"]:
            return None
    obj["bbox_mode"] = BoxMode.XYWH_ABS
    if id_map is not None:
        if obj["category_id"] not in id_map:
            raise KeyError(f"{where}: category_id {obj['category_id']} is not among the file's categories")
        obj["category_id"] = id_map[obj["category_id"]]
    return obj


def load_sem_seg(gt_root: str, image_root: str) -> list[dict]:
    """Pair the images (.jpg) of a folder with the label maps (.png) of another, by file name without extension.

    Returns:
        Dicts with "file_name" and "sem_seg_file_name", sorted by name; unpaired files are left out.
    """

    def stems(folder: str, ext: str) -> dict[str, str]:
        return {f[: -len(ext)]: os.path.join(folder, f) for f in PathManager.ls(folder) if f.endswith(ext)}

    images, maps = stems(image_root, "jpg"), stems(gt_root, "png")
    if not maps:
        raise FileNotFoundError(f"no label map (*.png) in {gt_root}")
    common = sorted(images.keys() & maps.keys(), key=lambda stem: stem.rstrip("."))
    if not len(images) == len(maps) == len(common):
        logger.warning(
            "%s has %d images, %s has %d label maps; using the %d in both",
            image_root, len(images), gt_root, len(maps), len(common),
        )  # fmt: skip
    return [{"file_name": images[stem], "sem_seg_file_name": maps[stem]} for stem in common]


def _coco_annotation(anno: dict, category_id: int) -> dict:
    """Return one annotation in COCO's form, without ids. ``anno`` is not changed."""
    box = [float(x) for x in anno["bbox"]]
    if len(box) != 4:
        raise ValueError(f"a box has 4 numbers, got {box}; rotated boxes need Detectron2")
    box = BoxMode.convert(box, anno["bbox_mode"], BoxMode.XYWH_ABS)
    result = {
        "bbox": [round(float(x), 3) for x in box],
        "area": Boxes([BoxMode.convert(box, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)]).area()[0].item(),
        "iscrowd": int(anno.get("iscrowd", 0)),
        "category_id": category_id,
    }
    segm = anno.get("segmentation")
    if isinstance(segm, list):
        result["area"] = float(PolygonMasks([segm]).area()[0].item())
        result["segmentation"] = [np.asarray(polygon).tolist() for polygon in segm]
    elif isinstance(segm, dict):
        counts = segm["counts"]
        result["area"] = float(mask_util.area(segm))
        result["segmentation"] = {**segm, "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts}
    elif "segmentation" in anno:
        raise TypeError(f"a segmentation is a list of polygons or a run-length dict, got {type(segm)}")
    return result


def convert_to_coco_dict(dataset_name: str) -> dict:
    """Return a registered data set as the content of a COCO annotation file.

    Boxes are rounded to 1/1000 pixel. Areas are of the masks if there are masks. Images without "image_id" are numbered
    in order.
    """
    meta, dataset_dicts = MetadataCatalog.get(dataset_name), DatasetCatalog.get(dataset_name)
    contiguous = meta.get("thing_dataset_id_to_contiguous_id")  # after loading, which may set it
    original = {v: k for k, v in contiguous.items()} if contiguous else None
    coco_id = original.__getitem__ if original else int
    images, annotations = [], []
    for index, d in enumerate(dataset_dicts):
        image = {"id": d.get("image_id", index), "width": int(d["width"]), "height": int(d["height"])}
        images.append({**image, "file_name": str(d["file_name"])})
        for anno in d.get("annotations", []):
            ids = {"id": len(annotations) + 1, "image_id": image["id"]}  # COCO's evaluation takes id 0 for none
            annotations.append({**ids, **_coco_annotation(anno, int(coco_id(anno["category_id"])))})
    categories = [{"id": coco_id(i), "name": name} for i, name in enumerate(meta.thing_classes)]
    coco = {"info": {"description": dataset_name}, "images": images, "categories": categories, "licenses": None}
    return {**coco, "annotations": annotations} if annotations else coco


def register_coco_instances(
    name: str, metadata: dict, json_file: "str | os.PathLike", image_root: "str | os.PathLike"
) -> None:
    """Register a COCO-format data set under ``name``.

    Registering it again with other values of the same metadata is an error.

    Args:
        metadata: further metadata, such as ``thing_colors``; may be empty.
    """
    assert isinstance(name, str), f"a data set name is a str, got {type(name)}"
    for path in (json_file, image_root):
        assert isinstance(path, (str, os.PathLike)), f"'{name}' needs paths, got {type(path)}"
    if name not in DatasetCatalog:
        DatasetCatalog.register(name, lambda: load_coco_json(json_file, image_root, name))
    MetadataCatalog.get(name).set(json_file=json_file, image_root=image_root, evaluator_type="coco", **metadata)
