"""A small COCO-format data set on disk, to be spoiled by each test in its own way."""

import copy
import json

import numpy as np
import pytest
from PIL import Image


class CocoSet:
    """Four images of 60 x 40 pixels with a square each, and the dict that describes them."""

    def __init__(self, folder):
        self.images = folder / "images"
        self.json = folder / "annotations.json"
        self.images.mkdir()
        rng = np.random.RandomState(0)
        categories = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
        self.data = {"images": [], "annotations": [], "categories": categories}
        for i in range(4):
            name = f"image_{i}.png"
            Image.fromarray(rng.randint(0, 256, (40, 60, 3)).astype(np.uint8)).save(self.images / name)
            self.data["images"].append({"id": 10 + i, "file_name": name, "height": 40, "width": 60})
            self.data["annotations"].append(
                {
                    "id": 100 + i,
                    "image_id": 10 + i,
                    "category_id": (3, 7)[i % 2],
                    "bbox": [10.0, 8.0, 20.0, 16.0],
                    "area": 320.0,
                    "iscrowd": 0,
                    "segmentation": [[10.0, 8.0, 30.0, 8.0, 30.0, 24.0, 10.0, 24.0]],
                }
            )

    def write(self, **annotation_changes):
        """Write the JSON file, the first annotation changed, and return its path and that of the images."""
        data = copy.deepcopy(self.data)
        data["annotations"][0].update(annotation_changes)
        self.json.write_text(json.dumps(data))
        return str(self.json), str(self.images)


@pytest.fixture
def coco_set(tmp_path):
    return CocoSet(tmp_path)
