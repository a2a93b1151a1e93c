import io
import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image
from pycocotools.coco import COCO

from adet_ext.d2.data import DatasetCatalog, MetadataCatalog, detection_utils
from adet_ext.d2.utils import PathManager
from adet_ext.data import shapes
from adet_ext.data.shapes import ShapesSpec, shapes_coco_json, shapes_dicts, shapes_image, shapes_labels
from adet_ext.data.shapes_scene import STUFF_CLASSES, THING_CLASSES, compose
from adet_ext.errors import UserError

SPEC = ShapesSpec(num_images=30, height=96, width=128, seed=5)


def test_an_image_is_a_function_of_seed_size_and_index_alone():
    longer = ShapesSpec(num_images=300, height=96, width=128, seed=5)
    first = shapes_image(SPEC, 7)
    shapes_image(SPEC, 3)
    assert np.array_equal(first, shapes_image(longer, 7))
    assert first.shape == (96, 128, 3) and first.dtype == np.uint8


def test_neighbouring_seeds_and_indices_share_no_image():
    other = ShapesSpec(num_images=30, height=96, width=128, seed=6)
    pictures = [shapes_image(spec, i).tobytes() for spec in (SPEC, other) for i in range(10)]
    assert len(set(pictures)) == 20


def test_training_and_validation_images_differ():
    train, val = (MetadataCatalog.get(f"shapes_{split}").image_root for split in ("train", "val"))
    assert train.split("-")[0] != val.split("-")[0]


def test_masks_are_disjoint_and_visible_and_boxes_tight():
    for record in shapes_dicts(SPEC):
        masks = [mask_util.decode(a["segmentation"]).astype(bool) for a in record["annotations"]]
        assert 1 <= len(masks) <= 6
        assert np.sum(masks, axis=0).max() <= 1
        for mask, annotation in zip(masks, record["annotations"]):
            assert mask.sum() >= 20
            x, y, w, h = (int(v) for v in annotation["bbox"])
            assert mask[y : y + h, x : x + w].sum() == mask.sum()
            assert mask[y].any() and mask[y + h - 1].any() and mask[:, x].any() and mask[:, x + w - 1].any()


def test_instances_overlap_and_every_class_appears():
    scenes = [SPEC.scene(i) for i in range(SPEC.num_images)]
    hidden = sum(
        patch.coverage.round().sum() - mask.sum() > 5
        for scene in scenes
        for patch, mask in zip(scene.patches, scene.masks)
    )
    assert hidden >= 10
    assert {s.category for scene in scenes for s in scene.shapes} == set(range(len(THING_CLASSES)))


def test_painting_changes_the_pixels_of_the_masks_and_no_others():
    from adet_ext.data.shapes_scene import Scene, paint, random_backdrop

    for index in range(5):
        scene = SPEC.scene(index)
        backdrop = random_backdrop(np.random.RandomState(0), 96, 128)
        empty = Scene(96, 128, (), (), ())
        with_shapes = paint(np.random.RandomState(1), scene, backdrop).astype(int)
        without = paint(np.random.RandomState(1), empty, backdrop).astype(int)
        changed = np.abs(with_shapes - without).max(-1) > 3
        covered = np.any(scene.masks, axis=0)
        untouched = np.ones((96, 128), bool)
        for patch in scene.patches:
            untouched[patch.window] &= patch.coverage == 0
        assert changed[covered].mean() > 0.95
        assert not changed[untouched].any()


def test_a_placed_scene_composes_to_the_same_masks():
    scene = SPEC.scene(4)
    again = compose(scene.shapes, 96, 128)
    assert all(np.array_equal(a, b) for a, b in zip(scene.masks, again.masks))


def test_a_ring_has_a_hole():
    ring = THING_CLASSES.index("ring")
    found = 0
    for index in range(SPEC.num_images):
        scene = SPEC.scene(index)
        top = scene.shapes[-1]
        if top.category == ring and 2 < top.x < 126 and 2 < top.y < 94 and top.diameter > 16:
            assert not scene.masks[-1][int(top.y), int(top.x)]
            found += 1
    assert found


