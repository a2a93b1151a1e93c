"""LVIS annotations of COCO's categories. "AP*" compares the masks of a model trained on COCO with them.

LVIS has finer outlines on COCO's images. It is federated: the annotations of an image are complete for some categories,
absent for certain for others (``neg_category_ids``), and missing or incomplete for the rest. LVIS files have 1230
categories; :func:`prepare_lvis` keeps those that COCO has too, under COCO's ids.
"""

import functools
import json
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from ..d2.data import DatasetCatalog, MetadataCatalog
from ..d2.structures import BoxMode
from ..errors import UserError
from ..utils.files import make_folder, written_beside
from .catalog import replace_dataset
from .entries import BOX, ID, IDS, NUMBER, POLYGONS, SIZE, TEXT, check_entries
from .json_file import read_json
from .polygons import reaches_far
from .register import num_classes_of

__all__ = ["Cocofied", "coco_ids_of_synsets", "prepare_lvis", "read_lvis_file", "register_lvis_dataset"]

# WordNet's synsets of COCO's 80 categories, in COCO's order. LVIS's authors chose them; a cow is "beef".
_SYNSETS = """
person.n.01 bicycle.n.01 car.n.01 motorcycle.n.01 airplane.n.01 bus.n.01 train.n.01 truck.n.01 boat.n.01
traffic_light.n.01 fireplug.n.01 stop_sign.n.01 parking_meter.n.01 bench.n.01
bird.n.01 cat.n.01 dog.n.01 horse.n.01 sheep.n.01 beef.n.01 elephant.n.01 bear.n.01 zebra.n.01 giraffe.n.01
backpack.n.01 umbrella.n.01 bag.n.04 necktie.n.01 bag.n.06
frisbee.n.01 ski.n.01 snowboard.n.01 ball.n.06 kite.n.03 baseball_bat.n.01 baseball_glove.n.01 skateboard.n.01
surfboard.n.01 tennis_racket.n.01
bottle.n.01 wineglass.n.01 cup.n.01 fork.n.01 knife.n.01 spoon.n.01 bowl.n.03
banana.n.02 apple.n.01 sandwich.n.01 orange.n.01 broccoli.n.01 carrot.n.01 frank.n.02 pizza.n.01 doughnut.n.02 cake.n.03
chair.n.01 sofa.n.01 pot.n.04 bed.n.01 dining_table.n.01 toilet.n.02
television_receiver.n.01 laptop.n.01 mouse.n.04 remote_control.n.01 computer_keyboard.n.01 cellular_telephone.n.01
microwave.n.02 oven.n.01 toaster.n.02 sink.n.01 electric_refrigerator.n.01
book.n.01 clock.n.01 vase.n.01 scissors.n.01 teddy.n.01 hand_blower.n.01 toothbrush.n.01
""".split()

# Name -> annotation file, under lvis/ of the folder of data sets; the images are COCO's.
_BUILT_IN = {f"lvis_v0.5_{split}_cocofied": f"lvis_v0.5_{split}_cocofied.json" for split in ("train", "val")}

_RULES = {
    "images": {"id": ID, "height": SIZE, "width": SIZE, "neg_category_ids": IDS, "not_exhaustive_category_ids": IDS},
    "categories": {"id": ID, "frequency": TEXT},
    "annotations": {
        "id": ID, "image_id": ID, "category_id": ID, "bbox": BOX, "area": NUMBER, "segmentation": POLYGONS
    },
}  # fmt: skip


class Cocofied(NamedTuple):
    """What :func:`prepare_lvis` kept: numbers of images, annotations and categories."""

    images: int
    annotations: int
    categories: int


def coco_ids_of_synsets() -> dict[str, int]:
    """Return the id in COCO's files of each of the 80 WordNet synsets."""
    ids = MetadataCatalog.get("coco_2017_val").thing_dataset_id_to_contiguous_id
    return dict(zip(_SYNSETS, sorted(ids, key=ids.__getitem__)))


def read_lvis_file(path: str) -> dict:
    """Return the content of an LVIS annotation file (v0.5 or v1).

    Raises:
        UserError: it is missing, incomplete or of another format, with the place.
    """
    content = read_json(path)
    for part, rules in _RULES.items():
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            raise UserError(f"{path}: no LVIS annotations: it has no list of {part}")
        check_entries(path, content, part, rules)
    for number, image in enumerate(content["images"]):
        names = [image[key] for key in ("coco_url", "file_name") if key in image]
        if not names or not all(map(TEXT[0], names)):
            raise UserError(
                f"{path}: images[{number}] needs a coco_url or a file_name, a text; download the file again"
            )
    return content


