"""AP on LVIS annotations: the share of COCO's categories, federated counting, Detectron2's numbers and records."""

import json
import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from adet_ext import cli, get_cfg
from adet_ext.d2 import ENGINE
from adet_ext.d2.data import DatasetCatalog, MetadataCatalog
from adet_ext.d2.engine import launch
from adet_ext.d2.evaluation import inference_on_dataset
from adet_ext.d2.structures import Boxes, Instances
from adet_ext.d2.utils import comm
from adet_ext.data.loader import build_test_loader
from adet_ext.data.lvis import coco_ids_of_synsets, prepare_lvis, read_lvis_file, register_lvis_dataset
from adet_ext.errors import UserError
from adet_ext.lvis_evaluation import LVISEvaluator
from adet_ext.train import Trainer

try:
    import lvis  # noqa: F401
except ImportError:
    HAS_LVIS = False
else:
    HAS_LVIS = True
needs_lvis = pytest.mark.skipif(not HAS_LVIS, reason="the lvis package, which evaluates, is not installed here")

NAME = "test_lvis"
CAT, DOG, BEAR = 17, 18, 23  # in COCO's files
H, W = 60, 80
# Plain LVIS: other ids, and categories that COCO does not have.
CATEGORIES = [
    {"id": 1, "synset": "acorn.n.01", "name": "acorn", "frequency": "r"},
    {"id": 2, "synset": "bear.n.01", "name": "bear", "frequency": "f"},
    {"id": 3, "synset": "cat.n.01", "name": "cat", "frequency": "c"},
    {"id": 4, "synset": "dog.n.01", "name": "dog", "frequency": "f"},
    {"id": 5, "synset": "pizza.n.01", "name": "pizza", "frequency": "f"},
]


@pytest.fixture(autouse=True)
def _forget_the_data_set():
    yield
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.pop(NAME, None)


def image(number: int, negative=(), not_exhaustive=()) -> dict:
    return {
        "id": number, "height": H, "width": W, "file_name": f"COCO_val2014_{number}.jpg",
        "coco_url": f"http://images.cocodataset.org/val2017/{number}.png",
        "neg_category_ids": list(negative), "not_exhaustive_category_ids": list(not_exhaustive),
    }  # fmt: skip


def rectangle(x: float, y: float, w: float, h: float) -> dict:
    polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
    return {"bbox": [x, y, w, h], "segmentation": [polygon], "area": float(w * h)}


def annotation(number: int, image_id: int, category: int, *box: float) -> dict:
    return {"id": number, "image_id": image_id, "category_id": category, **rectangle(*box)}


def plain() -> dict:
    return {
        "info": {"year": 2019},
        "images": [image(7, negative=[4, 1], not_exhaustive=[3]), image(5, negative=[2])],
        "categories": [dict(c) for c in CATEGORIES],
        "annotations": [
            annotation(30, 7, 1, 1, 1, 9, 9), annotation(31, 7, 3, 10, 12, 20, 16), annotation(32, 5, 4, 5, 5, 50, 40),
            annotation(33, 5, 4, 60, 6, 15, 30),
        ],
    }  # fmt: skip


def written(folder: Path, content, name: str = "lvis.json") -> str:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


@pytest.fixture
def registered(tmp_path) -> str:
    """The plain file's share of COCO's categories, under NAME; returns its path."""
    path = str(tmp_path / "share.json")
    prepare_lvis(written(tmp_path, plain()), path)
    register_lvis_dataset(NAME, str(tmp_path / "coco"), path)
    return path


def contiguous(category: int) -> int:
    return MetadataCatalog.get("coco_2017_val").thing_dataset_id_to_contiguous_id[category]


def detections(*found: tuple, masks: bool = True, notch: int = 0) -> dict:
    """Of (category, score, x, y, w, h) each, an output of a model; ``notch``: the side of a corner masks lack."""
    instances = Instances((H, W))
    boxes = torch.tensor([[x, y, x + w, y + h] for _, _, x, y, w, h in found], dtype=torch.float32)
    instances.pred_boxes = Boxes(boxes.reshape(-1, 4))
    instances.scores = torch.tensor([d[1] for d in found], dtype=torch.float32)
    instances.pred_classes = torch.tensor([contiguous(d[0]) for d in found], dtype=torch.int64)
    if masks:
        instances.pred_masks = torch.zeros(len(found), H, W, dtype=torch.bool)
        for mask, (_, _, x, y, w, h) in zip(instances.pred_masks, found):
            mask[y : y + h, x : x + w] = True
            mask[y : y + notch, x : x + notch] = False
    return {"instances": instances}


PERFECT = {7: [(CAT, 0.9, 10, 12, 20, 16)], 5: [(DOG, 0.8, 5, 5, 50, 40), (DOG, 0.7, 60, 6, 15, 30)]}


def evaluate(found: dict[int, list[tuple]], *, masks: bool = True, notch: int = 0, **options) -> dict:
    evaluator = LVISEvaluator(NAME, **options)
    evaluator.reset()
    for number, each in found.items():
        evaluator.process([{"image_id": number}], [detections(*each, masks=masks, notch=notch)])
    return evaluator.evaluate()


