"""VOC's AP: the numbers of a slow, literal reading of its definition, of Detectron2's evaluator, and by hand."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from adet_ext.config import get_cfg
from adet_ext.d2 import ENGINE
from adet_ext.d2.data import MetadataCatalog
from adet_ext.d2.engine import launch
from adet_ext.d2.evaluation import inference_on_dataset
from adet_ext.d2.structures import Boxes, Instances
from adet_ext.d2.utils import comm
from adet_ext.data.register import register_dataset
from adet_ext.data.voc import register_voc_dataset
from adet_ext.engine.evaluators import build_evaluator
from adet_ext.engine.trainer import Trainer
from adet_ext.errors import UserError
from adet_ext.evaluation.voc import VOCEvaluator
from adet_ext.evaluation.voc_ap import Detections, Truth, average_precision, voc_average_precisions

from ..voc_set import VocSet, xml

THRESHOLDS = [t / 100.0 for t in range(50, 100, 5)]


def witness(objects, detections, label, threshold, eleven_points):
    """AP of one class, one detection after the other, in pixels counted from 1 with both ends in the box.

    Args:
        objects: list of (image, label, (xmin, ymin, xmax, ymax), difficult).
        detections: list of (image, label, (xmin, ymin, xmax, ymax), score).
    """
    mine = [[*o, False] for o in objects if o[1] == label]  # the last: whether it has been detected
    positives = sum(1 for o in mine if not o[3])
    if not positives:
        return math.nan
    ranked = sorted((d for d in detections if d[1] == label), key=lambda d: -d[3])  # stable
    right = wrong = 0
    curve = []
    for image, _, box, _ in ranked:
        best, best_overlap = None, 0.0
        for candidate in mine:
            if candidate[0] != image:
                continue
            other = candidate[2]
            width = min(box[2], other[2]) - max(box[0], other[0]) + 1
            height = min(box[3], other[3]) - max(box[1], other[1]) + 1
            if width <= 0 or height <= 0:
                continue
            area = (box[2] - box[0] + 1) * (box[3] - box[1] + 1)
            area += (other[2] - other[0] + 1) * (other[3] - other[1] + 1)
            overlap = width * height / (area - width * height)
            if overlap > best_overlap:
                best, best_overlap = candidate, overlap
        if best is None or best_overlap <= threshold:
            wrong += 1
        elif not best[3]:
            if best[4]:
                wrong += 1
            else:
                best[4] = True
                right += 1
        curve.append((right / positives, right / (right + wrong) if right + wrong else 0.0))
    if eleven_points:
        total = 0.0
        for point in np.arange(0.0, 1.1, 0.1):
            total += max((p for r, p in curve if r >= point), default=0.0) / 11
        return total
    total = before = 0.0
    for number, (recall, _) in enumerate(curve):
        if recall > before:
            total += (recall - before) * max(p for _, p in curve[number:])
            before = recall
    return total


def ours(objects, detections, classes, eleven_points, thresholds=THRESHOLDS):
    """The same by the package, whose axes start at 0."""

    def columns(rows, last):
        boxes = np.array([row[2] for row in rows], float).reshape(-1, 4) - (1, 1, 0, 0)
        images, labels = (np.array([row[i] for row in rows], np.int64) for i in (0, 1))
        return images, labels, boxes, np.array([row[3] for row in rows], last)

    truth, found = Truth(*columns(objects, bool)), Detections(*columns(detections, float))
    return voc_average_precisions(truth, found, classes, np.array(thresholds), eleven_points)


def scene(rng, *, images=6, classes=4, side=24, half=False):
    """Objects on a small grid, so that boxes repeat, and detections near them, far from them and doubled."""

    def box():
        low = rng.randint(1, side - 4, 2)
        high = low + rng.randint(2, 12, 2)
        return (*low.tolist(), *high.tolist())

    objects, detections = [], []
    for image in range(images):
        for _ in range(rng.randint(0, 5)):
            objects.append((image, int(rng.randint(classes - 1)), box(), bool(rng.rand() < 0.3)))
    scores = iter(rng.permutation(1000)[:900] / 1000)
    for image, label, place, _ in objects:
        for _ in range(rng.randint(0, 4)):
            moved = np.array(place) + rng.randint(-2, 3, 4) / (2 if half else 1)
            moved[2:] = np.maximum(moved[2:], moved[:2])
            detections.append((image, label, tuple(moved.tolist()), float(next(scores))))
    for _ in range(rng.randint(0, 12)):
        detections.append((int(rng.randint(images)), int(rng.randint(classes)), box(), float(next(scores))))
    return objects, [detections[i] for i in rng.permutation(len(detections))]


@pytest.mark.parametrize("eleven_points", [False, True])
@pytest.mark.parametrize("seed", range(30))
def test_ap_is_that_of_the_definition_read_literally(seed, eleven_points):
    rng = np.random.RandomState(seed)
    objects, detections = scene(rng, half=seed % 2 == 1)
    if seed % 3 == 0:  # ties: the order of arrival decides
        detections = [(*d[:3], round(d[3], 1)) for d in detections]
    if seed % 10 == 9:
        detections = []
    found = ours(objects, detections, 4, eleven_points)
    expected = [[witness(objects, detections, c, t, eleven_points) for c in range(4)] for t in THRESHOLDS]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert np.isnan(found[:, 3]).all()  # the class without objects


def test_the_witness_and_the_package_are_right_on_a_case_by_hand():
    """Two objects. Right, wrong, right: precisions 1, 1/2, 2/3 at recalls 1/2, 1/2, 1."""
    objects = [(0, 0, (1, 1, 10, 10), False), (1, 0, (1, 1, 10, 10), False)]
    detections = [
        (0, 0, (1, 1, 10, 10), 0.9),
        (0, 0, (1, 1, 10, 9), 0.8),  # of the same object: wrong
        (1, 0, (1, 1, 10, 8), 0.7),  # IoU 0.8
    ]
    all_points, eleven = 0.5 + 0.5 * 2 / 3, (6 + 5 * 2 / 3) / 11
    for function in (
        lambda e: ours(objects, detections, 1, e)[0, 0],
        lambda e: witness(objects, detections, 0, 0.5, e),
    ):
        assert function(False) == pytest.approx(all_points) and function(True) == pytest.approx(eleven)
    assert ours(objects, detections, 1, False)[6, 0] == 0.5  # at 0.8 the third is not above the threshold


def test_both_ends_are_in_a_box():
    """Pixels 1 to 2 and 1 to 4 in a row: 2 of 4 pixels; without the devkit's + 1 it would be 1 of 3."""
    objects = [(0, 0, (1, 1, 4, 1), False)]
    for threshold, ap in ((0.49, 1), (0.5, 0)):
        assert ours(objects, [(0, 0, (1, 1, 2, 1), 1.0)], 1, False, [threshold])[0, 0] == ap


