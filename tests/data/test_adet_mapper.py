import copy

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from PIL import Image

from adet_ext.config import get_cfg
from adet_ext.d2 import ENGINE
from adet_ext.d2.data import DatasetCatalog, MetadataCatalog
from adet_ext.d2.structures import BitMasks, PolygonMasks
from adet_ext.data.mapper import AdetDatasetMapper, draw_semantic
from adet_ext.data.shapes import ShapesSpec, shapes_dicts, shapes_labels
from adet_ext.data.validate import validate_coco
from adet_ext.errors import UserError
from adet_ext.utils.image_io import read_image

SPEC = ShapesSpec(num_images=6, height=64, width=96, seed=2)


on_detectron2 = pytest.mark.skipif(ENGINE != "detectron2", reason="compares with Detectron2, which is not on")


def config(*opts):
    cfg = get_cfg()
    cfg.MODEL.MASK_ON = True
    cfg.INPUT.MIN_SIZE_TRAIN = (48, 64, 80)
    cfg.INPUT.MIN_SIZE_TEST = 72
    cfg.merge_from_list(list(opts))
    return cfg


def same(a, b):
    assert a.keys() == b.keys()
    assert torch.equal(a["image"], b["image"])
    fields, others = a["instances"].get_fields(), b["instances"].get_fields()
    assert fields.keys() == others.keys() and a["instances"].image_size == b["instances"].image_size
    assert torch.equal(fields["gt_boxes"].tensor, others["gt_boxes"].tensor)
    assert torch.equal(fields["gt_classes"], others["gt_classes"])
    if "gt_masks" in fields:
        x, y = fields["gt_masks"], others["gt_masks"]
        assert type(x) is type(y)
        if isinstance(x, BitMasks):
            assert torch.equal(x.tensor, y.tensor)
        else:
            assert all(np.array_equal(p, q) for i, j in zip(x.polygons, y.polygons) for p, q in zip(i, j))


@on_detectron2
def test_without_our_keys_it_maps_as_the_engine_s_mapper(coco_set):
    from detectron2.data import DatasetMapper

    dicts = validate_coco(*coco_set.write()).dataset_dicts
    cases = [(dicts, "polygon"), (dicts, "bitmask"), (shapes_dicts(SPEC), "bitmask")]
    for records, mask_format in cases:
        cfg = config("INPUT.MASK_FORMAT", mask_format)
        ours, theirs = AdetDatasetMapper(cfg, True), DatasetMapper(cfg, True)
        for seed, record in enumerate(records):
            np.random.seed(seed)
            a = ours(record)
            np.random.seed(seed)
            b = theirs(copy.deepcopy(record))
            same(a, b)


def test_the_dict_that_is_mapped_stays_as_it_was(coco_set):
    record = validate_coco(*coco_set.write()).dataset_dicts[0]
    before = copy.deepcopy(record)
    AdetDatasetMapper(config("MODEL.BASIS_MODULE.LOSS_ON", True), True)(record)
    assert record == before


def test_it_follows_numpy_s_generator():
    mapper = AdetDatasetMapper(config("INPUT.MASK_FORMAT", "bitmask", "INPUT.CROP.ENABLED", True), True)
    record = shapes_dicts(SPEC)[0]
    results = []
    for seed in (0, 0, 1):
        np.random.seed(seed)
        results.append(mapper(record))
    same(results[0], results[1])
    assert results[0]["image"].shape != results[2]["image"].shape or not torch.equal(
        results[0]["image"], results[2]["image"]
    )


def test_rle_masks_become_bit_masks_even_where_polygons_are_asked_for():
    sample = AdetDatasetMapper(config(), True)(shapes_dicts(SPEC)[0])
    assert isinstance(sample["instances"].gt_masks, BitMasks)


def test_an_image_without_instances_has_empty_ground_truth(coco_set):
    record = validate_coco(*coco_set.write()).dataset_dicts[0]
    record["annotations"] = []
    for mask_format, kind in (("polygon", PolygonMasks), ("bitmask", BitMasks)):
        cfg = config("INPUT.MASK_FORMAT", mask_format, "MODEL.BASIS_MODULE.LOSS_ON", True, "INPUT.CROP.ENABLED", True)
        sample = AdetDatasetMapper(cfg, True)(record)
        assert len(sample["instances"]) == 0 and isinstance(sample["instances"].gt_masks, kind)
        assert len(sample["instances"].gt_boxes) == 0 and sample["basis_sem"].max() == 0


@pytest.mark.parametrize("seed", range(5))
def test_basis_labels_lie_under_the_instances_of_their_class(seed):
    cfg = config("INPUT.MASK_FORMAT", "bitmask", "MODEL.BASIS_MODULE.LOSS_ON", True, "INPUT.CROP.ENABLED", True)
    np.random.seed(seed)
    sample = AdetDatasetMapper(cfg, True)(shapes_dicts(SPEC)[seed])
    labels, instances = sample["basis_sem"], sample["instances"]
    assert labels.dtype == torch.int64 and labels.shape == sample["image"].shape[1:]
    expected = torch.zeros_like(labels)
    for mask, category in zip(instances.gt_masks.tensor, instances.gt_classes):
        expected[mask.bool()] = category + 1
    assert torch.equal(labels, expected)


