"""AP on LVIS annotations: federated counting, Detectron2's numbers."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from adet_ext import get_cfg
from adet_ext.d2 import ENGINE
from adet_ext.d2.data import MetadataCatalog
from adet_ext.d2.engine import launch
from adet_ext.d2.evaluation import inference_on_dataset
from adet_ext.d2.utils import comm
from adet_ext.data.loader import build_test_loader
from adet_ext.data.lvis import register_lvis_dataset
from adet_ext.engine.trainer import Trainer
from adet_ext.errors import UserError
from adet_ext.evaluation.lvis import LVISEvaluator

from .pieces import (
    BEAR,
    CAT,
    CATEGORIES,
    DOG,
    NAME,
    PERFECT,
    H,
    W,
    annotation,
    detections,
    evaluate,
    image,
    needs_lvis,
    plain,
    written,
)


@needs_lvis
def test_perfect_detections_have_100_and_undefined_metrics_are_nan(registered, tmp_path):
    results = evaluate(PERFECT, output_dir=str(tmp_path / "out"))
    assert list(results) == ["bbox", "segm"]
    for metrics in results.values():
        assert list(metrics) == ["AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"]
        assert [metrics[k] for k in ("AP", "AP50", "AP75", "APs", "APm", "APc", "APf")] == [pytest.approx(100)] * 7
        assert math.isnan(metrics["APl"]) and math.isnan(metrics["APr"])
    saved = json.loads((tmp_path / "out" / "lvis_instances_results.json").read_text())
    assert [(r["image_id"], r["category_id"]) for r in saved] == [(7, CAT), (5, DOG), (5, DOG)]
    assert set(saved[0]) == {"image_id", "category_id", "bbox", "score", "segmentation"}


@needs_lvis
def test_what_an_image_says_nothing_about_costs_nothing_and_what_it_denies_does(registered):
    """Detections that match nothing, of higher scores than the true ones."""

    def ap(number, category):
        found = {k: list(v) for k, v in PERFECT.items()}
        found[number].append((category, 0.95, 1, 1, 5, 5))
        return evaluate(found)["segm"]["AP"]

    assert ap(5, CAT) == pytest.approx(100)  # neither listed nor annotated there
    assert ap(7, CAT) == pytest.approx(100)  # annotated, not exhaustively
    assert ap(7, DOG) < 90  # said not to be there
    assert ap(5, DOG) < 90  # annotated, and all of them


@needs_lvis
def test_masks_and_boxes_are_measured_each_by_itself(registered):
    boxes_alone = evaluate(PERFECT, masks=False)
    assert list(boxes_alone) == ["bbox"] and boxes_alone["bbox"]["AP"] == pytest.approx(100)
    assert list(evaluate(PERFECT, tasks=("segm",))) == ["segm"]

    evaluator = LVISEvaluator(NAME)
    evaluator.reset()
    for number, found in PERFECT.items():
        output = detections(*found)
        output["instances"].pred_masks[:, ::2] = False  # half of the right mask
        evaluator.process([{"image_id": number}], [output])
    results = evaluator.evaluate()
    assert results["bbox"]["AP"] == pytest.approx(100) and results["segm"]["AP75"] == 0


@needs_lvis
def test_sizes_are_those_of_masks_where_masks_are_measured(registered):
    evaluator = LVISEvaluator(NAME)
    evaluator.reset()
    output = detections(*PERFECT[5], (DOG, 0.95, 1, 30, 40, 26))
    output["instances"].pred_masks[2, 30:40, 1:11] = False  # 940 pixels, small; its box has 1040, of middle size
    evaluator.process([{"image_id": 7}, {"image_id": 5}], [detections(*PERFECT[7]), output])
    results = evaluator.evaluate()
    assert results["segm"]["APm"] == pytest.approx(100) and results["segm"]["APs"] < 90
    assert results["bbox"]["APm"] < 90 and results["bbox"]["APs"] == pytest.approx(100)


@needs_lvis
def test_no_detection_is_not_a_number_and_no_image_nothing(registered):
    results = evaluate({7: [], 5: []})
    assert list(results) == ["bbox"] and all(math.isnan(v) for v in results["bbox"].values())
    assert evaluate({}) == {}
    some = evaluate({7: PERFECT[7], 5: []})
    assert some["segm"]["APc"] == pytest.approx(100) and some["segm"]["APf"] == 0


@needs_lvis
def test_only_the_best_detections_of_an_image_count_where_a_limit_is_set(registered):
    assert evaluate(PERFECT, max_dets_per_image=1)["segm"]["APf"] < 60
    assert evaluate(PERFECT, max_dets_per_image=2)["segm"]["APf"] == pytest.approx(100)


@needs_lvis
def test_predictions_for_other_data_are_refused(registered):
    with pytest.raises(ValueError, match="image 6: predictions for an image that the annotations do not have"):
        evaluate({6: PERFECT[7]})
    evaluator = LVISEvaluator(NAME)
    evaluator.reset()
    output = detections(*PERFECT[7])
    output["instances"].pred_classes[:] = 80
    evaluator.process([{"image_id": 7}], [output])
    with pytest.raises(ValueError, match="class 80, but the data set has 80 classes"):
        evaluator.evaluate()
    with pytest.raises(ValueError, match="bbox and segm"):
        LVISEvaluator(NAME, tasks=("keypoints",))


@needs_lvis
def test_without_a_map_of_ids_classes_are_lvis_s_own_from_1(tmp_path):
    """So has Detectron2 registered LVIS's own categories."""
    MetadataCatalog.get(NAME).set(json_file=written(tmp_path, plain()), thing_classes=[c["name"] for c in CATEGORIES])
    evaluator = LVISEvaluator(NAME)
    evaluator.reset()
    output = detections(*PERFECT[7])
    output["instances"].pred_classes[:] = 2  # the third: cat
    evaluator.process([{"image_id": 7}], [output])
    assert evaluator.evaluate()["segm"]["APc"] == pytest.approx(100)


