"""Sets in PASCAL VOC's format: read as Detectron2 reads them, checked, registered, refused in one sentence."""

import os
import pickle
import shutil
import subprocess
import sys

import pytest

from adet_ext.cli import data, run
from adet_ext.config import get_cfg
from adet_ext.d2.data import DatasetCatalog, MetadataCatalog
from adet_ext.d2.structures import BoxMode
from adet_ext.data.loader import build_train_loader, dataset_dicts
from adet_ext.data.register import register_dataset
from adet_ext.data.validate_voc import validate_voc
from adet_ext.data.voc import VOC_CLASSES, register_voc_dataset
from adet_ext.engine.checks import check_datasets
from adet_ext.errors import UserError

from ..voc_set import IMAGES, VocSet, xml

BUILT_IN = [f"voc_2007_{s}" for s in ("trainval", "train", "val", "test")]
BUILT_IN += [f"voc_2012_{s}" for s in ("trainval", "train", "val")]


@pytest.fixture
def voc_set(tmp_path):
    return VocSet(tmp_path / "VOCdevkit" / "VOC2007", IMAGES)


@pytest.fixture
def mine(voc_set, forget):
    forget("mine")
    register_dataset("mine", voc_set.images, voc_set.list)
    return voc_set


def error_of(voc_set, kind, **options):
    """The sentence of the only kind of error that validation finds."""
    report = validate_voc(voc_set.list, voc_set.images, **options).report
    assert [f.kind for f in report.errors] == [kind], str(report)
    return report.errors[0].examples[0]


def test_boxes_are_converted_as_detectron2_does_and_difficulty_is_kept(mine):
    records = DatasetCatalog.get("mine")
    assert [r["image_id"] for r in records] == list(IMAGES)
    assert records[0]["file_name"] == os.path.join(mine.images, "000012.jpg")
    assert (records[0]["width"], records[0]["height"]) == (60, 40)
    assert [a["bbox"] for a in records[0]["annotations"]] == [[10, 8, 30, 24], [0, 0, 60, 40]]
    assert all(a["bbox_mode"] == BoxMode.XYXY_ABS for r in records for a in r["annotations"])
    assert [[a["difficult"] for a in r["annotations"]] for r in records] == [[0, 0], [0, 1], [1], []]
    metadata = MetadataCatalog.get("mine")
    assert metadata.thing_classes == ["cat", "dog"] and metadata.evaluator_type == "pascal_voc"
    assert metadata.year == 2007 and metadata.split == "train"


def test_difficult_objects_are_left_out_of_training_unless_asked_for(mine, forget):
    cfg = get_cfg()
    cfg.DATASETS.TRAIN, cfg.DATALOADER.NUM_WORKERS, cfg.SOLVER.IMS_PER_BATCH, cfg.SEED = ("mine",), 0, 1, 0
    cfg.INPUT.MIN_SIZE_TRAIN = (40,)

    def seen():
        batches = iter(build_train_loader(cfg))
        return {x["image_id"]: len(x["instances"]) for (x,) in (next(batches) for _ in range(9))}

    assert seen() == {"000012": 2, "000007": 1}
    register_voc_dataset("mine", mine.images, mine.list, use_difficult=True)
    assert seen() == {"000012": 2, "000007": 2, "000030": 1}


@pytest.mark.needs_detectron2
def test_records_are_detectron2_s_with_flags_beside_them(mine):
    from detectron2.data.datasets.pascal_voc import load_voc_instances

    theirs = load_voc_instances(str(mine.folder), "train", ["cat", "dog"])
    ours = DatasetCatalog.get("mine")
    for record in ours:
        for annotation in record["annotations"]:
            del annotation["difficult"], annotation["iscrowd"]
    assert ours == theirs


