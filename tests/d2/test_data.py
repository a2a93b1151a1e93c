"""Catalogs and annotations of whichever engine is on; COCO files of the embedded one."""

import itertools
import json
import os

import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image

from adet_ext.d2 import ENGINE
from adet_ext.d2 import data as D
from adet_ext.d2.data import DatasetCatalog, MetadataCatalog
from adet_ext.d2.data import detection_utils as utils
from adet_ext.d2.embedded.data import coco as coco_files
from adet_ext.d2.embedded.data import coco_panoptic
from adet_ext.d2.structures import BoxMode

embedded_only = pytest.mark.skipif(ENGINE != "embedded", reason="Detectron2 words or checks this otherwise")


def square(x, y, side):
    return [x, y, x + side, y, x + side, y + side, x, y + side]


def write_coco(folder, n=6, categories=((3, "cat"), (7, "dog"))):
    """n noise images of alternating orientation with two instances each (the third image has a crowd only)."""
    os.makedirs(folder / "images", exist_ok=True)
    rng = np.random.RandomState(0)
    coco = {"images": [], "annotations": [], "categories": [{"id": i, "name": c} for i, c in categories]}
    for i in range(n):
        w, h = (64, 48) if i % 2 else (40, 56)
        Image.fromarray(rng.randint(0, 256, (h, w, 3), dtype=np.uint8)).save(folder / "images" / f"{i}.png")
        coco["images"].append({"id": 10 * i + 5, "file_name": f"{i}.png", "height": h, "width": w})
        for k in range(1 if i == 2 else 2):
            x, y, side = 3.5 + 9 * k, 4.25 + k, 12.5
            anno = {"id": len(coco["annotations"]) + 1, "image_id": 10 * i + 5, "category_id": categories[k][0],
                    "bbox": [x, y, side, side], "area": side * side, "iscrowd": int(i == 2),
                    "segmentation": [square(x, y, side)]}  # fmt: skip
            if i == 2:
                mask = np.zeros((h, w), np.uint8, order="F")
                mask[4:20, 3:30] = 1
                runs = np.flatnonzero(np.diff(np.r_[0, mask.T.ravel(), 0])).tolist()
                edges = [0, *runs, mask.size]
                anno["segmentation"] = {"size": [h, w], "counts": np.diff(edges).tolist()}
            coco["annotations"].append(anno)
    path = folder / "instances.json"
    path.write_text(json.dumps(coco))
    return str(path), str(folder / "images"), coco


@pytest.fixture
def name():
    """A data set name that is free now and forgotten afterwards."""
    name = "test_data_set"
    yield name
    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog:
            catalog.remove(name)


@pytest.fixture
def coco(tmp_path, name):
    json_file, image_root, content = write_coco(tmp_path)
    coco_files.register_coco_instances(name, {}, json_file, image_root)
    return name


class TestCatalogs:
    def test_a_name_is_registered_once_and_an_unknown_one_is_named(self, name):
        DatasetCatalog.register(name, lambda: [{"a": 1}])
        assert DatasetCatalog.get(name) == [{"a": 1}]
        with pytest.raises(AssertionError, match=name):
            DatasetCatalog.register(name, list)
        with pytest.raises(KeyError, match="no_such_set"):
            DatasetCatalog.get("no_such_set")

    def test_metadata_may_be_set_again_only_to_the_same_value(self, name):
        meta = MetadataCatalog.get(name)
        meta.thing_classes = ["a", "b"]
        meta.set(thing_classes=["a", "b"])
        with pytest.raises(AssertionError, match="thing_classes"):
            meta.thing_classes = ["b"]
        assert meta.get("stuff_classes", 5) == 5 and not hasattr(meta, "stuff_classes")
        with pytest.raises(AttributeError, match="stuff_classes"):
            _ = meta.stuff_classes
        assert MetadataCatalog.get(name) is meta and meta.as_dict()["thing_classes"] == ["a", "b"]

    def test_coco_splits_are_registered_with_classes_and_contiguous_ids(self):
        meta = MetadataCatalog.get("coco_2017_val")
        assert len(meta.thing_classes) == len(meta.thing_colors) == 80
        assert meta.thing_classes[-1] == "toothbrush" and meta.thing_dataset_id_to_contiguous_id[90] == 79
        separated = MetadataCatalog.get("coco_2017_val_panoptic_separated")
        assert len(separated.stuff_classes) == 54 and separated.ignore_label == 255
        assert set(separated.stuff_dataset_id_to_contiguous_id.values()) == set(range(54))
        assert "coco_2017_val_panoptic_stuffonly" in DatasetCatalog.list()
        assert len(MetadataCatalog.get("coco_2017_train_panoptic").thing_classes) == 133