@needs_lvis
def test_without_annotations_the_results_are_written_and_not_evaluated(tmp_path, registered):
    content = json.loads(Path(registered).read_text())
    written(tmp_path, {**content, "annotations": []}, "share.json")
    assert evaluate(PERFECT, output_dir=str(tmp_path / "out")) == {}
    assert len(json.loads((tmp_path / "out" / "lvis_instances_results.json").read_text())) == 3


def _evaluate_a_share(path: str, folder: str) -> None:
    register_lvis_dataset(NAME, folder, path)
    number = [7, 5][comm.get_rank()]
    results = evaluate({number: PERFECT[number]})
    Path(folder, f"{comm.get_rank()}.json").write_text(json.dumps(results))


@needs_lvis
def test_several_processes_put_their_detections_together(tmp_path, registered):
    launch(_evaluate_a_share, 2, dist_url="auto", args=(registered, str(tmp_path)))
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert second == {}
    assert first["segm"]["APc"] == pytest.approx(100) and first["segm"]["APf"] == pytest.approx(100)


@needs_lvis
def test_importing_the_package_leaves_the_program_s_logging_alone(registered, monkeypatch):
    import logging

    for name in [n for n in sys.modules if n.partition(".")[0] == "lvis"]:
        monkeypatch.delitem(sys.modules, name)
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    evaluate(PERFECT)
    assert root.handlers == []


def test_a_missing_package_is_one_sentence_before_anything_is_predicted(registered, monkeypatch):
    monkeypatch.setitem(sys.modules, "lvis", None)
    with pytest.raises(UserError, match="pip install --no-deps lvis") as error:
        Trainer.build_evaluator(get_cfg(), NAME)
    assert "\n" not in str(error.value)
    if ENGINE == "detectron2":  # whose reader of the built-in name takes the package too
        with pytest.raises(UserError, match="pip install --no-deps lvis"):
            build_test_loader(get_cfg(), "lvis_v0.5_val_cocofied")


