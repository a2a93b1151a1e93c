"""COCO's own splits, registered under ``DETECTRON2_DATASETS`` (default: the folder ``datasets``)."""

import os

from .catalog import MetadataCatalog
from .coco import register_coco_instances
from .coco_categories import COCO_CATEGORIES
from .coco_panoptic import register_coco_panoptic, register_coco_panoptic_separated

# Split -> (image folder, annotation file), under coco/ and coco/annotations/.
_INSTANCE_SPLITS = {
    "coco_2014_train": ("train2014", "instances_train2014.json"),
    "coco_2014_val": ("val2014", "instances_val2014.json"),
    "coco_2014_minival": ("val2014", "instances_minival2014.json"),
    "coco_2014_valminusminival": ("val2014", "instances_valminusminival2014.json"),
    "coco_2017_train": ("train2017", "instances_train2017.json"),
    "coco_2017_val": ("val2017", "instances_val2017.json"),
    "coco_2017_test": ("test2017", "image_info_test2017.json"),
    "coco_2017_test-dev": ("test2017", "image_info_test-dev2017.json"),
    "coco_2017_val_100": ("val2017", "instances_val2017_100.json"),
}
_PANOPTIC_SPLITS = ("train2017", "val2017", "val2017_100")

_THINGS = [c for c in COCO_CATEGORIES if c["isthing"]]
_STUFF = [c for c in COCO_CATEGORIES if not c["isthing"]]


def coco_instances_meta() -> dict:
    """Return classes, colors and id map of the 80 things."""
    return {
        "thing_dataset_id_to_contiguous_id": {c["id"]: i for i, c in enumerate(_THINGS)},
        "thing_classes": [c["name"] for c in _THINGS],
        "thing_colors": [c["color"] for c in _THINGS],
    }


def coco_panoptic_separated_meta() -> dict:
    """Return the 80 things and 54 semantic classes: 0 for all things, then the 53 stuff classes."""
    names = [c["name"].replace("-other", "").replace("-merged", "") for c in _STUFF]
    return {
        "stuff_dataset_id_to_contiguous_id": {**{c["id"]: i + 1 for i, c in enumerate(_STUFF)}, 0: 0},
        "stuff_classes": ["things", *names],
        "stuff_colors": [[82, 18, 128], *(c["color"] for c in _STUFF)],
        **coco_instances_meta(),
    }


def coco_panoptic_meta() -> dict:
    """Return all 133 categories in one range of ids, things first. Names and colors have both prefixes."""
    names, colors = [c["name"] for c in COCO_CATEGORIES], [c["color"] for c in COCO_CATEGORIES]
    ids = {c["id"]: i for i, c in enumerate(COCO_CATEGORIES)}
    return {
        "thing_classes": names,
        "thing_colors": colors,
        "stuff_classes": list(names),
        "stuff_colors": list(colors),
        "thing_dataset_id_to_contiguous_id": {c["id"]: ids[c["id"]] for c in _THINGS},
        "stuff_dataset_id_to_contiguous_id": {c["id"]: ids[c["id"]] for c in _STUFF},
    }


def register_all_coco(root: str) -> None:
    """Register every split under ``root``/coco. A split is read when it is used."""
    for name, (folder, annotations) in _INSTANCE_SPLITS.items():
        register_coco_instances(
            name,
            coco_instances_meta(),
            os.path.join(root, "coco/annotations", annotations),
            os.path.join(root, "coco", folder),
        )
    for split in _PANOPTIC_SPLITS:
        instances = "coco_2017_" + split.replace("2017", "")
        meta = MetadataCatalog.get(instances)
        panoptic_root = os.path.join(root, "coco/panoptic_" + split)
        panoptic_json = os.path.join(root, f"coco/annotations/panoptic_{split}.json")
        register_coco_panoptic_separated(
            instances + "_panoptic",
            coco_panoptic_separated_meta(),
            meta.image_root,
            panoptic_root,
            panoptic_json,
            os.path.join(root, "coco/panoptic_stuff_" + split),
            meta.json_file,
        )
        register_coco_panoptic(
            instances + "_panoptic", coco_panoptic_meta(), meta.image_root, panoptic_root, panoptic_json,
            meta.json_file,
        )  # fmt: skip