@embedded_only
class TestCocoFiles:
    def test_dicts_are_sorted_and_have_contiguous_categories_and_compressed_run_lengths(self, coco):
        dicts = DatasetCatalog.get(coco)
        assert [d["image_id"] for d in dicts] == [5, 15, 25, 35, 45, 55]
        assert [a["category_id"] for a in dicts[0]["annotations"]] == [0, 1]
        assert all(a["bbox_mode"] == BoxMode.XYWH_ABS for d in dicts for a in d["annotations"])
        crowd = dicts[2]["annotations"][0]
        assert crowd["iscrowd"] == 1 and mask_util.area(crowd["segmentation"]) == 16 * 27
        assert MetadataCatalog.get(coco).thing_dataset_id_to_contiguous_id == {3: 0, 7: 1}

    def test_instances_whose_polygons_have_less_than_three_points_are_left_out(self, tmp_path, name):
        json_file, root, content = write_coco(tmp_path)
        content["annotations"][0]["segmentation"] = [[1, 1, 2, 2]]
        open(json_file, "w").write(json.dumps(content))
        assert len(coco_files.load_coco_json(json_file, root, name)[0]["annotations"]) == 1

    @pytest.mark.parametrize(
        "spoil, words",
        [
            (lambda c: "{not json", ["instances.json", "not JSON"]),
            (lambda c: [1], ["images", "categories"]),
            (lambda c: {**c, "images": None}, ["images"]),
            (lambda c: c["annotations"][1].update(category_id=99) or c, ["image 5", "annotation 2", "99"]),
            (lambda c: c["annotations"][1].update(id=1) or c, ["annotation ids"]),
            (lambda c: c["annotations"][1].update(bbox=[1, 2]) or c, ["image 5", "annotation 2", "bbox"]),
            (lambda c: c["annotations"][1].pop("image_id") and c, ["image_id", "annotations"]),
            (lambda c: c["images"][1].pop("width") and c, ["width", "images"]),
        ],
    )
    def test_a_spoilt_file_gives_a_sentence_that_says_where(self, tmp_path, name, spoil, words):
        json_file, root, content = write_coco(tmp_path)
        spoilt = spoil(content)
        open(json_file, "w").write(spoilt if isinstance(spoilt, str) else json.dumps(spoilt))
        with pytest.raises((ValueError, KeyError)) as error:
            coco_files.load_coco_json(json_file, root, name)
        assert all(word in str(error.value) for word in words), error.value

    def test_a_loaded_data_set_converts_back_to_the_annotations_it_came_from(self, tmp_path, name):
        json_file, root, content = write_coco(tmp_path)
        coco_files.register_coco_instances(name, {}, json_file, root)
        DatasetCatalog.get(name)
        back = json.loads(json.dumps(coco_files.convert_to_coco_dict(name)))
        assert [i["id"] for i in back["images"]] == [i["id"] for i in content["images"]]
        for new, old in zip(back["annotations"], content["annotations"]):
            assert all(new[k] == old[k] for k in ("id", "image_id", "category_id", "bbox", "iscrowd"))
            if not old["iscrowd"]:
                assert new["area"] == pytest.approx(old["area"])

    def test_label_maps_pair_with_images_of_the_same_name(self, tmp_path):
        for folder, names in (("maps", ["b.png", "a.png"]), ("images", ["a.jpg", "b.jpg", "d.jpg"])):
            (tmp_path / folder).mkdir()
            for file in names:
                (tmp_path / folder / file).touch()
        dicts = coco_files.load_sem_seg(str(tmp_path / "maps"), str(tmp_path / "images"))
        assert [os.path.basename(d["file_name"]) for d in dicts] == ["a.jpg", "b.jpg"]
        assert [os.path.basename(d["sem_seg_file_name"]) for d in dicts] == ["a.png", "b.png"]


