"""LVIS and panoptic annotation files that are JSON and yet wrong are refused in one sentence."""

import json

import pytest

from adet_ext.d2.data import DatasetCatalog
from adet_ext.data.lvis import read_lvis_file, register_lvis_dataset
from adet_ext.data.prepare_panoptic import prepare_panoptic
from adet_ext.errors import UserError

POLYGON = [5.0, 5.0, 15.0, 5.0, 15.0, 15.0]


def lvis():
    return {
        "images": [
            {
                "id": 1,
                "height": 40,
                "width": 60,
                "file_name": "1.png",
                "neg_category_ids": [],
                "not_exhaustive_category_ids": [],
            }
        ],
        "categories": [{"id": 1, "frequency": "f"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 10, 10], "area": 50, "segmentation": [POLYGON]}
        ],
    }


@pytest.mark.parametrize(
    "part, changes, words",
    [
        ("images", {"id": [1]}, "id must be a whole number; got"),
        ("images", {"width": -1}, "width must be a positive whole number"),
        ("images", {"neg_category_ids": 3}, "a list of whole numbers"),
        ("images", {"file_name": None}, "needs a coco_url or a file_name"),
        ("categories", {"id": True}, "id must be a whole number"),
        ("annotations", {"bbox": [1, 2, float("nan"), 4]}, "four finite numbers"),
        ("annotations", {"area": 10**400}, "area must be a finite number"),
        ("annotations", {"segmentation": {"size": [40, 60]}}, "lists of finite numbers"),
        ("annotations", {"segmentation": [[1, 2, 10**400, 4, 5, 6]]}, "lists of finite numbers"),
    ],
)
def test_an_lvis_entry_that_is_wrong_is_refused(tmp_path, part, changes, words):
    content = lvis()
    content[part][0].update(changes)
    path = tmp_path / "lvis.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=words) as caught:
        read_lvis_file(str(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_an_lvis_polygon_far_outside_its_image_is_refused(tmp_path, forget):
    content = lvis()
    content["annotations"][0]["segmentation"] = [[5.0, 5.0, 4e8, 5.0, 15.0, 15.0]]
    path = tmp_path / "lvis.json"
    path.write_text(json.dumps(content))
    forget("lvis_of_this_test")
    register_lvis_dataset("lvis_of_this_test", str(tmp_path), str(path))
    with pytest.raises(UserError, match="annotation 1 has a polygon that reaches far out"):
        DatasetCatalog.get("lvis_of_this_test")


@pytest.mark.parametrize(
    "part, changes, words",
    [
        ("annotations", {"file_name": 5}, "file_name must be a text"),
        ("annotations", {"segments_info": [{"id": 2**31, "category_id": 1}]}, "from 0 to 16777215"),
        ("annotations", {"segments_info": [{"category_id": 1}]}, "objects with an id"),
        ("annotations", {"image_id": {}}, "image_id must be a whole number"),
        ("categories", {"isthing": "yes"}, "isthing must be 0 or 1"),
        ("images", {"height": 1.5}, "height must be a positive whole number"),
    ],
)
def test_a_panoptic_entry_that_is_wrong_is_refused(tmp_path, part, changes, words):
    segments = [{"id": 1, "category_id": 1}]
    content = {
        "images": [{"id": 1, "height": 4, "width": 6}],
        "categories": [{"id": 1, "isthing": 0}],
        "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": segments}],
    }
    content[part][0].update(changes)
    path = tmp_path / "panoptic.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=words):
        prepare_panoptic(str(path), str(tmp_path), str(tmp_path / "maps"))
