import hashlib
import json

import numpy as np
import pytest

from adet_ext.d2 import ENGINE
from adet_ext.d2.structures import BoxMode
from adet_ext.data.validate import validate_coco

NAN = float("nan")
SQUARE = [10.0, 8.0, 30.0, 8.0, 30.0, 24.0, 10.0, 24.0]


def check(coco_set, **annotation_changes):
    return validate_coco(*coco_set.write(**annotation_changes))


def count(checked):
    return sum(len(d["annotations"]) for d in checked.dataset_dicts)


def only(checked, kind, is_error):
    """The one finding there is; its sentence names the file."""
    assert list(checked.report.findings) == [kind], str(checked.report)
    finding = checked.report.findings[kind]
    assert finding.is_error == is_error and finding.count == 1
    assert finding.examples[0].startswith(checked.report.subject)
    return finding.examples[0]


def test_a_sound_file_gives_what_the_engine_s_own_loader_gives(coco_set, forget):
    checked = check(coco_set)
    assert checked.report.ok and not checked.report.findings and checked.repaired is None
    assert count(checked) == 4
    forget("some_coco_set_of_this_test")
    if ENGINE == "detectron2":
        from detectron2.data.datasets import load_coco_json
    else:
        from adet_ext.d2.embedded.data.coco import load_coco_json
    expected = load_coco_json(*coco_set.write(), dataset_name="some_coco_set_of_this_test")
    assert checked.dataset_dicts == expected
    assert checked.classes == ["cat", "dog"] and checked.category_ids == {3: 0, 7: 1}


def test_the_user_s_files_are_never_written_to(coco_set):
    paths = coco_set.write(bbox=[NAN, 0, 1, 1], segmentation=[])
    before = hashlib.sha256(coco_set.json.read_bytes()).hexdigest(), sorted(coco_set.images.parent.rglob("*"))
    validate_coco(*paths)
    after = hashlib.sha256(coco_set.json.read_bytes()).hexdigest(), sorted(coco_set.images.parent.rglob("*"))
    assert before == after


@pytest.mark.parametrize(
    "content, kind",
    [
        ("{", "not JSON"),
        ("", "not JSON"),
        ("\x00\x01", "not JSON"),
        ("[1, 2]", "not COCO"),
        ('{"images": [], "annotations": []}', "key missing"),
        ('{"images": {}, "annotations": [], "categories": []}', "wrong type"),
    ],
)
def test_a_file_of_another_kind_is_an_error(coco_set, content, kind):
    path, images = coco_set.write()
    coco_set.json.write_text(content)
    checked = validate_coco(path, images)
    only(checked, kind, True)
    assert checked.dataset_dicts == []


def test_a_missing_file_and_a_folder_in_its_place_are_errors(coco_set):
    assert only(validate_coco(str(coco_set.json), str(coco_set.images)), "file missing", True)
    assert only(validate_coco(str(coco_set.images), str(coco_set.images)), "file unreadable", True)


def test_an_empty_coco_file_is_an_error(coco_set):
    coco_set.data.update(images=[], annotations=[], categories=[])
    coco_set.json.write_text(json.dumps(coco_set.data))
    checked = validate_coco(str(coco_set.json), str(coco_set.images))
    assert set(checked.report.findings) == {"no images", "no categories"} and not checked.report.ok


def test_missing_images_are_named_and_bounded(coco_set):
    coco_set.data["images"] += [
        {"id": i, "file_name": f"gone_{i}.png", "height": 9, "width": 9} for i in range(100, 150)
    ]
    path, images = coco_set.write()
    checked = validate_coco(path, images, max_examples=3)
    finding = checked.report.findings["image file missing"]
    assert finding.count == 50 and len(finding.examples) == 3
    assert "image id 100" in finding.examples[0] and "gone_100.png" in finding.examples[0]
    assert "47 more" in str(checked.report)
    assert validate_coco(path, images, check_files=False).report.ok


def test_a_missing_image_folder_is_one_error(coco_set):
    path, images = coco_set.write()
    only(validate_coco(path, images + "_elsewhere"), "image folder missing", True)