def test_basis_labels_draw_later_annotations_over_earlier_ones():
    def square(x, category):
        polygon = np.array([x, 2.0, x + 6, 2.0, x + 6, 8.0, x, 8.0])
        return {"segmentation": [polygon], "category_id": category}

    labels = draw_semantic([square(1, 4), square(4, 0)], (10, 12))
    assert labels[5].tolist() == [0, 5, 5, 5, 1, 1, 1, 1, 1, 1, 0, 0]
    assert labels.dtype == np.uint8 and labels[0].max() == 0
    assert draw_semantic([square(1, 1200)], (10, 12))[5, 3] == 1201


def test_recomputed_boxes_fit_the_masks_that_a_crop_left():
    cfg = config("INPUT.MASK_FORMAT", "bitmask", "INPUT.CROP.ENABLED", True, "INPUT.CROP.SIZE", (0.5, 0.5))
    mapper = AdetDatasetMapper(cfg, True)
    for seed, record in enumerate(shapes_dicts(SPEC)):
        np.random.seed(seed)
        instances = mapper(record)["instances"]
        assert torch.equal(instances.gt_boxes.tensor, instances.gt_masks.get_bounding_boxes().tensor)


def test_polygons_are_cropped_too(coco_set):
    cfg = config("INPUT.CROP.ENABLED", True, "INPUT.CROP.SIZE", (0.5, 0.3), "INPUT.HFLIP_TRAIN", False)
    record = validate_coco(*coco_set.write()).dataset_dicts[0]
    np.random.seed(0)
    sample = AdetDatasetMapper(cfg, True)(record)
    assert isinstance(sample["instances"].gt_masks, PolygonMasks) and len(sample["instances"]) == 1
    height, width = sample["image"].shape[1:]
    x0, y0, x1, y1 = sample["instances"].gt_boxes.tensor[0].tolist()
    assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height


def test_whole_number_coordinates_scale_as_fractions_do(coco_set):
    whole = validate_coco(*coco_set.write()).dataset_dicts[0]
    whole["annotations"][0]["segmentation"] = [[11, 9, 31, 9, 31, 25, 11, 25]]
    whole["annotations"][0]["bbox"] = [11, 9, 20, 16]
    broken = copy.deepcopy(whole)
    broken["annotations"][0]["segmentation"] = [[float(v) for v in whole["annotations"][0]["segmentation"][0]]]
    broken["annotations"][0]["bbox"] = [11.0, 9.0, 20.0, 16.0]
    samples = []
    for record in (whole, broken):
        np.random.seed(3)
        samples.append(AdetDatasetMapper(config("INPUT.MIN_SIZE_TRAIN", (47,)), True)(record))
    same(*samples)


def test_semantic_labels_are_augmented_with_the_image():
    cfg = config("INPUT.MASK_FORMAT", "bitmask", "INPUT.MIN_SIZE_TRAIN", (64,), "INPUT.HFLIP_TRAIN", False)
    record = shapes_dicts(SPEC, panoptic=True)[2]
    sample = AdetDatasetMapper(cfg, True)(record)
    assert sample["sem_seg"].dtype == torch.int64
    assert np.array_equal(sample["sem_seg"].numpy(), shapes_labels(SPEC, 2)[0])


def test_inference_gives_no_ground_truth_unless_asked():
    record = shapes_dicts(SPEC)[0]
    cfg = config("INPUT.MASK_FORMAT", "bitmask", "MODEL.BASIS_MODULE.LOSS_ON", True)
    sample = AdetDatasetMapper(cfg, False)(record)
    assert sample.keys() == {"file_name", "image_id", "height", "width", "image"}
    assert sample["image"].shape[1] == 72
    sample = AdetDatasetMapper(cfg, False, keep_ground_truth=True)(record)
    assert len(sample["instances"]) == len(record["annotations"]) and "basis_sem" in sample


def test_crowds_are_left_out_of_the_instances(coco_set):
    record = validate_coco(*coco_set.write(iscrowd=1)).dataset_dicts[0]
    sample = AdetDatasetMapper(config("MODEL.BASIS_MODULE.LOSS_ON", True), True)(record)
    assert len(sample["instances"]) == 0 and sample["basis_sem"].max() == 1


@pytest.mark.parametrize("image_format", ["BGR", "RGB"])
def test_a_grey_image_of_16_bits_trains_as_it_is_predicted_on(coco_set, image_format):
    record = validate_coco(*coco_set.write()).dataset_dicts[0]
    deep = np.linspace(0, 65535, 40 * 60).astype(np.uint16).reshape(40, 60)
    Image.fromarray(deep).save(record["file_name"])
    cfg = config("INPUT.FORMAT", image_format, "INPUT.MIN_SIZE_TEST", 40)
    mapped = AdetDatasetMapper(cfg, False)(record)["image"].permute(1, 2, 0).numpy()
    assert np.array_equal(mapped, read_image(record["file_name"]))
    assert len(np.unique(mapped)) == 256


