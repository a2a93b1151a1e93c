"""Panoptic quality against a slow, literal account of the official evaluation, and by hand."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from adet_ext.d2.data import MetadataCatalog
from adet_ext.errors import UserError
from adet_ext.evaluation.panoptic import COCOPanopticEvaluator
from adet_ext.evaluation.pq import PQStat, compare_segments
from adet_ext.utils.segment_ids import id2rgb, rgb2id

THINGS, STUFF = (3, 8), (20, 30, 40)
CATEGORIES = [{"id": c, "name": f"c{c}", "isthing": int(c in THINGS)} for c in (*THINGS, *STUFF)]


def slow_counts(true, true_segments, pred, pred_segments):
    """{category: [sum of IoU, tp, fp, fn]} pixel set by pixel set."""
    counts = {c["id"]: [0.0, 0, 0, 0] for c in CATEGORIES}
    void = true == 0
    matched_true, matched_pred = set(), set()
    for t in true_segments:
        for p in pred_segments:
            if t["iscrowd"] or t["category_id"] != p["category_id"]:
                continue
            in_true, in_pred = true == t["id"], pred == p["id"]
            both = (in_true & in_pred).sum()
            iou = both / ((in_true | in_pred) & ~(in_pred & void)).sum()
            if iou > 0.5:
                counts[t["category_id"]][0] += iou
                counts[t["category_id"]][1] += 1
                matched_true.add(t["id"])
                matched_pred.add(p["id"])
    for t in true_segments:
        if t["id"] not in matched_true and not t["iscrowd"]:
            counts[t["category_id"]][3] += 1
    for p in pred_segments:
        if p["id"] in matched_pred:
            continue
        in_pred = pred == p["id"]
        forgiven = (in_pred & void).sum()
        crowds = [t for t in true_segments if t["iscrowd"] and t["category_id"] == p["category_id"]]
        if crowds:
            forgiven += (in_pred & (true == crowds[-1]["id"])).sum()
        if forgiven / in_pred.sum() <= 0.5:
            counts[p["category_id"]][2] += 1
    return counts


def random_map(rng, n, h=40, w=50, crowds=0.0):
    """(map, segments): rectangles over each other, some pixels void."""
    ids = np.zeros((h, w), np.uint32)
    labels = np.unique(rng.randint(1, 2**24, n))
    for label in labels:
        y, x = rng.randint(0, h), rng.randint(0, w)
        ids[y : y + rng.randint(5, 30), x : x + rng.randint(5, 30)] = label
    segments = []
    for label in np.unique(ids):
        if label:
            category = int(rng.choice([c["id"] for c in CATEGORIES]))
            crowd = int(category in THINGS and rng.rand() < crowds)
            area = int((ids == label).sum())
            segments.append({"id": int(label), "category_id": category, "area": area, "iscrowd": crowd})
    return ids, segments


def disturbed(rng, ids, segments):
    """A prediction that is mostly right: shifted, some segments voided, split or of another category."""
    pred = np.roll(ids, rng.randint(-1, 2, 2), (0, 1)).copy()
    for segment in segments:
        r = rng.rand()
        if r < 0.15:
            pred[pred == segment["id"]] = 0
        elif r < 0.3:
            pred[:, :25][pred[:, :25] == segment["id"]] = segment["id"] ^ 1
    known = {s["id"]: s["category_id"] for s in segments}
    result = []
    for label in np.unique(pred):
        if label:
            category = known.get(int(label), known.get(int(label) ^ 1, 20))
            if rng.rand() < 0.15:
                category = int(rng.choice([c["id"] for c in CATEGORIES]))
            result.append({"id": int(label), "category_id": category})
    return pred, result


@pytest.mark.parametrize("seed", range(30))
def test_counts_equal_those_of_the_slow_account(seed):
    rng = np.random.RandomState(seed)
    true, true_segments = random_map(rng, rng.randint(0, 14), crowds=0.4)
    pred, pred_segments = disturbed(rng, true, true_segments) if seed % 3 else random_map(rng, rng.randint(0, 14))
    stat = PQStat([c["id"] for c in CATEGORIES])
    compare_segments(true, true_segments, pred, pred_segments, stat)
    for i, (iou, tp, fp, fn) in enumerate(slow_counts(true, true_segments, pred, pred_segments).values()):
        assert (stat.tp[i], stat.fp[i], stat.fn[i]) == (tp, fp, fn)
        assert stat.iou[i] == pytest.approx(iou, rel=1e-12)


def test_void_and_crowd_forgive_what_lies_in_them():
    # 16 columns: void | crowd of category 3 | a thing of category 3, then stuff of category 20
    true = np.array([[0] * 4 + [1] * 4 + [2] * 4 + [5] * 4] * 4)
    truth = [
        {"id": 1, "category_id": 3, "iscrowd": 1, "area": 16},
        {"id": 2, "category_id": 3, "iscrowd": 0, "area": 16},
        {"id": 5, "category_id": 20, "iscrowd": 0, "area": 16},
    ]
    pred = np.array([[10] * 3 + [11] * 4 + [12] * 5 + [13] * 4] * 4)
    guess = [
        {"id": 10, "category_id": 8},  # in void altogether: forgiven
        {"id": 11, "category_id": 3},  # 1 of 4 columns in void, 3 in the crowd: forgiven
        {"id": 12, "category_id": 3},  # matches; one column lies in the crowd, which is no void
        {"id": 13, "category_id": 30},  # the right place, the wrong category
    ]
    stat = PQStat([c["id"] for c in CATEGORIES])
    compare_segments(true, truth, pred, guess, stat)
    assert dict(zip((3, 8, 20, 30, 40), zip(stat.tp, stat.fp, stat.fn))) == {
        3: (1, 0, 0), 8: (0, 0, 0), 20: (0, 0, 1), 30: (0, 1, 0), 40: (0, 0, 0),
    }  # fmt: skip
    assert stat.per_category()[3] == (0.8, 0.8, 1.0)
    assert stat.average({3, 8}) == {"pq": 0.8, "sq": 0.8, "rq": 1.0, "n": 1}
    assert stat.average({20, 30, 40})["pq"] == 0.0 and math.isnan(stat.average({40})["pq"])


def test_a_perfect_prediction_has_quality_one_and_a_list_that_is_not_the_map_is_refused():
    true, segments = random_map(np.random.RandomState(0), 9)
    stat = PQStat([c["id"] for c in CATEGORIES])
    compare_segments(true, segments, true, segments, stat)
    assert all(v == (1.0, 1.0, 1.0) for v in stat.per_category().values())
    with pytest.raises(ValueError, match=str(segments[0]["id"])):
        compare_segments(true, segments, true, segments[1:], stat)
    with pytest.raises(ValueError, match="123456"):
        compare_segments(true, segments, true, [*segments, {"id": 123456, "category_id": 3}], stat)


def test_pixels_of_unlisted_true_segments_are_neither_void_nor_anything():
    true = np.array([[9] * 4 + [1] * 4])
    pred = np.array([[5] * 4 + [6] * 4])
    stat = PQStat([3, 8])
    truth = [{"id": 1, "category_id": 3, "iscrowd": 0, "area": 4}]
    compare_segments(true, truth, pred, [{"id": 5, "category_id": 8}, {"id": 6, "category_id": 3}], stat)
    assert (stat.tp.tolist(), stat.fp.tolist(), stat.fn.tolist()) == ([1, 0], [0, 1], [0, 0])


def test_ids_survive_their_colours():
    ids = np.array([[0, 1, 255], [256, 65536, 2**24 - 1]])
    assert (rgb2id(id2rgb(ids)) == ids).all()


@pytest.fixture
def data_set(tmp_path):
    """Ground truth of five images on the disk, registered; predictions for it."""
    rng = np.random.RandomState(3)
    (tmp_path / "gt").mkdir()
    annotations, inputs, outputs, stat = [], [], [], PQStat([c["id"] for c in CATEGORIES])
    thing_ids, stuff_ids = {c: i for i, c in enumerate(THINGS)}, {c: i for i, c in enumerate(STUFF)}
    for i in range(5):
        true, segments = random_map(rng, 8, crowds=0.3)
        Image.fromarray(id2rgb(true)).save(tmp_path / "gt" / f"{i}.png")
        annotations.append({"image_id": i, "file_name": f"{i}.png", "segments_info": segments})
        pred, guess = disturbed(rng, true, segments)
        compare_segments(true, segments, pred, guess, stat)
        info = []
        for s in guess:
            isthing = s["category_id"] in THINGS
            table = thing_ids if isthing else stuff_ids
            info.append({"id": s["id"], "isthing": isthing, "category_id": table[s["category_id"]]})
        inputs.append({"image_id": i, "file_name": f"somewhere/{i}.jpg"})
        outputs.append({"panoptic_seg": (torch.as_tensor(pred.astype(np.int32)), info)})
    (tmp_path / "gt.json").write_text(json.dumps({"annotations": annotations, "categories": CATEGORIES}))
    name = "test_panoptic_evaluation"
    MetadataCatalog.get(name).set(
        panoptic_json=str(tmp_path / "gt.json"), panoptic_root=str(tmp_path / "gt"), label_divisor=1000,
        thing_dataset_id_to_contiguous_id=thing_ids, stuff_dataset_id_to_contiguous_id=stuff_ids,
    )  # fmt: skip
    yield name, inputs, outputs, stat
    MetadataCatalog.pop(name)


def test_evaluator_reports_the_averages_and_writes_the_official_format(data_set, tmp_path):
    name, inputs, outputs, stat = data_set
    evaluator = COCOPanopticEvaluator(name, str(tmp_path / "out"))
    evaluator.reset()
    evaluator.process(inputs[:2], outputs[:2])
    evaluator.process(inputs[2:], outputs[2:])
    result = evaluator.evaluate()["panoptic_seg"]
    assert list(result) == [f"{m}{s}" for s in ("", "_th", "_st") for m in ("PQ", "SQ", "RQ")]
    for suffix, ids in (("", {*THINGS, *STUFF}), ("_th", set(THINGS)), ("_st", set(STUFF))):
        average = stat.average(ids)
        for metric in ("PQ", "SQ", "RQ"):
            assert result[metric + suffix] == 100 * average[metric.lower()]
    assert 0 < result["PQ"] < 100
    written = json.load(open(tmp_path / "out" / "predictions.json"))
    assert written["categories"] == CATEGORIES and len(written["annotations"]) == 5
    first = written["annotations"][0]
    png = rgb2id(np.asarray(Image.open(tmp_path / "out" / "predictions" / first["file_name"])))
    assert (png == outputs[0]["panoptic_seg"][0].numpy()).all()
    assert {s["id"] for s in first["segments_info"]} == set(np.unique(png)) - {0}
    assert {s["category_id"] for s in first["segments_info"]} <= {*THINGS, *STUFF}


@pytest.mark.parametrize("isthing, kind", [(True, "thing"), (False, "stuff")])
def test_a_class_that_the_data_set_does_not_have_is_refused(data_set, isthing, kind):
    name, inputs, outputs, _ = data_set
    outputs[0]["panoptic_seg"][1][0].update(isthing=isthing, category_id=60)
    evaluator = COCOPanopticEvaluator(name)
    evaluator.reset()
    with pytest.raises(UserError, match=f"the {kind} classes of data set {name} .* index 60"):
        evaluator.process(inputs, outputs)


def test_an_image_without_prediction_is_named(data_set):
    name, inputs, outputs, _ = data_set
    evaluator = COCOPanopticEvaluator(name)
    evaluator.reset()
    evaluator.process(inputs[:3], outputs[:3])
    with pytest.raises(ValueError, match="image 3"):
        evaluator.evaluate()


def official(truth_json: Path, truth_root: Path, out: Path, capsys) -> dict[str, float]:
    """What panopticapi says of the predictions an evaluator left in ``out``, under our names."""
    evaluation = pytest.importorskip("panopticapi.evaluation", reason="panopticapi, the witness, is not installed")
    results = evaluation.pq_compute(str(truth_json), str(out / "predictions.json"), gt_folder=str(truth_root))
    capsys.readouterr()
    groups = {"": "All", "_th": "Things", "_st": "Stuff"}
    return {f"{m.upper()}{s}": 100 * results[g][m] for s, g in groups.items() for m in ("pq", "sq", "rq")}


def evaluated(name: str, out: Path, inputs: list[dict], outputs: list[dict]) -> dict[str, float]:
    evaluator = COCOPanopticEvaluator(name, str(out))
    evaluator.reset()
    evaluator.process(inputs, outputs)
    return dict(evaluator.evaluate()["panoptic_seg"])


@pytest.mark.parametrize("seed", range(3))
def test_the_numbers_are_the_official_ones_to_the_last_digit(seed, tmp_path, capsys):
    rng = np.random.RandomState(seed)
    (tmp_path / "gt").mkdir()
    annotations, inputs, outputs = [], [], []
    for i in range(37):  # runs of the processors are of unequal length
        true, segments = random_map(rng, rng.randint(0, 16), crowds=0.3)
        Image.fromarray(id2rgb(true)).save(tmp_path / "gt" / f"{i}.png")
        annotations.append({"image_id": i, "file_name": f"{i}.png", "segments_info": segments})
        pred, guess = disturbed(rng, true, segments)
        inputs.append({"image_id": i, "file_name": f"{i}.jpg"})
        outputs.append({"panoptic_seg": (torch.as_tensor(pred.astype(np.int32)), guess)})
    (tmp_path / "gt.json").write_text(json.dumps({"annotations": annotations, "categories": CATEGORIES}))
    name = "test_panoptic_official"
    MetadataCatalog.get(name).set(
        panoptic_json=str(tmp_path / "gt.json"), panoptic_root=str(tmp_path / "gt"),
        thing_dataset_id_to_contiguous_id={}, stuff_dataset_id_to_contiguous_id={},
    )  # fmt: skip
    try:
        ours = evaluated(name, tmp_path / "out", inputs, outputs)
    finally:
        MetadataCatalog.pop(name)
    assert ours == official(tmp_path / "gt.json", tmp_path / "gt", tmp_path / "out", capsys)
    assert 0 < ours["PQ_st"] < 100


@pytest.mark.skipif("ADET_EXT_TEST_DATA" not in os.environ, reason="ADET_EXT_TEST_DATA names no folder of real data")
def test_on_coco_the_numbers_are_the_official_ones_to_the_last_digit(tmp_path, capsys):
    root = Path(os.environ["ADET_EXT_TEST_DATA"]) / "coco_tiny"
    truth_json, truth_root = root / "annotations" / "panoptic_train.json", root / "panoptic_train"
    truth, rng = json.loads(truth_json.read_text()), np.random.RandomState(0)
    truth["annotations"] = truth["annotations"][30:65]  # with crowds; all hundred take a while
    assert any(s["iscrowd"] for a in truth["annotations"] for s in a["segments_info"])
    truth_json = tmp_path / "truth.json"
    truth_json.write_text(json.dumps(truth))
    inputs, outputs = [], []
    for annotation in truth["annotations"]:
        true = rgb2id(np.asarray(Image.open(truth_root / annotation["file_name"])))
        pred = np.roll(true, tuple(rng.randint(-12, 13, 2)), (0, 1))
        info = [{"id": s["id"], "category_id": s["category_id"]} for s in annotation["segments_info"]]
        for segment in info:
            if rng.rand() < 0.1:
                pred[pred == segment["id"]] = 0
            elif rng.rand() < 0.1:
                segment["category_id"] = int(rng.choice(truth["categories"])["id"])
        info = [s for s in info if (pred == s["id"]).any()]
        inputs.append({"image_id": annotation["image_id"], "file_name": annotation["file_name"]})
        outputs.append({"panoptic_seg": (torch.as_tensor(pred.astype(np.int32)), info)})
    name = "test_panoptic_coco_tiny"
    MetadataCatalog.get(name).set(
        panoptic_json=str(truth_json), panoptic_root=str(truth_root),
        thing_dataset_id_to_contiguous_id={}, stuff_dataset_id_to_contiguous_id={},
    )  # fmt: skip
    try:
        ours = evaluated(name, tmp_path, inputs, outputs)
    finally:
        MetadataCatalog.pop(name)
    assert ours == official(truth_json, truth_root, tmp_path, capsys)
    assert 20 < ours["PQ"] < 95