def test_difficult_objects_cost_and_give_nothing():
    objects = [(0, 0, (1, 1, 9, 9), True), (1, 0, (1, 1, 9, 9), False)]
    right = (1, 0, (1, 1, 9, 9), 0.1)
    on_difficult = [(0, 0, (1, 1, 9, 9), score) for score in (0.9, 0.8, 0.7)]
    assert (ours(objects, [right], 1, False) == 1).all()
    assert (ours(objects, [*on_difficult, right], 1, False) == 1).all()
    assert (ours(objects, on_difficult, 1, True) == 0).all()
    assert np.isnan(ours(objects[:1], on_difficult, 1, True)).all()


def test_a_detection_is_compared_with_the_object_that_it_overlaps_most_alone():
    """The second best object is free, and is not taken: so has the devkit it, unlike COCO."""
    objects = [(0, 0, (1, 1, 10, 10), False), (0, 0, (1, 1, 10, 12), False)]
    detections = [(0, 0, (1, 1, 10, 10), 0.9), (0, 0, (1, 1, 10, 10), 0.8)]
    assert ours(objects, detections, 1, False, [0.5])[0, 0] == 0.5


def test_boxes_that_are_no_boxes_are_wrong_and_break_nothing():
    objects = [(0, 0, (1, 1, 9, 9), False)]
    odd = [(0, 0, box, 0.9) for box in ((9, 9, 1, 1), (math.nan, 1, 9, 9), (5, 5, 4, 4), (1, 1, math.inf, 9))]
    assert ours(objects, [*odd, (0, 0, (1, 1, 9, 9), 0.1)], 1, False, [0.5])[0, 0] == pytest.approx(0.2)
    with np.errstate(all="raise"):
        assert (
            average_precision(np.zeros(0), np.zeros(0), True) == average_precision(np.zeros(0), np.zeros(0), False) == 0
        )


