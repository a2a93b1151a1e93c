"""Panoptic annotations of CamVid: regions become instances, small ones a crowd, and the evaluators read them."""

import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image

from adet_ext.cli.data import main
from adet_ext.config import get_cfg
from adet_ext.d2.data import DatasetCatalog, MetadataCatalog
from adet_ext.data.camvid import CLASSES, VOID
from adet_ext.data.camvid_panoptic import STUFF, THINGS, register_camvid_panoptic
from adet_ext.data.mapper import AdetDatasetMapper
from adet_ext.data.prepare_camvid_panoptic import prepare_camvid_panoptic
from adet_ext.errors import UserError
from adet_ext.utils.segment_ids import rgb2id

_CAR, _ROAD, _SKY, _PEDESTRIAN = (CLASSES.index(name) for name in ("Car", "Road", "Sky", "Pedestrian"))


@pytest.fixture
def street(tmp_path):
    """Two images of 40 x 60: two cars that touch at a corner, one apart, two specks of people, void at the bottom."""
    folder = tmp_path / "camvid"
    labels = np.full((40, 60), _ROAD, np.uint8)
    labels[:10] = _SKY
    labels[10:20, 0:15] = labels[20:30, 15:30] = labels[12:24, 40:52] = _CAR
    labels[30:33, 2:5] = labels[30:33, 10:13] = _PEDESTRIAN
    labels[38:] = VOID
    for split in ("train", "val"):
        for kind, pixels in ((split, np.zeros((40, 60, 3), np.uint8)), (f"{split}annot", labels)):
            (folder / kind).mkdir(parents=True)
            Image.fromarray(pixels).save(folder / kind / "A_000030.png")
        (folder / f"{split}.txt").write_text(f"{split}/A_000030.png {split}annot/A_000030.png\n")
    return folder, labels


def test_regions_are_instances_and_small_ones_a_crowd(street, capsys):
    folder, labels = street
    assert main(["prepare-camvid-panoptic", str(folder)]) == 0
    assert "train: 1 images, 2 instances" in capsys.readouterr().out
    panoptic = json.loads((folder / "annotations" / "panoptic_train.json").read_text())
    segments = panoptic["annotations"][0]["segments_info"]
    named = [(CLASSES[s["category_id"] - 1], s["iscrowd"], s["area"], s["bbox"]) for s in segments]
    assert named == [
        ("Sky", 0, 600, [0, 0, 60, 10]),
        ("Road", 0, 1680 - 444 - 18, [0, 10, 60, 28]),
        ("Pedestrian", 1, 18, [2, 30, 11, 3]),
        ("Car", 0, 300, [0, 10, 30, 20]),  # diagonal neighbors belong together
        ("Car", 0, 144, [40, 12, 12, 12]),
    ]
    ids = rgb2id(np.array(Image.open(folder / "panoptic_train" / "A_000030.png")))
    assert ((ids == 0) == (labels == VOID)).all()
    for segment in segments:
        assert segment["area"] == (ids == segment["id"]).sum()
        assert set(labels[ids == segment["id"]]) == {segment["category_id"] - 1}
    stuff = np.array(Image.open(folder / "panoptic_stuff_train" / "A_000030.png"))
    assert set(stuff[labels == _ROAD]) == {STUFF.index("Road") + 1} and set(stuff[labels == VOID]) == {255}
    assert set(stuff[(labels == _CAR) | (labels == _PEDESTRIAN)]) == {0}


def test_the_set_is_read_by_the_mapper_with_its_semantic_labels(street):
    folder, labels = street
    prepare_camvid_panoptic(str(folder))
    register_camvid_panoptic("street_panoptic", str(folder), "train")
    (record,) = DatasetCatalog.get("street_panoptic")
    assert [a["category_id"] for a in record["annotations"]] == [THINGS.index("Pedestrian"), 0, 0]
    masks = [mask_util.decode(a["segmentation"]).astype(bool) for a in record["annotations"]]
    assert ((masks[1] | masks[2]) == (labels == _CAR)).all()
    assert MetadataCatalog.get("street_panoptic").stuff_classes[1:] == list(STUFF)
    cfg = get_cfg()
    cfg.INPUT.MASK_FORMAT, cfg.INPUT.MIN_SIZE_TRAIN, cfg.MODEL.MASK_ON = "bitmask", (40,), True
    mapped = AdetDatasetMapper(cfg, is_train=True)(record)
    assert len(mapped["instances"]) == 2  # no crowd
    assert mapped["sem_seg"].shape == (40, 60) and set(mapped["sem_seg"].unique().tolist()) == {0, 1, 4, 255}


def test_what_is_missing_or_broken_is_named(street, tmp_path):
    folder, _ = street
    with pytest.raises(UserError, match="has no train.txt, val.txt or test.txt; make it by"):
        prepare_camvid_panoptic(str(tmp_path))
    register_camvid_panoptic("street_panoptic", str(folder), "val")
    with pytest.raises(UserError, match="instances_val.json is missing; make it by .*prepare-camvid-panoptic"):
        DatasetCatalog.get("street_panoptic")
    Image.fromarray(np.full((40, 60), 12, np.uint8)).save(folder / "valannot" / "A_000030.png")
    with pytest.raises(UserError, match="A_000030.png: values must be up to 11"):
        prepare_camvid_panoptic(str(folder))