def _in_a_process(code, root):
    env = {**os.environ, "DETECTRON2_DATASETS": str(root)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("unpacked", [False, True])
def test_built_in_names_are_read_from_either_layout_and_train_on_all_objects(tmp_path, unpacked):
    folder = tmp_path / "VOCdevkit" if unpacked else tmp_path
    VocSet(folder / "VOC2007", {"000001": [("dog", 1, 2, 30, 20), ("person", 5, 5, 9, 9, True)], "000002": []}, "test")
    code = """
import adet_ext
from adet_ext.data.loader import dataset_dicts
from adet_ext.d2.data import MetadataCatalog
records = dataset_dicts(["voc_2007_test"], "DATASETS.TRAIN", filter_empty=True)
print([str(r["image_id"]) for r in records], [(a["category_id"], a["bbox"]) for a in records[0]["annotations"]])
print([a.get("iscrowd", 0) for a in records[0]["annotations"]], MetadataCatalog.get("voc_2007_test").dirname)
"""
    printed = _in_a_process(code, tmp_path).splitlines()
    assert printed[-2] == "['000001'] [(11, [0.0, 1.0, 30.0, 20.0]), (14, [4.0, 4.0, 9.0, 9.0])]"
    assert printed[-1] == f"[0, 0] {folder / 'VOC2007'}"


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_built_in_sets_have_detectron2_s_metadata(name):
    metadata = MetadataCatalog.get(name)
    assert name in DatasetCatalog and tuple(metadata.thing_classes) == VOC_CLASSES and len(VOC_CLASSES) == 20
    assert f"voc_{metadata.year}_{metadata.split}" == name and metadata.evaluator_type == "pascal_voc"
    assert os.path.basename(metadata.dirname) == f"VOC{metadata.year}"


def test_a_built_in_set_that_is_missing_or_broken_is_one_sentence(tmp_path):
    code = """
import adet_ext
from adet_ext.data.loader import dataset_dicts
from adet_ext.errors import UserError
for name in ("voc_2012_val", "voc_2007_val"):
    try:
        dataset_dicts([name], "DATASETS.TEST", filter_empty=False)
    except UserError as error:
        print(error)
"""
    VocSet(tmp_path / "VOC2007", {"000001": [], "000002": []}, "val").write("000002", "<annotation><size>")
    missing, broken = _in_a_process(code, tmp_path).splitlines()[-2:]
    assert "val.txt: there is no such list of images" in missing and "DETECTRON2_DATASETS" in missing
    assert "Annotations/000002.xml: this is not XML (no element found: line 1, column 18)" in broken


def test_classes_of_a_second_set_are_those_of_the_first(mine, tmp_path, forget):
    forget("other")
    other = VocSet(tmp_path / "other", {"a": [("dog", 1, 1, 9, 9)]}, "val")
    assert register_dataset("other", other.images, other.list, classes=["cat", "dog"]) == ["cat", "dog"]
    assert DatasetCatalog.get("other")[0]["annotations"][0]["category_id"] == 1
    assert MetadataCatalog.get("other").year == 2012
    with pytest.raises(UserError, match=r"object 1 \(dog\): this class is not one of cat, owl; rename it"):
        register_dataset("other", other.images, other.list, classes=["cat", "owl"])


def test_files_that_changed_are_read_anew_and_new_classes_refused(mine):
    mine.write("000031", xml("000031", 60, 40, [("dog", 1, 1, 9, 9)]))
    assert len(DatasetCatalog.get("mine")[3]["annotations"]) == 1
    mine.write("000031", xml("000031", 60, 40, [("owl", 1, 1, 9, 9)]))
    with pytest.raises(UserError, match="owl"):
        DatasetCatalog.get("mine")


def test_a_registered_set_can_be_sent_to_another_process(mine):
    assert pickle.loads(pickle.dumps(dict.__getitem__(DatasetCatalog.data, "mine")))() == DatasetCatalog.get("mine")


def test_models_of_masks_are_refused(mine):
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.MASK_ON = "BlendMask", True
    for name in ("mine", "voc_2007_train"):
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (name,), ()
        with pytest.raises(UserError, match="has no masks"):
            check_datasets(cfg, training=True)


def test_parts_of_objects_and_files_without_difficult_or_with_fractions_are_read(voc_set):
    content = xml("000031", 60, 40, [("person", "1.5", 1, "20.25", 30)])
    part = "<part><name>head</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></part>"
    content = content.replace("<difficult>0</difficult>", "").replace("</object>", f"{part}</object>")
    voc_set.write("000031", content.encode("utf-16"))
    checked = validate_voc(voc_set.list, voc_set.images)
    assert checked.report.ok and checked.classes == ["cat", "dog", "person"]
    (annotation,) = checked.dataset_dicts[3]["annotations"]
    assert annotation["bbox"] == [0.5, 0, 20.25, 30] and annotation["difficult"] == 0


def test_image_files_may_have_another_suffix(voc_set):
    shutil.move(os.path.join(voc_set.images, "000031.jpg"), os.path.join(voc_set.images, "000031.PNG"))
    checked = validate_voc(voc_set.list, voc_set.images)
    assert checked.report.ok and checked.dataset_dicts[3]["file_name"].endswith("000031.PNG")


BOMB = '<!DOCTYPE a [<!ENTITY b "cc"><!ENTITY d "&b;&b;">]>'


@pytest.mark.parametrize(
    "content, kind, words",
    [
        ("", "not XML", "this is not XML (no element found"),
        ("<annotation><size></annotation>", "not XML", "mismatched tag: line 1"),
        (b"\xff\xfe\x00", "not XML", "this is not XML"),
        ('<?xml version="1.0" encoding="klingon"?><annotation/>', "not XML", "this is not XML"),
        (BOMB + "<annotation>&d;</annotation>", "document type", "it declares a document type"),
        ((BOMB + "<annotation>&d;</annotation>").encode("utf-16"), "document type", "it declares a document type"),
        ("<html/>", "not VOC", "its root is <html>"),
        ("<annotation/>", "size", "size/width must be a positive whole number of pixels; got nothing"),
        (xml("x", 0, 40, []), "size", "size/width must be a positive whole number of pixels; got '0'"),
        (xml("x", 60, "nan", []), "size", "size/height must be a positive whole number of pixels; got 'nan'"),
        (xml("x", 60, 40, [("dog", 1, "two", 3, 4)]), "object malformed", "object 1 (dog): bndbox/ymin must be"),
        (xml("x", 60, 40, [("dog", 1, 2)]), "object malformed", "object 1 (dog): bndbox/xmax must be a number; got no"),
        (xml("x", 60, 40, [(" ", 1, 2, 3, 4)]), "object malformed", "object 1 has no name"),
        (xml("x", 60, 40, [("dog", 1, 2, 3, 4, 7)]), "object malformed", "difficult must be 0 or 1; got '7'"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(voc_set, content, kind, words):
    voc_set.write("000007", content)
    sentence = error_of(voc_set, kind)
    assert "Annotations/000007.xml: " in sentence and words in sentence and "\n" not in sentence


def test_entities_are_not_put_in_whatever_they_grow_to(voc_set):
    """The bomb of a billion laughs: refused before anything of it is parsed."""
    entities = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 12))
    voc_set.write("000007", f'<!DOCTYPE a [<!ENTITY l0 "lol">{entities}]><annotation>&l11;</annotation>')
    assert "remove it" in error_of(voc_set, "document type")


@pytest.mark.parametrize(
    "box, kind, words",
    [
        ((61, 41, 80, 60), "box outside", "its box [61, 41, 80, 60] lies outside the 60 x 40 pixels"),
        ((30, 9, 11, 24), "box empty", "its box [30, 9, 11, 24] has no area"),
        (("inf", 9, 11, 24), "box not finite", "not made of finite numbers"),
        ((50, 30, 75, 40), "box reaches out", "reaches out of the 60 x 40 pixels of the image; it is clipped"),
        ((0, 0, 30, 20), "box from 0", "VOC counts pixels from 1"),
    ],
)
def test_a_wrong_box_is_worked_around_and_said(voc_set, box, kind, words):
    voc_set.write("000007", xml("000007", 60, 40, [("dog", *box), ("cat", 1, 1, 60, 40)]))
    checked = validate_voc(voc_set.list, voc_set.images)
    clipped = ["box reaches out"] if kind == "box from 0" else []
    assert checked.report.ok and [f.kind for f in checked.report.warnings] == [kind, *clipped]
    sentence = checked.report.warnings[0].examples[0]
    assert "Annotations/000007.xml: object 1 (dog): its box" in sentence and words in sentence
    left = [a["bbox"] for a in checked.dataset_dicts[1]["annotations"]]
    expected = {"box reaches out": [[49, 29, 60, 40]], "box from 0": [[0, 0, 30, 20]]}.get(kind, [])
    assert left == [*expected, [0, 0, 60, 40]]


def test_shares_of_the_image_are_no_pixels(voc_set):
    for name in IMAGES:
        voc_set.write(name, xml(name, 60, 40, [("dog", 0.1, 0.2, 0.5, 0.6)]))
    assert "multiply them by the image's width and height" in error_of(voc_set, "coordinates in 0 to 1")


def test_what_is_missing_is_named(voc_set, tmp_path):
    os.remove(os.path.join(voc_set.images, "000007.jpg"))
    assert f"there is no file 000007.jpg in {voc_set.images}" in error_of(voc_set, "image file missing")
    assert validate_voc(voc_set.list, voc_set.images, check_files=False).report.ok
    os.remove(voc_set.path("000012"))
    report = validate_voc(voc_set.list, voc_set.images).report
    assert "Annotations/000012.xml: there is no such file; restore it" in str(report)
    os.remove(voc_set.list)
    assert "train.txt: there is no such list of images" in error_of(voc_set, "list unreadable")


def test_an_image_folder_that_is_not_there_is_said_once(voc_set):
    voc_set.images += "_elsewhere"
    assert "there is no folder" in error_of(voc_set, "image folder missing")
    assert validate_voc(voc_set.list, voc_set.images).report.count("image folder missing") == 1


@pytest.mark.parametrize(
    "lines, kind, words",
    [
        ("", "no images", "the list is empty"),
        ("000007\n000012\n000007\n", "image twice", "line 3: '000007' is on line 1 already"),
        ("000007 -1\n000012  1\n", "list of one class", "name the list of all"),
        ("../Annotations/../../000007\n", "image file outside", "allow_outside=True"),
        (b"\xe9\xff\n", "list unreadable", "no text in UTF-8"),
        ("000031\n", "no objects", "annotate some"),
    ],
)
def test_a_wrong_list_is_said(voc_set, lines, kind, words):
    with open(voc_set.list, "wb") as file:
        file.write(lines if isinstance(lines, bytes) else lines.encode())
    assert words in error_of(voc_set, kind)


def test_names_with_spaces_and_folders_are_read(tmp_path):
    images = {"photo 1": [("cat", 1, 1, 9, 9)], "week 2/photo": [("dog", 1, 1, 9, 9)]}
    for sub in ("JPEGImages", "Annotations"):
        os.makedirs(tmp_path / sub / "week 2")
    voc_set = VocSet(tmp_path, images)
    checked = validate_voc(voc_set.list, voc_set.images)
    assert checked.report.ok and [os.path.isfile(r["file_name"]) for r in checked.dataset_dicts] == [True, True]


def test_a_folder_or_a_list_without_annotations_is_no_data_set(voc_set, tmp_path, forget):
    with pytest.raises(UserError, match="this is a folder; name COCO's JSON file, or a list of images"):
        register_dataset("mine", voc_set.images, str(voc_set.folder))
    (tmp_path / "alone").mkdir()
    lonely = tmp_path / "alone" / "train.txt"
    shutil.copy(voc_set.list, lonely)
    with pytest.raises(UserError, match=r"train.txt: no folder above this list has a folder Annotations"):
        register_dataset("mine", voc_set.images, str(lonely))
    assert "mine" not in DatasetCatalog


def test_the_data_command_takes_voc_sets(voc_set, tmp_path, capsys, forget):
    forget("mine")
    paths = ["mine", voc_set.images, voc_set.list]
    assert data.main(["validate", *paths]) == 0
    assert "mine: usable are 4 images (1 of them without annotations) with 5 annotations of 2 classes: cat, dog" in (
        capsys.readouterr().out
    )
    out = tmp_path / "pictures"
    assert data.main(["draw", "--dataset", *paths, "--output-dir", str(out), "--num", "3"]) == 0
    assert len(list(out.iterdir())) == 4
    assert data.main(["list"]) == 0
    assert voc_set.list in capsys.readouterr().out
    voc_set.write("000007", "<annotation>")
    assert data.main(["validate", *paths]) == 1
    assert "Annotations/000007.xml: this is not XML" in capsys.readouterr().out
    assert run("data", ["draw", "--dataset", *paths, "--output-dir", str(out)]) == 2
    assert "Annotations/000007.xml" in capsys.readouterr().err


def test_warnings_of_a_registered_set_are_said_with_the_command_that_lists_them(voc_set, forget, caplog):
    forget("mine")
    voc_set.write("000007", xml("000007", 60, 40, [("dog", 61, 41, 80, 60)]))
    with caplog.at_level("WARNING", logger="adet_ext"):
        register_dataset("mine", voc_set.images, voc_set.list)
    assert f"box outside: 1). For a list: python -m adet_ext data validate mine {voc_set.images}" in caplog.text


def test_names_are_needed_and_unknown_ones_still_refused(voc_set):
    with pytest.raises(UserError, match="needs a name"):
        register_voc_dataset("", voc_set.images, voc_set.list)
    with pytest.raises(UserError, match="there is no data set 'nothing'"):
        dataset_dicts(["nothing"], "DATASETS.TRAIN", filter_empty=False)