@pytest.mark.parametrize("pixels", [np.full((40, 60), 0.5, np.float32), np.full((40, 60), 1 << 20, np.int32)])
def test_pixels_of_unknown_range_are_said(coco_set, pixels):
    coco_set.data["images"][0]["file_name"] = "deep.tiff"
    Image.fromarray(pixels).save(coco_set.images / "deep.tiff")
    refused(validate_coco(*coco_set.write()).dataset_dicts[0], "numbers of unknown range")


@pytest.fixture
def record(coco_set):
    return validate_coco(*coco_set.write()).dataset_dicts[0]


def refused(record, words, *opts):
    with pytest.raises(UserError) as caught:
        AdetDatasetMapper(config(*opts), True)(record)
    message = str(caught.value)
    assert words in message and record["file_name"] in message and "\n" not in message
    assert f"image id {record['image_id']}" in message


def test_a_truncated_image_is_said(record, coco_set):
    path = coco_set.images / "image_0.png"
    path.write_bytes(path.read_bytes()[:1000])
    refused(record, "only a part of one")


@pytest.mark.parametrize("content", [b"", b"this is text", b"\x89PNG\r\n\x1a\n" + b"\x00" * 50])
def test_a_file_that_is_no_image_is_said(record, coco_set, content):
    (coco_set.images / "image_0.png").write_bytes(content)
    refused(record, "not an image")


def test_a_missing_image_is_said(record, coco_set):
    (coco_set.images / "image_0.png").unlink()
    refused(record, "there is no such file")


def test_an_image_of_another_size_is_said(record):
    refused({**record, "width": 61}, "60 x 40 pixels")
    refused({**record, "width": 40, "height": 60}, "EXIF")


def test_a_missing_mask_is_said_where_it_is_needed(record):
    del record["annotations"][0]["segmentation"]
    refused(record, "MODEL.MASK_ON")
    refused(record, "BASIS_MODULE.LOSS_ON", "MODEL.MASK_ON", False, "MODEL.BASIS_MODULE.LOSS_ON", True)
    sample = AdetDatasetMapper(config("MODEL.MASK_ON", False), True)(record)
    assert len(sample["instances"]) == 1 and not sample["instances"].has("gt_masks")


def test_an_rle_of_another_size_is_said(record):
    rle = mask_util.encode(np.asfortranarray(np.ones((60, 40), np.uint8)))
    record["annotations"][0]["segmentation"] = rle
    refused(record, "RLE mask has size [60, 40]")


@pytest.mark.parametrize("counts", [[0, 400, 2001], [0, 2**32, 2400 - 2**32], [2**64, 5], "0", "a\u20ac0"])
def test_an_rle_that_does_not_code_the_image_is_refused(record, counts):
    record["annotations"][0]["segmentation"] = {"size": [40, 60], "counts": counts}
    with pytest.raises(UserError, match="RLE mask is broken"):
        AdetDatasetMapper(True, augmentations=[], use_instance_mask=True)(record)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 10**400])
def test_a_box_that_is_not_finite_is_refused(record, number):
    record["annotations"][0]["bbox"] = [number, 1, 20, 20]
    with pytest.raises(UserError, match="four finite numbers"):
        AdetDatasetMapper(True, augmentations=[])(record)


@pytest.mark.parametrize("far", [1e8, 2.0**31, 1e15, 1e300, -1e300])
def test_a_polygon_that_reaches_far_out_is_drawn_within_the_image(record, far):
    record["annotations"][0]["segmentation"] = [[5.0, 5.0, far, 5.0, far, 30.0, 5.0, 30.0]]
    mapped = AdetDatasetMapper(True, augmentations=[], use_instance_mask=True, make_basis_sem=True)(record)
    drawn = mapped["basis_sem"].numpy() > 0
    assert drawn[10, 59 if far > 0 else 0] and not drawn[35].any()


def test_uncompressed_rle_is_taken(record):
    record["annotations"][0]["segmentation"] = {"size": [40, 60], "counts": [0, 400, 2000]}
    sample = AdetDatasetMapper(config("INPUT.MIN_SIZE_TRAIN", (40,), "INPUT.HFLIP_TRAIN", False), True)(record)
    assert sample["instances"].gt_masks.tensor.sum() == 400


@pytest.mark.parametrize("key, value", [("MODEL.KEYPOINT_ON", True), ("INPUT.MASK_FORMAT", "rle")])
def test_what_cannot_be_mapped_is_refused_by_its_key(key, value):
    with pytest.raises(UserError, match=key):
        AdetDatasetMapper(config(key, value), True)


@on_detectron2
def test_registered_shapes_go_through_the_engine_s_own_mapper():
    from detectron2.data import DatasetMapper

    cfg = config("INPUT.MASK_FORMAT", "bitmask")
    name = "shapes_val"
    assert MetadataCatalog.get(name).thing_classes[0] == "circle"
    sample = DatasetMapper(cfg, True)(DatasetCatalog.get(name)[0])
    assert sample["image"].shape[0] == 3 and len(sample["instances"])