@pytest.mark.parametrize("seed", range(10))
def test_ap_depends_on_neither_the_order_of_images_nor_the_scale_of_scores(seed):
    rng = np.random.RandomState(seed)
    objects, detections = scene(rng)
    found = ours(objects, detections, 4, False)
    images = rng.permutation(6)
    moved = sorted(((int(images[o[0]]), *o[1:]) for o in objects), key=lambda o: o[0])
    rescaled = [(int(images[d[0]]), *d[1:3], d[3] ** 3) for d in reversed(detections)]
    np.testing.assert_array_equal(ours(moved, rescaled, 4, False), found)
    worse = ours(objects, [(0, c, (200, 200, 210, 210), 2.0) for c in range(4)] + detections, 4, False)
    defined = ~np.isnan(found)
    assert (worse[defined] <= found[defined]).all() and ((0 <= found) & (found <= 1))[defined].all()


# The evaluator, on files.

NAMES = ["cat", "dog", "owl"]


def instances(*found):
    """(label, score, x0, y0, x1, y1) on axes from 0."""
    output = Instances((40, 60))
    output.pred_classes = torch.tensor([f[0] for f in found], dtype=torch.int64)
    output.scores = torch.tensor([f[1] for f in found], dtype=torch.float32)
    output.pred_boxes = Boxes(torch.tensor([f[2:] for f in found], dtype=torch.float32).reshape(-1, 4))
    return {"instances": output}


IMAGES = {
    "b": [("dog", 11, 9, 30, 24), ("cat", 1, 1, 60, 40)],
    "a": [("cat", 5, 5, 14, 14), ("cat", 21, 5, 30, 34, True)],
}
FOUND = {
    "b": [(1, 0.9, 10, 8, 30, 24), (0, 0.5, 0, 0, 60, 40)],
    "a": [(0, 0.8, 4, 4, 14, 14), (0, 0.7, 20, 4, 30, 34), (0, 0.6, 40, 4, 50, 34)],
}


@pytest.fixture
def registered(tmp_path, forget):
    forget("mine")
    voc_set = VocSet(tmp_path / "set", IMAGES)
    register_dataset("mine", voc_set.images, voc_set.list, classes=NAMES)
    return voc_set


def evaluate(found, **options):
    evaluator = VOCEvaluator("mine", **options)
    evaluator.reset()
    for image, objects in found.items():
        evaluator.process([{"image_id": image}], [instances(*objects)])
    return evaluator.evaluate()


def test_results_are_detectron2_s_with_every_class_beside_them(registered, tmp_path, caplog):
    with caplog.at_level("INFO", logger="adet_ext"):
        results = evaluate(FOUND, output_dir=str(tmp_path / "out"))
    assert list(results) == ["bbox"]
    metrics = results["bbox"]
    assert list(metrics)[:3] == ["AP", "AP50", "AP75"] and set(list(metrics)[3:]) == {
        f"{key}-{name}" for key in ("AP", "AP50") for name in NAMES
    }
    cat = 100 * (0.5 + 0.5 * 2 / 3)  # right, ignored, wrong, right
    assert [metrics["AP50-cat"], metrics["AP-cat"]] == [pytest.approx(cat)] * 2
    assert metrics["AP50-dog"] == 100 and math.isnan(metrics["AP50-owl"])
    assert [metrics[key] for key in ("AP", "AP50", "AP75")] == [pytest.approx((cat + 100) / 2)] * 3
    assert "over all points" in caplog.text and "dog    100.000  100.000" in caplog.text and "owl" in caplog.text
    lines = (tmp_path / "out" / "comp4_det_train_dog.txt").read_text().splitlines()
    assert lines == ["b 0.900000 11.000000 9.000000 30.000000 24.000000"]
    assert (tmp_path / "out" / "comp4_det_train_owl.txt").read_text() == ""


def test_the_year_chooses_the_definition(registered):
    assert evaluate(FOUND)["bbox"]["AP50-cat"] == pytest.approx(100 * (1 / 2 + 1 / 3))
    for year, value in ((2007, (6 + 5 * 2 / 3) / 11), (2009, (6 + 5 * 2 / 3) / 11), (2010, 5 / 6)):
        register_voc_dataset("mine", registered.images, registered.list, classes=NAMES, year=year)
        assert evaluate(FOUND)["bbox"]["AP50-cat"] == pytest.approx(100 * value)


def test_no_detection_is_zero_and_no_image_nothing(registered):
    metrics = evaluate({"a": [], "b": []})["bbox"]
    assert metrics["AP"] == metrics["AP50"] == metrics["AP75"] == metrics["AP-cat"] == 0
    assert math.isnan(metrics["AP-owl"])
    assert evaluate({}) == {}