def test_images_may_lie_in_sub_folders(coco_set):
    (coco_set.images / "a").mkdir()
    (coco_set.images / "image_0.png").rename(coco_set.images / "a" / "image_0.png")
    coco_set.data["images"][0]["file_name"] = "a/image_0.png"
    assert check(coco_set).report.ok


@pytest.mark.parametrize(
    "entry, kind",
    [
        (5, "image malformed"),
        ({"id": 1, "file_name": "image_0.png", "height": 4}, "image malformed"),
        ({"id": 1, "file_name": 3, "height": 4, "width": 4}, "image malformed"),
        ({"id": 1.5, "file_name": "image_0.png", "height": 4, "width": 4}, "image malformed"),
        ({"id": 1, "file_name": "image_0.png", "height": "4", "width": 4}, "image malformed"),
        ({"id": 1, "file_name": "image_0.png", "height": 4, "width": 0}, "image malformed"),
        ({"id": 10, "file_name": "image_0.png", "height": 4, "width": 4}, "image id twice"),
    ],
)
def test_an_image_that_is_wrong_is_an_error(coco_set, entry, kind):
    coco_set.data["images"].append(entry)
    only(check(coco_set), kind, True)


@pytest.mark.parametrize(
    "entry, kind, is_error",
    [
        ("cat", "category malformed", True),
        ({"id": "3", "name": "x"}, "category malformed", True),
        ({"id": 3, "name": "x"}, "category id twice", True),
        ({"id": 9, "name": "cat"}, "category name twice", False),
    ],
)
def test_a_category_that_is_wrong_is_found(coco_set, entry, kind, is_error):
    coco_set.data["categories"].append(entry)
    only(check(coco_set), kind, is_error)


@pytest.mark.parametrize(
    "changes, kind, words",
    [
        ({"id": 101}, "annotation id twice", "annotation id 101"),
        ({"category_id": 4}, "category unknown", "category id 4"),
        ({"category_id": "3"}, "annotation malformed", "category_id"),
        ({"bbox": [1, 2, 3]}, "annotation malformed", "bbox [1, 2, 3]"),
        ({"bbox": [1, 2, 3, "4"]}, "annotation malformed", "four numbers"),
        ({"bbox": None}, "annotation malformed", "four numbers"),
        ({"iscrowd": 2}, "annotation malformed", "iscrowd 2"),
        ({"segmentation": "polygon"}, "annotation malformed", "text"),
        ({"segmentation": [1, 2, 3, 4, 5, 6]}, "annotation malformed", "not of polygons"),
        ({"segmentation": {"size": [60, 40], "counts": [0, 2400]}}, "RLE size", "[40, 60]"),
        ({"segmentation": {"size": [40, 60], "counts": [0, 2401]}}, "RLE malformed", "2401"),
        ({"segmentation": {"size": [40, 60], "counts": "zzz"}}, "RLE malformed", "broken"),
        ({"segmentation": {"counts": "zzz"}}, "RLE malformed", "'size'"),
    ],
)
def test_an_annotation_that_cannot_be_meant_is_an_error(coco_set, changes, kind, words):
    sentence = only(check(coco_set, **changes), kind, True)
    assert words in sentence


def test_an_annotation_without_keys_is_an_error(coco_set):
    del coco_set.data["annotations"][0]["bbox"]
    assert "lacks bbox" in only(check(coco_set), "annotation malformed", True)


