"""What validation accepts, training and evaluation take: perfect predictions score 100 on every accepted file."""

import importlib
import json
import os

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from PIL import Image

from adet_ext.config import get_cfg
from adet_ext.d2 import ENGINE
from adet_ext.d2.data import DatasetCatalog, MetadataCatalog
from adet_ext.d2.structures import Boxes, BoxMode, Instances
from adet_ext.data import register
from adet_ext.data.catalog import replace_dataset
from adet_ext.data.mapper import AdetDatasetMapper
from adet_ext.data.register import count_without_mask, register_dataset
from adet_ext.data.validate import validate_coco
from adet_ext.engine.evaluators import build_evaluator
from adet_ext.errors import UserError
from adet_ext.utils.image_io import read_labels

SQUARE = [10.0, 8.0, 30.0, 8.0, 30.0, 24.0, 10.0, 24.0]


@pytest.fixture
def config(tmp_path):
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    cfg.MODEL.META_ARCHITECTURE = "BlendMask"
    cfg.DATASETS.TEST = ("mine",)
    return cfg


def mask_of(segmentation, height, width):
    if isinstance(segmentation, list):
        segmentation = mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
    return mask_util.decode([segmentation])[:, :, 0].astype(bool)


def perfect_scores(cfg, name="mine"):
    """AP by task when the predictions are the annotations that a model is trained on."""
    evaluator = build_evaluator(cfg, name)
    evaluator._distributed = False
    evaluator.reset()
    for record in DatasetCatalog.get(name):
        height, width = record["height"], record["width"]
        objects = [a for a in record["annotations"] if not a["iscrowd"]]
        found = Instances((height, width))
        boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in objects]
        found.pred_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
        found.pred_classes = torch.tensor([a["category_id"] for a in objects], dtype=torch.int64)
        found.scores = torch.ones(len(objects))
        masks = [mask_of(a["segmentation"], height, width) for a in objects if "segmentation" in a]
        if len(masks) == len(objects):
            found.pred_masks = torch.tensor(np.array(masks, bool).reshape(-1, height, width))
        evaluator.process([record], [{"instances": found}])
    return {task: values["AP"] for task, values in evaluator.evaluate().items()}


def add(coco_set, forget, **options):
    forget("mine")
    annotations, images = coco_set.write()
    return register_dataset("mine", images, annotations, **options)


@pytest.mark.parametrize(
    "changes",
    [
        {"id": 0},
        {"id": -5},
        {"id": "first"},
        {"area": -1},
        {"area": 0},
        {"area": 1e12},
        {"area": float("nan")},
        {"area": "large"},
        {"iscrowd": True},
        {"iscrowd": 1.0},
        {"iscrowd": None},
        {"bbox": [-8, 3, 30, 24]},
        {"bbox": [10, 8, 10**400, 16]},
        {"bbox": [float("nan"), 8, 20, 16]},
        {"segmentation": [SQUARE, [1, 2]]},
        {"segmentation": [[500.0, 500, 530, 500, 530, 524]]},
        {"segmentation": [[10.0, 8, 4e8, 8, 30, 24]]},
        {"segmentation": [[10.0, 8, 1e300, 8, 30, 24]]},
        {"segmentation": {"size": [40, 60], "counts": [400, 20, 1980]}},
        {"ignore": 1},
        {"bbox": [60, 8, 1, 16]},
        {"bbox": [59.6, 8, 1.2, 16]},
        {"segmentation": [[5.0, 8.45, 55, 8.45, 55, 8.55, 5, 8.55]]},
    ],
    ids=str,
)
def test_perfect_predictions_score_100_on_what_is_accepted(coco_set, forget, config, changes):
    coco_set.data["annotations"][0].update(changes)
    add(coco_set, forget)
    assert perfect_scores(config) == {"bbox": pytest.approx(100), "segm": pytest.approx(100)}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_other_encodings_are_read_alike_by_all(coco_set, forget, config, encoding):
    coco_set.data["categories"][0]["name"] = "Käfer"
    annotations, images = coco_set.write()
    coco_set.json.write_text(json.dumps(coco_set.data, ensure_ascii=False), encoding=encoding)
    forget("mine")
    assert register_dataset("mine", images, annotations) == ["Käfer", "dog"]
    assert perfect_scores(config)["segm"] == pytest.approx(100)


def test_classes_are_matched_by_name(coco_set, forget, config):
    coco_set.data["categories"] = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}]
    assert add(coco_set, forget, classes=["owl", "cat", "dog"]) == ["owl", "cat", "dog"]
    # Annotations of id 3 are dogs now.
    assert [d["annotations"][0]["category_id"] for d in DatasetCatalog.get("mine")] == [2, 1, 2, 1]
    assert perfect_scores(config)["bbox"] == pytest.approx(100)
    with pytest.raises(UserError, match="dog are not among the model's classes"):
        add(coco_set, forget, classes=["cat", "owl"])