def test_predictions_for_other_data_and_broken_files_are_refused(registered):
    with pytest.raises(ValueError, match="image c: predictions for an image that is not in the set"):
        evaluate({"c": []})
    with pytest.raises(ValueError, match="class 3, but the data set has 3 classes"):
        evaluate({"a": [(3, 0.5, 1, 1, 5, 5)]})
    registered.write("a", "<annotation>")
    with pytest.raises(UserError, match="Annotations/a.xml: this is not XML"):
        build_evaluator(get_cfg(), "mine")
    MetadataCatalog.get("mine").__dict__.pop("split")
    with pytest.raises(UserError, match="its metadata lacks split; register it by"):
        VOCEvaluator("mine")


def _evaluate_a_share(images: str, image_set: str, folder: str) -> None:
    register_dataset("mine", images, image_set, classes=NAMES)
    image = ["b", "a"][comm.get_rank()]
    results = evaluate({image: FOUND[image]})
    Path(folder, f"{comm.get_rank()}.json").write_text(json.dumps(results))


def test_several_processes_put_their_detections_together(tmp_path, registered):
    launch(_evaluate_a_share, 2, dist_url="auto", args=(registered.images, registered.list, str(tmp_path)))
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    alone = evaluate(FOUND)["bbox"]
    assert second == {} and first["bbox"].keys() == alone.keys()
    np.testing.assert_array_equal([first["bbox"][key] for key in alone], list(alone.values()))


def test_the_evaluator_is_chosen_by_the_data_set_and_a_model_runs_through(tmp_path, registered):
    class Knowing(torch.nn.Module):
        def forward(self, inputs):
            return [instances(*FOUND[x["image_id"]]) for x in inputs]

    cfg = get_cfg()
    cfg.OUTPUT_DIR, cfg.DATALOADER.NUM_WORKERS = str(tmp_path / "run"), 0
    evaluator = Trainer.build_evaluator(cfg, "mine")
    assert isinstance(evaluator, VOCEvaluator)
    results = inference_on_dataset(Knowing(), Trainer.build_test_loader(cfg, "mine"), evaluator)
    assert results["bbox"] == pytest.approx(evaluate(FOUND)["bbox"], nan_ok=True)
    assert (tmp_path / "run" / "inference" / "comp4_det_train_cat.txt").is_file()


@pytest.mark.needs_detectron2
@pytest.mark.parametrize("year", [2007, 2012])
@pytest.mark.parametrize("seed", range(6))
def test_numbers_are_those_of_detectron2_s_evaluator(tmp_path, forget, seed, year):
    """Scores of 3 decimals and boxes of halves, because Detectron2 rounds; every class has an object, see NaN."""
    from detectron2.data import DatasetCatalog as Theirs
    from detectron2.data import MetadataCatalog as TheirMetadata
    from detectron2.data.datasets.pascal_voc import register_pascal_voc
    from detectron2.evaluation import PascalVOCDetectionEvaluator

    rng = np.random.RandomState(100 + seed)
    objects, detections = scene(rng, images=12, half=True)
    detections = [d for d in detections if d[1] < 3]
    objects += [(0, label, (1, 1, 8, 8 + label), False) for label in range(3)]
    by_image = {f"{i:06d}": [(NAMES[o[1]], *o[2], o[3]) for o in objects if o[0] == i] for i in range(12)}
    voc_set = VocSet(tmp_path / "set", by_image)
    for name in by_image:
        voc_set.write(name, xml(name, 60, 40, by_image[name]))
    forget("mine")
    register_voc_dataset("mine", voc_set.images, voc_set.list, classes=NAMES, year=year)
    name = f"theirs_{tmp_path.name}"
    register_pascal_voc(name, str(voc_set.folder), "train", year, NAMES)
    TheirMetadata.get(name).evaluator_type = "pascal_voc"
    # Ours on both registrations; theirs on its own.
    evaluators = [VOCEvaluator("mine"), PascalVOCDetectionEvaluator(name)]
    if ENGINE == "detectron2":
        evaluators.append(VOCEvaluator(name))
    results = []
    for evaluator in evaluators:
        evaluator.reset()
        for number, image in enumerate(by_image):
            mine = [d for d in detections if d[0] == number]
            output = instances(*((d[1], d[3], d[2][0] - 1, d[2][1] - 1, *d[2][2:]) for d in mine))
            evaluator.process([{"image_id": image}], [output])
        results.append(evaluator.evaluate()["bbox"])
    Theirs.remove(name)
    TheirMetadata.remove(name)
    for found in results:
        for key in ("AP", "AP50", "AP75"):
            assert found[key] == pytest.approx(results[1][key], abs=1e-9)
    assert 0 < results[1]["AP50"] < 100