@pytest.mark.parametrize(
    "changes, kind",
    [
        ({"image_id": 99}, "annotation without image"),
        ({"bbox": [NAN, 8, 20, 16]}, "box not finite"),
        ({"bbox": [10, 8, float("inf"), 16]}, "box not finite"),
        ({"bbox": [10, 8, 0, 16]}, "box empty"),
        ({"bbox": [10, 8, 20, -3]}, "box empty"),
        ({"bbox": [70, 8, 20, 16]}, "box outside"),
        ({"bbox": [10, -20, 20, 16]}, "box outside"),
        ({"segmentation": []}, "mask missing"),
        ({"segmentation": None}, "mask missing"),
        ({"segmentation": [[]]}, "mask empty"),
        ({"segmentation": [[1.0, 1.0, 5.0, 5.0]]}, "mask empty"),
        ({"segmentation": [[1.0, 1.0, 5.0, 5.0, 9.0]]}, "mask empty"),
        ({"segmentation": [[1.0, 1.0, 5.0, 5.0, 9.0, 9.0]]}, "mask empty"),
        ({"segmentation": [[1.0, 1.0, 5.0, NAN, 9.0, 2.0]]}, "mask empty"),
        ({"segmentation": [["a", 1.0, 5.0, 2.0, 9.0, 2.0]]}, "mask empty"),
        ({"segmentation": {"size": [40, 60], "counts": [2400]}}, "mask empty"),
    ],
)
def test_an_annotation_of_nothing_is_left_out_and_counted(coco_set, changes, kind):
    checked = check(coco_set, **changes)
    sentence = only(checked, kind, False)
    assert "annotation id 100" in sentence and "left out" in sentence
    assert count(checked) == 3 and len(checked.dataset_dicts) == 4


def test_a_box_that_reaches_out_is_clipped_and_a_rounding_is_not(coco_set):
    checked = check(coco_set, bbox=[-10.0, 8.0, 100.0, 16.0])
    assert "clipped" in only(checked, "box reaches out", False)
    assert checked.dataset_dicts[0]["annotations"][0]["bbox"] == [0.0, 8.0, 60.0, 16.0]
    rounded = check(coco_set, bbox=[-0.5, 8.0, 60.9, 16.0])
    assert not rounded.report.findings
    assert rounded.dataset_dicts[0]["annotations"][0]["bbox"] == [-0.5, 8.0, 60.9, 16.0]


def test_sound_polygons_stay_where_others_are_unusable(coco_set):
    checked = check(coco_set, segmentation=[[1.0, 1.0], SQUARE])
    only(checked, "polygon unusable", False)
    assert checked.dataset_dicts[0]["annotations"][0]["segmentation"] == [SQUARE]


def test_a_polygon_that_crosses_itself_is_kept_with_a_warning(coco_set):
    bow_tie = [10.0, 8.0, 30.0, 24.0, 30.0, 8.0, 10.0, 24.0]
    checked = check(coco_set, segmentation=[bow_tie])
    only(checked, "polygon crosses itself", False)
    assert checked.dataset_dicts[0]["annotations"][0]["segmentation"] == [bow_tie]


def test_a_set_without_masks_is_one_for_detection(coco_set):
    for annotation in coco_set.data["annotations"]:
        annotation["segmentation"] = []
    checked = check(coco_set)
    assert not checked.report.findings and count(checked) == 4
    assert not any("segmentation" in a for d in checked.dataset_dicts for a in d["annotations"])


def test_uncompressed_rle_is_compressed_without_a_change(coco_set):
    import pycocotools.mask as mask_util

    checked = check(coco_set, segmentation={"size": [40, 60], "counts": [400, 20, 1980]}, area=20)
    assert not checked.report.findings and checked.repaired is None
    mask = mask_util.decode(checked.dataset_dicts[0]["annotations"][0]["segmentation"])
    assert mask.T.ravel()[400:420].all() and mask.sum() == 20


def test_the_ignore_flag_counts_as_a_crowd(coco_set):
    checked = check(coco_set, ignore=1)
    only(checked, "ignore flag", False)
    assert checked.dataset_dicts[0]["annotations"][0]["iscrowd"] == 1
    assert checked.repaired["annotations"][0]["iscrowd"] == 1


def test_what_evaluators_take_for_granted_is_filled_in(coco_set):
    for annotation in coco_set.data["annotations"]:
        del annotation["area"], annotation["iscrowd"]
    checked = check(coco_set)
    assert not checked.report.findings
    assert [a["area"] for a in checked.repaired["annotations"]] == [320.0] * 4
    assert [a["iscrowd"] for a in checked.repaired["annotations"]] == [0] * 4


