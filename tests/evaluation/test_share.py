"""The share of an LVIS file that has COCO's categories: made, refused, registered, read."""

import json
import os
from pathlib import Path

import pytest

from adet_ext import cli, get_cfg
from adet_ext.d2 import ENGINE
from adet_ext.d2.data import DatasetCatalog, MetadataCatalog
from adet_ext.data.loader import build_test_loader
from adet_ext.data.lvis import coco_ids_of_synsets, prepare_lvis, read_lvis_file, register_lvis_dataset
from adet_ext.errors import UserError

from .pieces import BEAR, CAT, DOG, HAS_LVIS, NAME, contiguous, needs_lvis, plain, written


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
    with pytest.raises(UserError, match="nowhere.json: there is no such"):
        prepare_lvis(str(tmp_path / "nowhere.json"), target)
    for text in ('{"images": [', "[]"):
        with pytest.raises(UserError, match="not JSON|no LVIS annotations"):
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
    assert "lvis_v0.5_train.json: there is no such" in capsys.readouterr().err


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
