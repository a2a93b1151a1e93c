"""Fuzz LVIS and panoptic annotation files: each is taken or refused in one sentence.

``python -m tests.fuzz.fuzz_other_annotations 1000`` prints how many files came to which end. A sample is its seed.
"""

import collections
import contextlib
import functools
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable

import numpy as np
from PIL import Image

from adet_ext.d2.data import DatasetCatalog
from adet_ext.data.lvis import prepare_lvis, register_lvis_dataset
from adet_ext.data.prepare_panoptic import _annotations, prepare_panoptic
from adet_ext.errors import UserError

from .annotation_files import change_bytes, change_key, change_value
from .harness import main, quiet_folder, run_samples


def lvis_file() -> dict:
    """Return a sound LVIS dict of two images."""
    lists = {"neg_category_ids": [2], "not_exhaustive_category_ids": [1]}
    synsets = {1: "cat.n.01", 2: "dog.n.01", 3: "zz.n.01"}
    polygon = [5, 5, 15, 5, 15, 15, 5, 15]
    return {
        "images": [{"id": i, "height": 40, "width": 60, "file_name": f"{i}.png", **lists} for i in (1, 2)],
        "categories": [{"id": i, "synset": synset, "frequency": "f"} for i, synset in synsets.items()],
        "annotations": [
            {
                "id": i + 1,
                "image_id": i % 2 + 1,
                "category_id": i % 3 + 1,
                "bbox": [5, 5, 10, 10],
                "area": 100,
                "segmentation": [polygon],
            }
            for i in range(4)
        ],
    }


def panoptic_file() -> dict:
    """Return a sound panoptic dict of one image: a thing on the left, stuff on the right."""
    segments = [{"id": 1, "category_id": 1}, {"id": 2, "category_id": 2}]
    return {
        "images": [{"id": 1, "height": 4, "width": 6, "file_name": "a.jpg"}],
        "categories": [{"id": 1, "name": "cat", "isthing": 1}, {"id": 2, "name": "sky", "isthing": 0}],
        "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": segments}],
    }


def spoiled_file(seed: int, make: Callable[[], dict]) -> bytes:
    """Return the file of a seed: that of ``make`` with one or two changes."""
    rng = random.Random(seed)
    data = make()
    for _ in range(rng.choice([1, 1, 2])):
        with contextlib.suppress(AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError):
            rng.choice([change_value, change_value, change_key])(rng, data)
    content = json.dumps(data).encode()
    return change_bytes(rng, content) if rng.random() < 0.15 else content


def _lvis(path: str, folder: str) -> str:
    made = os.path.join(folder, "made.json")
    prepare_lvis(path, made)
    register_lvis_dataset("fuzzed_lvis", folder, made)
    DatasetCatalog.get("fuzzed_lvis")
    return "lvis: accepted"


def _panoptic(path: str, folder: str) -> str:
    _annotations.cache_clear()  # the files have the same name
    with tempfile.TemporaryDirectory(dir=folder) as maps:
        done = prepare_panoptic(path, os.path.join(folder, "png"), maps)
    return "panoptic: a PNG named" if done.problems else "panoptic: accepted"


def check(sample: tuple[str, int], folder: str) -> tuple[str, str]:
    """Return the class of the file of a (format, seed), and what there is to say about it."""
    name, seed = sample
    path = os.path.join(folder, "annotations.json")
    make, use = {"lvis": (lvis_file, _lvis), "panoptic": (panoptic_file, _panoptic)}[name]
    with open(path, "wb") as file:
        file.write(spoiled_file(seed, make))
    try:
        return use(path, folder), ""
    except UserError as error:
        if "\n" in str(error) or len(str(error)) > 1000:
            return "FAULT: sentence", str(error)
        str(error).encode()
        return f"{name}: refused", ""


def run(n: int, seed: int = 0) -> tuple[collections.Counter, list]:
    """Check ``n`` files of each format and return the counts of the classes, and the faults."""
    samples = [(name, s) for s in range(seed, seed + n) for name in ("lvis", "panoptic")]
    with quiet_folder() as folder:
        ids = np.zeros((4, 6, 3), np.uint8)
        ids[:, :3, 0], ids[:, 3:, 0] = 1, 2
        os.mkdir(os.path.join(folder, "png"))
        Image.fromarray(ids).save(os.path.join(folder, "png", "a.png"))
        return run_samples(functools.partial(check, folder=folder), samples)


if __name__ == "__main__":
    sys.exit(main(run, 1000))