@needs_lvis
def test_the_evaluator_is_chosen_by_the_data_set_and_a_model_runs_through(tmp_path, registered):
    folder = tmp_path / "coco" / "val2017"
    folder.mkdir(parents=True)
    for number in (5, 7):
        Image.fromarray(np.zeros((H, W, 3), np.uint8)).save(folder / f"{number}.png")

    class Knowing(torch.nn.Module):
        def forward(self, inputs):
            return [detections(*PERFECT[x["image_id"]]) for x in inputs]

    cfg = get_cfg()
    cfg.OUTPUT_DIR, cfg.DATALOADER.NUM_WORKERS = str(tmp_path / "run"), 0
    evaluator = Trainer.build_evaluator(cfg, NAME)
    assert isinstance(evaluator, LVISEvaluator)
    results = inference_on_dataset(Knowing(), build_test_loader(cfg, NAME), evaluator)
    assert results["bbox"]["AP"] == results["segm"]["AP"] == pytest.approx(100)
    assert (tmp_path / "run" / "inference" / "lvis_instances_results.json").is_file()


def random_problem(rng: np.random.RandomState) -> tuple[dict, dict[int, list[tuple]]]:
    """Federated annotations of three categories, and detections near them, beside them and of the wrong category."""
    categories = [
        {"id": i, "synset": str(i), "name": str(i), "frequency": f} for i, f in ((CAT, "c"), (DOG, "f"), (BEAR, "r"))
    ]
    content = {"images": [], "annotations": [], "categories": categories}
    found: dict[int, list[tuple]] = {}
    for number in rng.permutation(100)[:10].tolist():
        kinds = rng.permutation([CAT, DOG, BEAR]).tolist()
        found[number] = []
        content["images"].append(image(number, kinds[:1] if rng.rand() < 0.7 else [], kinds[1:2]))
        for _ in range(rng.randint(0, 7)):
            kind, (x, y), (w, h) = kinds[rng.randint(1, 3)], rng.randint(0, 20, 2), rng.randint(3, 38, 2)
            box = [int(v) for v in (x, y, min(w * rng.choice([1, 2]), 58), h)]
            content["annotations"].append(annotation(len(content["annotations"]) + 1, number, kind, *box))
            for _ in range(rng.randint(0, 3)):
                moved = [max(v + int(d), 1) for v, d in zip(box, rng.randint(-2, 3, 4))]
                kind = kind if rng.rand() < 0.8 else kinds[0]
                found[number].append((kind, rng.randint(100) / 100, *moved))
        for _ in range(rng.randint(0, 5)):
            box = [int(v) for v in (*rng.randint(0, 30, 2), *rng.randint(2, 25, 2))]
            found[number].append((kinds[rng.randint(3)], rng.randint(100) / 100, *box))
    return content, found


@pytest.mark.needs_detectron2
@needs_lvis
@pytest.mark.parametrize("seed, limit, masks", [(0, None, True), (1, None, True), (2, 3, True), (3, None, False)])
def test_ap_is_detectron2_s_on_random_federated_predictions(tmp_path, monkeypatch, seed, limit, masks):
    theirs = pytest.importorskip("detectron2.evaluation")
    from detectron2 import data, structures

    content, found = random_problem(np.random.RandomState(seed))
    path = written(tmp_path, content)
    register_lvis_dataset(NAME, str(tmp_path), path)
    ours = evaluate(found, masks=masks, notch=4, max_dets_per_image=limit)

    monkeypatch.setattr(np, "float", float, raising=False)  # which the package asks NumPy for
    other = f"{NAME}_theirs"
    ids = MetadataCatalog.get(NAME).thing_dataset_id_to_contiguous_id
    data.MetadataCatalog.get(other).set(json_file=path, thing_dataset_id_to_contiguous_id=ids)
    try:
        evaluator = theirs.LVISEvaluator(other, max_dets_per_image=limit)
        evaluator.reset()
        for number, each in found.items():
            given = detections(*each, masks=masks, notch=4)["instances"]
            instances = structures.Instances((H, W), **given.get_fields())
            instances.pred_boxes = structures.Boxes(given.pred_boxes.tensor)
            evaluator.process([{"image_id": number}], [{"instances": instances}])
        reference = evaluator.evaluate()
    finally:
        data.MetadataCatalog.pop(other, None)
    assert ours.keys() == reference.keys() == ({"bbox", "segm"} if masks else {"bbox"})
    for task, metrics in reference.items():
        assert list(ours[task]) == list(metrics)
        assert 5 < metrics["AP"] < 95
        for name, value in metrics.items():  # the package says -1 where there is none
            assert ours[task][name] == value or (value == -100 and math.isnan(ours[task][name])), (task, name)
