import copy
import json
import os

import pytest

from adet_ext.config import get_cfg
from adet_ext.d2.data import DatasetCatalog, MetadataCatalog
from adet_ext.data import register as register_module
from adet_ext.data.catalog import replace_dataset
from adet_ext.data.register import num_classes_of, refresh_dataset, register_dataset
from adet_ext.data.shapes import register_shapes
from adet_ext.data.validate import validate_coco
from adet_ext.engine.evaluators import build_evaluator
from adet_ext.errors import UserError


def register(coco_set, forget, **annotation_changes):
    annotations, images = coco_set.write(**annotation_changes)
    forget("mine")
    return register_dataset("mine", images, annotations)


def test_classes_and_their_number_come_from_the_file(coco_set, forget):
    assert register(coco_set, forget) == ["cat", "dog"]
    metadata = MetadataCatalog.get("mine")
    assert metadata.thing_classes == ["cat", "dog"]
    assert metadata.thing_dataset_id_to_contiguous_id == {3: 0, 7: 1}
    assert metadata.evaluator_type == "coco" and metadata.json_file == str(coco_set.json)
    assert num_classes_of(["mine"]) == 2
    assert [d["annotations"][0]["category_id"] for d in DatasetCatalog.get("mine")] == [0, 1, 0, 1]


def test_registering_twice_is_safe_and_takes_changes(coco_set, forget):
    register(coco_set, forget)
    register(coco_set, forget)
    coco_set.data["categories"].append({"id": 9, "name": "owl"})
    assert register(coco_set, forget) == ["cat", "dog", "owl"]
    assert num_classes_of(["mine"]) == 3


def test_a_file_that_changed_is_read_anew(coco_set, forget):
    register(coco_set, forget)
    assert len(DatasetCatalog.get("mine")) == 4
    coco_set.data["images"].pop()
    coco_set.data["annotations"].pop()
    coco_set.write()
    assert len(DatasetCatalog.get("mine")) == 3


def test_classes_that_changed_since_registration_are_said(coco_set, forget):
    register(coco_set, forget)
    coco_set.data["categories"][0]["name"] = "lion"
    coco_set.write()
    with pytest.raises(UserError, match="have changed"):
        DatasetCatalog.get("mine")


def test_errors_of_the_file_stop_the_registration(coco_set, forget):
    with pytest.raises(UserError, match="category id 4"):
        register(coco_set, forget, category_id=4)
    assert "mine" not in DatasetCatalog


def test_a_failed_registration_leaves_the_old_one(coco_set, forget):
    register(coco_set, forget)
    with pytest.raises(UserError):
        register(coco_set, forget, category_id=4)
    assert MetadataCatalog.get("mine").thing_classes == ["cat", "dog"]


def test_evaluation_gets_a_repaired_copy_where_it_needs_one(coco_set, forget):
    for annotation in coco_set.data["annotations"]:
        del annotation["area"], annotation["iscrowd"]
    register(coco_set, forget)
    json_file = MetadataCatalog.get("mine").json_file
    assert json_file != str(coco_set.json) and os.path.dirname(json_file) != str(coco_set.json.parent)
    assert all(a["area"] == 320.0 for a in json.load(open(json_file))["annotations"])


def spoil(coco_set):
    """Make a file of which evaluators need a repaired copy."""
    for annotation in coco_set.data["annotations"]:
        del annotation["area"]


def evaluated(cfg):
    """Return the ids of the annotations that an evaluator made now compares with."""
    build_evaluator(cfg, "mine")
    return {a["id"] for a in json.load(open(MetadataCatalog.get("mine").json_file))["annotations"]}


@pytest.mark.parametrize("before", ["sound", "repaired"])
@pytest.mark.parametrize("after", ["sound", "repaired"])
def test_evaluation_follows_a_file_that_changed_without_a_load(coco_set, forget, before, after, tmp_path):
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    sound = copy.deepcopy(coco_set.data)
    if before == "repaired":
        spoil(coco_set)
    register(coco_set, forget)
    assert evaluated(cfg) == {100, 101, 102, 103}
    coco_set.data = sound
    coco_set.data["categories"][0]["id"] = 5
    for annotation in coco_set.data["annotations"]:
        annotation["id"] += 50
        annotation["category_id"] = {3: 5}.get(annotation["category_id"], annotation["category_id"])
    if after == "repaired":
        spoil(coco_set)
    coco_set.write()
    assert evaluated(cfg) == {150, 151, 152, 153}
    assert MetadataCatalog.get("mine").thing_dataset_id_to_contiguous_id == {5: 0, 7: 1}
    assert (MetadataCatalog.get("mine").json_file == str(coco_set.json)) == (after == "sound")


def test_a_change_of_equal_size_that_keeps_the_time_is_noticed(coco_set, forget):
    register(coco_set, forget)
    state = os.stat(coco_set.json)
    coco_set.data["annotations"][0]["bbox"][0] = 11.0
    coco_set.write()
    os.utime(coco_set.json, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert os.stat(coco_set.json).st_size == state.st_size
    assert DatasetCatalog.get("mine")[0]["annotations"][0]["bbox"][0] == 11


def test_a_change_during_the_check_is_noticed(coco_set, forget, monkeypatch):
    def changed_meanwhile(*args, **kwargs):
        checked = validate_coco(*args, **kwargs)
        monkeypatch.undo()
        coco_set.data["annotations"].pop()
        coco_set.write()
        return checked

    monkeypatch.setattr(register_module, "validate_coco", changed_meanwhile)
    register(coco_set, forget)
    assert sum(len(d["annotations"]) for d in DatasetCatalog.get("mine")) == 3


def test_a_changed_file_with_errors_stops_evaluation_and_the_checks_before_a_run(coco_set, forget):
    register(coco_set, forget)
    coco_set.write(category_id=4)
    for read in (lambda: build_evaluator(get_cfg(), "mine"), lambda: num_classes_of(["mine"])):
        with pytest.raises(UserError, match="category id 4"):
            read()
    coco_set.write()
    assert num_classes_of(["mine"]) == 2


def test_a_name_that_stands_for_another_set_by_now_is_left_alone(coco_set, forget):
    register(coco_set, forget)
    replace_dataset("mine", list, {"evaluator_type": "coco", "json_file": "other.json"})
    coco_set.json.unlink()
    refresh_dataset("mine")
    assert MetadataCatalog.get("mine").json_file == "other.json"


def test_an_unknown_name_is_said_with_what_to_do():
    with pytest.raises(UserError, match="--dataset NAME IMAGES ANNOTATIONS"):
        num_classes_of(["no_such_set"])


def test_data_sets_with_different_classes_cannot_be_mixed(coco_set, forget):
    register(coco_set, forget)
    with pytest.raises(UserError, match="different classes"):
        num_classes_of(["mine", "shapes_train"])
    forget("other_shapes")
    register_shapes("other_shapes", 2, 64)
    assert num_classes_of(["shapes_train", "other_shapes"]) == 6


def test_a_built_in_set_whose_files_are_missing_is_said():
    if os.path.exists(MetadataCatalog.get("coco_2014_val").json_file):
        pytest.skip("COCO 2014 is here")
    MetadataCatalog.get("coco_2014_val")
    try:
        assert num_classes_of(["coco_2014_val"]) == 80  # an engine that knows COCO's classes by heart
    except UserError as error:
        assert "DETECTRON2_DATASETS" in str(error)