def test_a_set_without_masks_is_scored_by_its_boxes(coco_set, forget, config):
    for annotation in coco_set.data["annotations"]:
        del annotation["segmentation"]
    add(coco_set, forget)
    assert MetadataCatalog.get("mine").has_masks is False
    assert perfect_scores(config) == {"bbox": pytest.approx(100)}


def register_as_detectron2_does(coco_set, forget):
    forget("mine")
    module = "detectron2.data.datasets" if ENGINE == "detectron2" else "adet_ext.d2.embedded.data"
    importlib.import_module(module).register_coco_instances("mine", {}, *coco_set.write())


def predictions_with_masks(cfg):
    """Return the scores of perfect boxes with masks that are the boxes."""
    evaluator = build_evaluator(cfg, "mine")
    evaluator._distributed = False
    evaluator.reset()
    for record in DatasetCatalog.get("mine"):
        found = Instances((record["height"], record["width"]))
        boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in record["annotations"]]
        found.pred_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
        found.pred_classes = torch.tensor([a["category_id"] for a in record["annotations"]], dtype=torch.int64)
        found.scores = torch.ones(len(boxes))
        found.pred_masks = torch.zeros(len(boxes), record["height"], record["width"], dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(found.pred_masks, boxes):
            mask[int(y0) : int(y1), int(x0) : int(x1)] = True
        evaluator.process([record], [{"instances": found}])
    return {task: values["AP"] for task, values in evaluator.evaluate().items()}


@pytest.mark.parametrize("missing", [0, 1, 4])
@pytest.mark.parametrize("how", ["no key", "empty", "null"])
def test_boxes_alone_count_in_a_set_registered_elsewhere_whose_masks_are_not_all_there(
    coco_set, forget, config, caplog, missing, how
):
    for annotation in coco_set.data["annotations"][:missing]:
        annotation["segmentation"] = {"empty": [], "null": None}.get(how)
        if how == "no key":
            del annotation["segmentation"]
    register_as_detectron2_does(coco_set, forget)
    caplog.set_level("INFO", "adet_ext.engine.evaluators")
    scores = predictions_with_masks(config)
    assert scores == dict.fromkeys(["bbox"] if missing else ["bbox", "segm"], pytest.approx(100))
    said = {0: "", 1: "1 of 4 annotations of data set mine have no mask", 4: "Data set mine has no masks"}[missing]
    assert said in caplog.text and ("boxes alone" in caplog.text) == (missing > 0)


def test_masks_of_a_set_without_a_file_are_counted_in_its_dicts(coco_set, forget):
    register_as_detectron2_does(coco_set, forget)
    records = DatasetCatalog.get("mine")
    records[0]["annotations"][0]["segmentation"] = np.ones((40, 60), bool)
    del records[1]["annotations"][0]["segmentation"]
    replace_dataset("mine", lambda: records, {"evaluator_type": "coco"})
    assert count_without_mask("mine") == (1, 4)


def test_more_than_100_objects_of_an_image_count(coco_set, forget, config):
    first = coco_set.data["annotations"][0]
    places = [(x, y) for x in range(0, 58, 4) for y in range(0, 38, 3)]
    corners = [(x, y, x + 3, y, x + 3, y + 2, x, y + 2) for x, y in places]
    coco_set.data["annotations"] = [
        {**first, "id": i + 1, "bbox": [*p[:2], 3, 2], "area": 6, "segmentation": [[float(v) for v in p]]}
        for i, p in enumerate(corners)
    ]
    add(coco_set, forget)
    assert len(places) > 150 and perfect_scores(config)["bbox"] < 80
    config.MODEL.FCOS.POST_NMS_TOPK_TEST = 300
    assert perfect_scores(config)["bbox"] == pytest.approx(100)


def test_two_test_sets_keep_their_own_results(coco_set, forget, config):
    add(coco_set, forget)
    config.DATASETS.TEST = ("mine", "other")
    perfect_scores(config)
    assert os.path.isfile(os.path.join(config.OUTPUT_DIR, "inference", "mine", "coco_instances_results.json"))


def test_a_set_is_validated_once(coco_set, forget, monkeypatch):
    calls = []
    monkeypatch.setattr(register, "validate_coco", lambda *a, **k: calls.append(a) or validate_coco(*a, **k))
    add(coco_set, forget)
    first = DatasetCatalog.get("mine")
    first[0]["annotations"].clear()  # a load is the caller's own
    assert len(DatasetCatalog.get("mine")[0]["annotations"]) == 1 and len(calls) == 1


def test_coordinates_in_0_to_1_are_refused(coco_set):
    for annotation in coco_set.data["annotations"]:
        annotation["bbox"] = [v / 60 for v in annotation["bbox"]]
    assert "multiply them" in str(validate_coco(*coco_set.write()).report)


def test_crowds_are_named(coco_set):
    for annotation in coco_set.data["annotations"][1:]:
        annotation["iscrowd"] = 1
    assert "3 of 4 annotations have iscrowd 1" in str(validate_coco(*coco_set.write()).report)


@pytest.mark.parametrize(
    "change",
    [
        {"id": 10**30},
        {"id": 10**5000},
        {"bbox": [10**5000, 1, 2, 3]},
        {"segmentation": {"size": [40, 60], "counts": [2**64, 5]}},
    ],
    ids=["id", "long id", "long box", "run"],
)
def test_numbers_without_measure_are_refused_in_a_sentence(coco_set, change):
    import sys

    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        paths = coco_set.write(**change)
    finally:
        sys.set_int_max_str_digits(before)
    report = validate_coco(*paths).report
    assert len(str(report)) < 1500
    assert report.errors or report.count("box not finite")


def test_file_names_may_not_leave_the_folder_unless_allowed(coco_set, forget):
    os.rename(coco_set.images / "image_0.png", coco_set.images.parent / "image_0.png")
    coco_set.data["images"][0]["file_name"] = "../image_0.png"
    with pytest.raises(UserError, match="--allow-outside"):
        add(coco_set, forget)
    assert add(coco_set, forget, allow_outside=True) == ["cat", "dog"]
    coco_set.data["images"][0]["file_name"] = str(coco_set.images.parent / "image_0.png")
    with pytest.raises(UserError, match="leaves the image folder"):
        add(coco_set, forget)


def test_windows_paths_are_found(coco_set, forget):
    os.makedirs(coco_set.images / "a")
    os.rename(coco_set.images / "image_0.png", coco_set.images / "a" / "image_0.png")
    coco_set.data["images"][0]["file_name"] = "a\\image_0.png"
    add(coco_set, forget)
    assert os.path.isfile(DatasetCatalog.get("mine")[0]["file_name"])


def test_the_mapper_bounds_polygons_that_nothing_has_checked(coco_set, config):
    config.MODEL.MASK_ON = True
    config.MODEL.BASIS_MODULE.LOSS_ON = True
    annotation = {"bbox": [10, 8, 20, 16], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "iscrowd": 0}
    record = {"file_name": str(coco_set.images / "image_0.png"), "height": 40, "width": 60, "image_id": 0}
    for far in (1e8, 2.0**31, 1e300):
        polygon = [10.0, 8, far, 8, 10, 24]
        sample = AdetDatasetMapper(config, True)({**record, "annotations": [{**annotation, "segmentation": [polygon]}]})
        assert sample["basis_sem"].any()
    with pytest.raises(UserError, match="finite"):
        polygon = [10.0, 8, float("inf"), 8, 10, 24]
        AdetDatasetMapper(config, True)({**record, "annotations": [{**annotation, "segmentation": [polygon]}]})
    for polygon in ([10, 8, 10**400, 8, 10, 24], ["a", 8, 30, 8, 10, 24], [10, 8, 30, 8, 10]):
        with pytest.raises(UserError, match="a polygon must be"):
            AdetDatasetMapper(config, True)({**record, "annotations": [{**annotation, "segmentation": [polygon]}]})


@pytest.mark.parametrize("size", [(1, 30000), (30000, 1)])
def test_a_very_long_image_keeps_a_pixel_a_side(tmp_path, config, size):
    path = str(tmp_path / "long.png")
    Image.fromarray(np.zeros((*size, 3), np.uint8)).save(path)
    for training in (True, False):
        image = AdetDatasetMapper(config, training)({"file_name": path, "annotations": []})["image"]
        assert min(image.shape[1:]) == 1 and max(image.shape[1:]) == 1333


def test_label_maps_are_numbers_whatever_the_file_holds(tmp_path):
    labels = np.array([[0, 3], [200, 255]], np.uint8)
    palette = Image.fromarray(labels, mode="P")
    palette.putpalette([v for i in range(256) for v in (255 - i, 0, i)])
    gray, deep = Image.fromarray(labels), Image.fromarray(labels.astype(np.uint16) + 300)
    for name, image, expected in (
        ("palette", palette, labels),
        ("gray", gray, labels),
        ("rgb", gray.convert("RGB"), labels),
        ("alpha", gray.convert("LA"), labels),
        ("one bit", Image.fromarray(labels > 100), labels > 100),
        ("deep", deep, labels.astype(int) + 300),
    ):
        image.save(tmp_path / f"{name}.png")
        assert np.array_equal(read_labels(str(tmp_path / f"{name}.png")), expected), name
    palette.convert("RGB").save(tmp_path / "colors.png")
    with pytest.raises(ValueError, match="colors"):
        read_labels(str(tmp_path / "colors.png"))
