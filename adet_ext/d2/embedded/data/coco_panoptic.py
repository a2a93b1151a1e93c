"""Load COCO's panoptic annotations, as one label map per image, or as instances and semantic labels."""

import json
import os

from ..utils.file_io import PathManager
from .catalog import DatasetCatalog, MetadataCatalog
from .coco import load_coco_json, load_sem_seg


def load_coco_panoptic_json(json_file: str, image_dir: str, gt_dir: str, meta: dict) -> list[dict]:
    """Return dicts with "file_name", "image_id", "pan_seg_file_name" and "segments_info".

    Segments have contiguous category ids and "isthing". Images must be .jpg files.
    """
    with PathManager.open(json_file, "r") as f:
        annotations = json.load(f)["annotations"]
    things, stuff = meta["thing_dataset_id_to_contiguous_id"], meta["stuff_dataset_id_to_contiguous_id"]

    def contiguous(segment: dict) -> dict:
        isthing = segment["category_id"] in things
        category = (things if isthing else stuff)[segment["category_id"]]
        return {**segment, "category_id": category, "isthing": isthing}

    dataset_dicts = [
        {
            "file_name": os.path.join(image_dir, os.path.splitext(ann["file_name"])[0] + ".jpg"),
            "image_id": int(ann["image_id"]),
            "pan_seg_file_name": os.path.join(gt_dir, ann["file_name"]),
            "segments_info": [contiguous(segment) for segment in ann["segments_info"]],
        }
        for ann in annotations
    ]
    if not dataset_dicts:
        raise ValueError(f"{json_file} annotates no image")
    for key in ("file_name", "pan_seg_file_name"):
        if not os.path.isfile(dataset_dicts[0][key]):
            raise FileNotFoundError(f"{json_file} needs {dataset_dicts[0][key]}, which does not exist")
    return dataset_dicts


def register_coco_panoptic(
    name: str, metadata: dict, image_root: str, panoptic_root: str, panoptic_json: str, instances_json=None
) -> None:
    """Register panoptic data with one panoptic label map for each image."""
    DatasetCatalog.register(name, lambda: load_coco_panoptic_json(panoptic_json, image_root, panoptic_root, metadata))
    MetadataCatalog.get(name).set(
        panoptic_root=panoptic_root, image_root=image_root, panoptic_json=panoptic_json,
        json_file=instances_json, evaluator_type="coco_panoptic_seg", ignore_label=255, label_divisor=1000,
        **metadata,
    )  # fmt: skip


def _merge(detection_dicts: list[dict], sem_seg_dicts: list[dict]) -> list[dict]:
    """Merge the dicts of instances and of label maps that have the same image file."""
    maps = {d["file_name"]: d for d in sem_seg_dicts}
    for d in detection_dicts:
        if d["file_name"] not in maps:
            raise FileNotFoundError(f"image {d['file_name']} has no semantic label map; prepare all of them")
    return [{**d, **maps[d["file_name"]]} for d in detection_dicts]


def register_coco_panoptic_separated(
    name: str,
    metadata: dict,
    image_root: str,
    panoptic_root: str,
    panoptic_json: str,
    sem_seg_root: str,
    instances_json: str,
) -> None:
    """Register ``NAME_separated`` (instance annotations and semantic label maps of the same images) and
    ``NAME_stuffonly`` (the label maps alone).

    In the label maps 0 is any thing, 1 and up are the kinds of stuff, 255 is unlabeled.
    """
    separated, stuff_only = name + "_separated", name + "_stuffonly"
    DatasetCatalog.register(
        separated,
        lambda: _merge(load_coco_json(instances_json, image_root, separated), load_sem_seg(sem_seg_root, image_root)),
    )
    MetadataCatalog.get(separated).set(
        panoptic_root=panoptic_root, image_root=image_root, panoptic_json=panoptic_json,
        sem_seg_root=sem_seg_root, json_file=instances_json, evaluator_type="coco_panoptic_seg",
        ignore_label=255, **metadata,
    )  # fmt: skip
    DatasetCatalog.register(stuff_only, lambda: load_sem_seg(sem_seg_root, image_root))
    MetadataCatalog.get(stuff_only).set(
        sem_seg_root=sem_seg_root, image_root=image_root, evaluator_type="sem_seg", ignore_label=255, **metadata
    )