# The share of COCO's categories.


def test_the_80_categories_of_coco_have_a_synset_each():
    ids = coco_ids_of_synsets()
    assert len(ids) == 80
    assert list(ids.values()) == list(MetadataCatalog.get("coco_2017_val").thing_dataset_id_to_contiguous_id)
    names = dict(zip(ids, MetadataCatalog.get("coco_2017_val").thing_classes))
    other_words = {name for synset, name in names.items() if synset.split(".")[0] != name.replace(" ", "_")}
    assert other_words == {
        "fire hydrant", "cow", "handbag", "tie", "suitcase", "skis", "sports ball", "wine glass", "hot dog", "donut",
        "couch", "potted plant", "tv", "remote", "keyboard", "cell phone", "refrigerator", "teddy bear", "hair drier",
    }  # fmt: skip
    assert (names["beef.n.01"], names["bag.n.06"], names["hand_blower.n.01"]) == ("cow", "suitcase", "hair drier")


def test_the_share_has_coco_s_ids_and_nothing_of_other_categories(tmp_path):
    content, target = plain(), tmp_path / "lvis" / "share.json"
    assert prepare_lvis(written(tmp_path, content), str(target)) == (2, 3, 3)
    share = json.loads(target.read_text())
    assert share["info"] == content["info"]
    assert [(c["id"], c["name"], c["frequency"]) for c in share["categories"]] == [
        (BEAR, "bear", "f"), (CAT, "cat", "c"), (DOG, "dog", "f"),  # no pizza: nothing is known of any
    ]  # fmt: skip
    assert [(a["id"], a["image_id"], a["category_id"]) for a in share["annotations"]] == [
        (1, 7, CAT), (2, 5, DOG), (3, 5, DOG)
    ]  # fmt: skip
    assert share["annotations"][0]["segmentation"] == content["annotations"][1]["segmentation"]
    assert [(i["neg_category_ids"], i["not_exhaustive_category_ids"]) for i in share["images"]] == [
        ([DOG], [CAT]), ([BEAR], [])
    ]  # fmt: skip


def test_the_share_of_a_share_is_itself(tmp_path):
    share, again = str(tmp_path / "share.json"), str(tmp_path / "again.json")
    prepare_lvis(written(tmp_path, plain()), share)
    prepare_lvis(share, again)
    assert Path(share).read_text() == Path(again).read_text()


def test_a_run_that_was_killed_leaves_what_was_there(tmp_path, monkeypatch):
    source, target = written(tmp_path, plain()), written(tmp_path, "before", "share.json")

    def killed(content, file):
        file.write('{"images": [')
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(json, "dump", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare_lvis(source, target)
    assert sorted(os.listdir(tmp_path)) == ["lvis.json", "share.json"]
    assert Path(target).read_text() == "before"
    prepare_lvis(source, target)
    assert read_lvis_file(target)["categories"]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c["images"][1].pop("neg_category_ids"), r"images\[1\] lacks neg_category_ids"),
        (lambda c: c["categories"][0].pop("frequency"), r"categories\[0\] lacks frequency"),
        (lambda c: c.pop("annotations"), "no list of annotations"),
        (lambda c: c["annotations"][2].update(category_id=99), "annotation 32 is of category 99, which is not listed"),
        (lambda c: [k.pop("synset") for k in c["categories"]], "none of its 5 categories has the synset"),
    ],
)
def test_annotations_of_another_kind_are_refused_with_the_place(tmp_path, change, message):
    content = plain()
    change(content)
    with pytest.raises(UserError, match=f"lvis.json.*{message}") as error:
        prepare_lvis(written(tmp_path, content), str(tmp_path / "share.json"))
    assert "\n" not in str(error.value) and os.listdir(tmp_path) == ["lvis.json"]


def test_files_that_are_missing_broken_or_their_own_target_are_refused(tmp_path):
    target = str(tmp_path / "share.json")
    with pytest.raises(UserError, match="nowhere.json: cannot be read: No such file"):
        prepare_lvis(str(tmp_path / "nowhere.json"), target)
    for text in ('{"images": [', "[]"):
        with pytest.raises(UserError, match="not JSON, or only a part|no LVIS annotations"):
            prepare_lvis(written(tmp_path, text), target)
    path = written(tmp_path, plain())
    with pytest.raises(UserError, match="cannot have the name"):
        prepare_lvis(path, os.path.join(str(tmp_path), ".", "lvis.json"))
    assert read_lvis_file(path) == plain()