def test_panoptic_maps_agree_with_instances_and_semantic_labels():
    for record in shapes_dicts(SPEC, panoptic=True)[:10]:
        index = record["image_id"]
        sem_seg, panoptic, segments = shapes_labels(SPEC, index)
        assert record["segments_info"] == segments
        assert {s["id"] for s in segments} == set(np.unique(panoptic))
        by_id = {s["id"]: s for s in segments}
        for k, annotation in enumerate(record["annotations"]):
            mask = mask_util.decode(annotation["segmentation"]).astype(bool)
            assert np.array_equal(panoptic == k + 1, mask)
            assert (sem_seg[mask] == 0).all()
            assert by_id[k + 1]["category_id"] == annotation["category_id"] + 1
            assert by_id[k + 1]["area"] == mask.sum()
        for segment in segments:
            if segment["id"] > len(record["annotations"]):
                stuff = segment["category_id"] - len(THING_CLASSES)
                assert 1 <= stuff <= len(STUFF_CLASSES)
                assert (sem_seg[panoptic == segment["id"]] == stuff).all()


def test_files_are_read_through_the_path_manager():
    record = DatasetCatalog.get("shapes_val_panoptic")[3]
    spec = ShapesSpec(200, 128, 128, 1)
    image = detection_utils.read_image(record["file_name"], "RGB")
    assert np.array_equal(image, shapes_image(spec, 3))
    sem_seg, panoptic, _ = shapes_labels(spec, 3)
    assert np.array_equal(detection_utils.read_image(record["sem_seg_file_name"], "L")[..., 0], sem_seg)
    coded = detection_utils.read_image(record["pan_seg_file_name"], "RGB").astype(int)
    assert np.array_equal(coded @ [1, 256, 65536], panoptic)
    assert PathManager.isfile(record["file_name"]) and not PathManager.exists("shapes://seed1-128x128-n200/no.png")


def test_local_copies_hold_what_the_path_manager_reads():
    metadata = MetadataCatalog.get("shapes_val")
    local = PathManager.get_local_path(metadata.json_file)
    assert json.load(open(local)) == shapes_coco_json("shapes_val")
    folder = PathManager.get_local_path("shapes://seed9-64x64-n3/panoptic")
    with PathManager.open("shapes://seed9-64x64-n3/panoptic/000002.png", "rb") as file:
        expected = np.asarray(Image.open(io.BytesIO(file.read())))
    assert np.array_equal(np.asarray(Image.open(f"{folder}/000002.png")), expected)


def test_the_coco_ground_truth_describes_the_dicts(tmp_path):
    path = tmp_path / "gt.json"
    path.write_text(json.dumps(shapes_coco_json(SPEC)))
    coco = COCO(str(path))
    for record in shapes_dicts(SPEC):
        entries = coco.imgToAnns[record["image_id"]]
        assert len(entries) == len(record["annotations"])
        for entry, annotation in zip(entries, record["annotations"]):
            assert entry["bbox"] == annotation["bbox"] and entry["category_id"] == annotation["category_id"] + 1
            assert np.array_equal(coco.annToMask(entry), mask_util.decode(annotation["segmentation"]))
            assert entry["area"] == coco.annToMask(entry).sum() and entry["id"] > 0


def test_registering_again_replaces_and_leaves_nothing_stale(forget):
    forget("shapes_test")
    shapes.register_shapes("shapes_test", num_images=3, size=64, seed=1)
    first = json.load(open(PathManager.get_local_path(MetadataCatalog.get("shapes_test").json_file)))
    shapes.register_shapes("shapes_test", num_images=5, size=(64, 96), seed=2)
    assert len(DatasetCatalog.get("shapes_test")) == 5
    second = json.load(open(PathManager.get_local_path(MetadataCatalog.get("shapes_test").json_file)))
    assert len(first["images"]) == 3 and len(second["images"]) == 5
    assert second["images"][0]["width"] == 96


@pytest.mark.parametrize("path", ["shapes://nonsense", "shapes://seed1-2x2-n1/images/000000.png"])
def test_a_wrong_shapes_path_is_said_in_a_sentence(path):
    with pytest.raises(UserError, match="shapes"):
        PathManager.open(path, "rb")


def test_an_index_beyond_the_data_set_is_a_missing_file():
    with pytest.raises(FileNotFoundError):
        PathManager.open("shapes://seed1-128x128-n200/images/000200.png", "rb")
    with pytest.raises(UserError, match="cannot be written"):
        PathManager.open("shapes://seed1-128x128-n200/images/000000.png", "wb")