def prepare_lvis(source: str, target: str) -> Cocofied:
    """Write the annotations of ``source``, an LVIS file, that are of COCO's categories, to ``target`` with COCO's ids.

    Annotations are numbered again from 1. Categories that no image names are left out. ``target`` is written beside its
    place and renamed, so that a killed run leaves the old file.

    Raises:
        UserError: ``source`` is not LVIS's or has none of the categories; ``target`` cannot be written.
    """
    if os.path.abspath(source) == os.path.abspath(target):
        raise UserError(f"{source}: the new annotations cannot have the name of those that they are made from")
    content = read_lvis_file(source)
    coco_ids = coco_ids_of_synsets()
    known = {c["id"] for c in content["categories"]}
    synsets = {c["id"]: str(c.get("synset")) for c in content["categories"]}
    new_ids = {i: coco_ids[synset] for i, synset in synsets.items() if synset in coco_ids}
    if not new_ids:
        raise UserError(f"{source}: none of its {len(known)} categories has the synset of one of COCO's")

    annotations, images = [], []
    for annotation in content["annotations"]:
        category = annotation["category_id"]
        if category not in known:
            raise UserError(f"{source}: annotation {annotation['id']} is of category {category}, which is not listed")
        if category in new_ids:
            annotations.append({**annotation, "category_id": new_ids[category], "id": len(annotations) + 1})
    for image in content["images"]:
        lists = ("not_exhaustive_category_ids", "neg_category_ids")
        images.append({**image, **{key: [new_ids[c] for c in image[key] if c in new_ids] for key in lists}})
    used = {a["category_id"] for a in annotations}
    used.update(c for i in images for key in ("not_exhaustive_category_ids", "neg_category_ids") for c in i[key])
    categories = [{**c, "id": new_ids[c["id"]]} for c in content["categories"] if new_ids.get(c["id"]) in used]

    make_folder(os.path.dirname(target))
    with written_beside(target) as beside, open(beside, "w", encoding="utf-8") as file:
        json.dump({**content, "images": images, "annotations": annotations, "categories": categories}, file)
    return Cocofied(len(images), len(annotations), len(categories))


def lvis_splits(root: str, splits: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the paths (LVIS file, file of COCO's categories) of splits such as "v0.5_val", under ``root``/lvis."""
    for split in splits:
        stem = os.path.join(root, "lvis", f"lvis_{split}")
        yield f"{stem}.json", f"{stem}_cocofied.json"


def register_lvis_dataset(name: str, images: str, annotations: str, classes_of: str = "coco_2017_val") -> None:
    """Register LVIS annotations under ``name``, to be evaluated by LVIS. The file is read at each load.

    Args:
        name: what ``DATASETS.TEST`` calls it. Registering a name again replaces what it stood for.
        images: the folder that contains COCO's image folders (train2017, val2017). For annotations without a
            ``coco_url``: the folder that their file names start from.
        annotations: the file, with the category ids of ``classes_of``; for COCO's, :func:`prepare_lvis` makes it.
        classes_of: the registered data set whose classes the model has.

    Raises:
        UserError: there is no data set ``classes_of``.
    """
    number, like = num_classes_of((classes_of,)), MetadataCatalog.get(classes_of)
    class_of = dict(like.get("thing_dataset_id_to_contiguous_id") or {i: i for i in range(number)})
    replace_dataset(
        name,
        functools.partial(_load, images, annotations, class_of, classes_of),
        {
            "json_file": annotations,
            "image_root": images,
            "evaluator_type": "lvis",
            "thing_classes": list(like.thing_classes),
            "thing_dataset_id_to_contiguous_id": class_of,
        },
    )


def _load(images: str, annotations: str, class_of: dict[int, int], classes_of: str) -> list[dict]:
    """Return the data set's dicts, by ascending image id."""
    remedy = "'python -m adet_ext data prepare-lvis' makes annotations of COCO's categories out of plain LVIS ones"
    if "://" not in annotations and not os.path.exists(annotations):
        raise UserError(f"{annotations}: there is no such file; {remedy}")
    content = read_lvis_file(annotations)
    by_id = {image["id"]: image for image in content["images"]}
    objects: dict[int, list[dict]] = {image_id: [] for image_id in by_id}
    for entry in content["annotations"]:
        where = f"{annotations}: annotation {entry['id']}"
        if entry["category_id"] not in class_of:
            raise UserError(f"{where} is of category {entry['category_id']}, not one of {classes_of}; {remedy}")
        if entry["image_id"] not in objects:
            raise UserError(f"{where} is of image {entry['image_id']}, which is not listed")
        if any(len(polygon) < 6 or len(polygon) % 2 for polygon in entry["segmentation"]):
            raise UserError(f"{where} has a polygon of fewer than 3 points, or an odd number of coordinates")
        image = by_id[entry["image_id"]]
        if any(reaches_far(np.array(p, float), image["height"], image["width"]) for p in entry["segmentation"]):
            raise UserError(f"{where} has a polygon that reaches far out of its image; correct its coordinates")
        objects[entry["image_id"]].append(
            {
                "bbox": entry["bbox"],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": class_of[entry["category_id"]],
                "segmentation": entry["segmentation"],
            }
        )
    return [
        {
            "file_name": _file_name(images, image),
            "height": image["height"],
            "width": image["width"],
            "not_exhaustive_category_ids": image["not_exhaustive_category_ids"],
            "neg_category_ids": image["neg_category_ids"],
            "image_id": image["id"],
            "annotations": objects[image["id"]],
        }
        for image in sorted(content["images"], key=lambda image: image["id"])
    ]


def _file_name(images: str, image: dict) -> str:
    # LVIS's file_name is that of COCO 2014. The names and folders of 2017 differ.
    name = image["coco_url"].split("/")[-2:] if "coco_url" in image else [image["file_name"]]
    return os.path.join(images, *name)


def _register_built_in() -> None:
    """Register the built-in names, which Detectron2 already has. They are read from the folder of the COCO sets."""
    root = os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))
    for name, file in _BUILT_IN.items():
        if name not in DatasetCatalog:
            register_lvis_dataset(name, os.path.join(root, "coco"), os.path.join(root, "lvis", file))


_register_built_in()