def test_the_repaired_file_is_one_that_pycocotools_takes(coco_set, tmp_path):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    checked = check(coco_set, segmentation=[[1.0, 1.0, 5.0, 5.0]], bbox=[1, 1, NAN, 5])
    path = tmp_path / "repaired.json"
    path.write_text(json.dumps(checked.repaired))
    coco = COCO(str(path))
    found = [{**a, "score": 1.0} for a in checked.repaired["annotations"]]
    evaluation = COCOeval(coco, coco.loadRes(found), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == 1.0


def test_the_report_raises_one_sentence_per_kind_of_error(coco_set):
    from adet_ext.errors import UserError

    coco_set.data["annotations"][1]["category_id"] = 5
    coco_set.data["annotations"][2]["category_id"] = 6
    checked = check(coco_set, bbox="here")
    with pytest.raises(UserError) as caught:
        checked.report.raise_for_errors()
    lines = str(caught.value).splitlines()
    assert len(lines) == 2 and "(and 1 more of this kind)" in str(caught.value)


def test_images_come_in_the_order_of_their_ids(coco_set):
    for i, name in enumerate("dbca"):
        coco_set.data["images"][i]["id"] = coco_set.data["annotations"][i]["image_id"] = name
    assert [d["image_id"] for d in check(coco_set).dataset_dicts] == ["a", "b", "c", "d"]


def test_image_ids_of_two_kinds_are_an_error(coco_set):
    coco_set.data["images"][0]["id"] = coco_set.data["annotations"][0]["image_id"] = "first"
    only(check(coco_set), "image ids mixed", True)


@pytest.mark.parametrize("box", [[10, 8, 1e-6, 16], [59.9999, 8, 20, 16]])
def test_a_box_too_thin_for_training_is_left_out(coco_set, box):
    checked = check(coco_set, bbox=box)
    only(checked, "box empty", False)
    assert count(checked) == 3 and len(checked.repaired["annotations"]) == 3


def test_an_outline_that_is_traced_twice_sets_no_pixel(coco_set):
    only(check(coco_set, segmentation=[SQUARE + SQUARE]), "mask sets no pixel", False)
    assert not check(coco_set, segmentation=[SQUARE, SQUARE]).report.findings
    assert not check(coco_set, segmentation=[SQUARE + SQUARE[:2]]).report.findings  # closed


@pytest.mark.parametrize("text", ["\ud800", "a\0b"])
def test_texts_that_no_terminal_takes_are_errors(coco_set, text):
    coco_set.data["categories"][0]["name"] = text
    coco_set.data["images"][0]["file_name"] = text
    report = check(coco_set).report
    assert {"category malformed", "image malformed"} <= set(report.findings)
    str(report).encode()


def test_sentences_stay_on_one_line(coco_set):
    for entry, key in ((coco_set.data["images"][0], "id"), (coco_set.data["annotations"][0], "image_id")):
        entry[key] = "a\nb"
    for finding in check(coco_set, bbox=[0, 0, 0, 0]).report.findings.values():
        assert "\n" not in finding.examples[0]


@pytest.mark.parametrize("segmentation", [{"size": [40, 60]}, {"size": [40, 60], "counts": [1e300, 4]}])
def test_a_broken_mask_without_an_area_is_an_error(coco_set, segmentation):
    assert [f.kind for f in check(coco_set, segmentation=segmentation, area=-1).report.errors] == ["RLE malformed"]


def test_a_size_of_an_rle_mask_that_is_no_whole_number_is_an_error(coco_set):
    only(check(coco_set, segmentation={"size": [40, 60.0], "counts": [400, 20, 1980]}), "RLE size", True)


def test_boxes_are_plain_numbers_in_coco_s_layout(coco_set):
    annotation = check(coco_set, bbox=[10, 8, 20, 16]).dataset_dicts[0]["annotations"][0]
    assert annotation["bbox_mode"] == BoxMode.XYWH_ABS and all(type(v) is float for v in annotation["bbox"])
    assert not isinstance(annotation["bbox"], np.ndarray)