class TestInstances:
    def test_instances_with_empty_boxes_are_filtered_and_reported(self):
        annos = [{"bbox": [0, 0, 5, 5], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0},
                 {"bbox": [3, 3, 3, 8], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1}]  # fmt: skip
        kept, mask = utils.filter_empty_instances(utils.annotations_to_instances(annos, (9, 9)), return_mask=True)
        assert kept.gt_classes.tolist() == [0] and mask.tolist() == [True, False]


@embedded_only
class TestLoading:
    def test_data_sets_with_different_classes_do_not_mix(self, coco, tmp_path):
        json_file, root, _ = write_coco(tmp_path / "other", categories=((1, "car"), (2, "bus")))
        coco_files.register_coco_instances("test_other_set", {}, json_file, root)
        try:
            with pytest.raises(ValueError, match="thing_classes"):
                D.get_detection_dataset_dicts([coco, "test_other_set"])
        finally:
            DatasetCatalog.remove("test_other_set")
            MetadataCatalog.remove("test_other_set")


@embedded_only
class TestPanopticData:
    def test_separated_sets_join_instances_and_label_maps(self, tmp_path):
        json_file, root, content = write_coco(tmp_path)
        for image in content["images"]:  # the panoptic convention: images are .jpg
            stem = image["file_name"][:-4]
            os.rename(f"{root}/{stem}.png", f"{root}/{stem}.jpg")
            image["file_name"] = stem + ".jpg"
            (tmp_path / "stuff").mkdir(exist_ok=True)
            (tmp_path / "stuff" / f"{stem}.png").touch()
        open(json_file, "w").write(json.dumps(content))
        panoptic = {"annotations": [{"image_id": i["id"], "file_name": i["file_name"][:-4] + ".png",
                                     "segments_info": [{"id": 1, "category_id": 3}, {"id": 2, "category_id": 8}]}
                                    for i in content["images"]]}  # fmt: skip
        (tmp_path / "panoptic.json").write_text(json.dumps(panoptic))
        maps = {
            "thing_dataset_id_to_contiguous_id": {3: 0, 7: 1},
            "stuff_dataset_id_to_contiguous_id": {8: 1},
        }
        files = (root, str(tmp_path / "stuff"), str(tmp_path / "panoptic.json"))
        try:
            coco_panoptic.register_coco_panoptic_separated("test_pan", maps, *files, str(tmp_path / "stuff"), json_file)
            coco_panoptic.register_coco_panoptic("test_pan", maps, *files)
            first = DatasetCatalog.get("test_pan_separated")[0]
            assert len(first["annotations"]) == 2 and first["sem_seg_file_name"].endswith("0.png")
            assert len(DatasetCatalog.get("test_pan_stuffonly")) == 6
            segments = DatasetCatalog.get("test_pan")[0]["segments_info"]
            assert [(s["category_id"], s["isthing"]) for s in segments] == [(0, True), (1, False)]
            assert MetadataCatalog.get("test_pan").label_divisor == 1000
        finally:
            for catalog, suffix in itertools.product(
                (DatasetCatalog, MetadataCatalog), ("", "_separated", "_stuffonly")
            ):
                catalog.pop("test_pan" + suffix, None)