def test_the_command_follows_lvis_folders_and_takes_other_files(tmp_path, monkeypatch, capsys):
    (tmp_path / "lvis").mkdir()
    written(tmp_path / "lvis", plain(), "lvis_v0.5_val.json")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert cli.run("data", ["prepare-lvis"]) == 0
    target = tmp_path / "lvis" / "lvis_v0.5_val_cocofied.json"
    assert f"{target}: 3 annotations of 3 categories in 2 images" in capsys.readouterr().out
    assert os.path.basename(MetadataCatalog.get("lvis_v0.5_val_cocofied").json_file) == target.name
    again = tmp_path / "again.json"
    files = [str(tmp_path / "lvis" / "lvis_v0.5_val.json"), str(again)]
    assert cli.run("data", ["prepare-lvis", "--files", *files]) == 0
    assert again.read_text() == target.read_text()
    assert cli.run("data", ["prepare-lvis", "--splits", "v0.5_train"]) == 2
    assert "lvis_v0.5_train.json: cannot be read: No such file" in capsys.readouterr().err


# Registration.


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_built_in_names_have_coco_s_classes_on_either_engine(split):
    metadata, coco = MetadataCatalog.get(f"lvis_v0.5_{split}_cocofied"), MetadataCatalog.get("coco_2017_val")
    assert f"lvis_v0.5_{split}_cocofied" in DatasetCatalog
    assert metadata.evaluator_type == "lvis"
    assert metadata.json_file.endswith(os.path.join("lvis", f"lvis_v0.5_{split}_cocofied.json"))
    assert metadata.thing_classes == coco.thing_classes
    assert metadata.thing_dataset_id_to_contiguous_id == coco.thing_dataset_id_to_contiguous_id


def test_images_are_found_by_their_url_else_by_their_name(tmp_path, registered):
    coco = str(tmp_path / "coco")
    records = DatasetCatalog.get(NAME)
    assert [r["image_id"] for r in records] == [5, 7]
    assert records[0]["file_name"] == os.path.join(coco, "val2017", "5.png")
    assert [a["category_id"] for a in records[0]["annotations"]] == [contiguous(DOG)] * 2
    content = json.loads(Path(registered).read_text())
    for entry in content["images"]:
        del entry["coco_url"]
    written(tmp_path, content, "share.json")
    assert DatasetCatalog.get(NAME)[0]["file_name"] == os.path.join(coco, "COCO_val2014_5.jpg")


def test_plain_lvis_in_place_of_the_share_is_refused_with_the_remedy(tmp_path):
    content = plain()
    content["annotations"][0]["category_id"] = 1203
    register_lvis_dataset(NAME, str(tmp_path), written(tmp_path, content))
    with pytest.raises(UserError, match="category 1203, not one of coco_2017_val; .*prepare-lvis"):
        DatasetCatalog.get(NAME)


def test_a_file_that_has_not_been_made_is_one_sentence_with_the_remedy(tmp_path):
    register_lvis_dataset(NAME, str(tmp_path), str(tmp_path / "share.json"))
    with pytest.raises(UserError, match="share.json: there is no such file; .*prepare-lvis"):
        build_test_loader(get_cfg(), NAME)
    with pytest.raises(UserError, match="there is no data set 'nowhere'"):
        register_lvis_dataset(NAME, str(tmp_path), str(tmp_path / "share.json"), classes_of="nowhere")
    if HAS_LVIS or ENGINE == "embedded":
        with pytest.raises(UserError, match="lvis_v0.5_val_cocofied.json.*data prepare-lvis"):
            build_test_loader(get_cfg(), "lvis_v0.5_val_cocofied")


def test_classes_may_be_those_of_another_data_set(tmp_path):
    content = plain()
    for entry in content["annotations"]:
        entry["category_id"] = 5
    register_lvis_dataset(NAME, str(tmp_path), written(tmp_path, content), classes_of="shapes_val")
    assert {a["category_id"] for r in DatasetCatalog.get(NAME) for a in r["annotations"]} == {
        MetadataCatalog.get("shapes_val").get("thing_dataset_id_to_contiguous_id", {5: 5})[5]
    }
    assert MetadataCatalog.get(NAME).thing_classes == MetadataCatalog.get("shapes_val").thing_classes


@pytest.mark.parametrize(
    "change, message",
    [
        ({"segmentation": [[1, 2, 3, 4]]}, "annotation 2 has a polygon of fewer than 3 points"),
        ({"image_id": 6}, "annotation 2 is of image 6, which is not listed"),
    ],
)
def test_an_annotation_that_cannot_be_used_is_named(tmp_path, registered, change, message):
    content = json.loads(Path(registered).read_text())
    content["annotations"][1].update(change)
    written(tmp_path, content, "share.json")
    with pytest.raises(UserError, match=message):
        DatasetCatalog.get(NAME)


@pytest.mark.needs_detectron2
@needs_lvis
def test_records_are_detectron2_s(tmp_path, registered):
    reader = pytest.importorskip("detectron2.data.datasets.lvis")
    theirs = reader.load_lvis_json(registered, str(tmp_path / "coco") + "/", "lvis_v0.5_val_cocofied")
    ours = DatasetCatalog.get(NAME)
    assert [list(r) for r in ours] == [list(r) for r in theirs]
    for record in [*ours, *theirs]:  # each engine has its own enumeration
        record["annotations"] = [{**a, "bbox_mode": int(a["bbox_mode"])} for a in record["annotations"]]
    assert ours == theirs


# Evaluation.


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
