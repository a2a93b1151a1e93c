import numpy as np
import pycocotools.mask as mask_util
import pytest

from adet_ext.config import get_cfg
from adet_ext.d2.data import transforms as T
from adet_ext.data.augmentation import RandomCropWithInstance, ResizeShorterSide, build_augmentation, clip_polygon
from adet_ext.errors import UserError

IMAGE = np.zeros((90, 120, 3), np.uint8)


def random_boxes(rng, count):
    corners = rng.uniform(0, 1, (count, 2)) * (100, 70)
    return np.concatenate([corners, corners + rng.uniform(2, 40, (count, 2))], 1)


def window(crop):
    return crop.x0, crop.y0, crop.x0 + crop.w, crop.y0 + crop.h


@pytest.mark.parametrize("seed", range(30))
def test_a_growing_crop_cuts_no_instance(seed):
    rng = np.random.RandomState(seed)
    np.random.seed(seed)
    boxes = random_boxes(rng, rng.randint(1, 8))
    crop = RandomCropWithInstance("relative_range", (0.2, 0.2), crop_instance=False).get_transform(IMAGE, boxes)
    x0, y0, x1, y1 = window(crop)
    assert 0 <= x0 < x1 <= 120 and 0 <= y0 < y1 <= 90
    inside = 0
    for bx0, by0, bx1, by1 in boxes.clip(0, [120, 90, 120, 90]):
        apart = bx0 >= x1 or bx1 <= x0 or by0 >= y1 or by1 <= y0
        within = bx0 >= x0 and bx1 <= x1 and by0 >= y0 and by1 <= y1
        assert apart or within
        inside += within
    assert inside


@pytest.mark.parametrize("seed", range(30))
def test_a_cutting_crop_has_its_size_and_holds_the_centre_of_an_instance(seed):
    rng = np.random.RandomState(seed)
    np.random.seed(seed)
    boxes = random_boxes(rng, 3)
    crop = RandomCropWithInstance("absolute", (30, 40)).get_transform(IMAGE, boxes)
    assert (crop.h, crop.w) == (30, 40)
    x0, y0, x1, y1 = window(crop)
    centres = (boxes[:, :2] + boxes[:, 2:]).clip(0, [240, 180]) / 2
    assert any(x0 <= x <= x1 and y0 <= y <= y1 for x, y in centres)


@pytest.mark.parametrize("boxes", [None, np.zeros((0, 4))])
def test_an_image_without_instances_is_cropped_anywhere(boxes):
    crop = RandomCropWithInstance("relative", (0.5, 0.5), crop_instance=False).get_transform(IMAGE, boxes)
    assert (crop.h, crop.w) == (45, 60)


def test_crops_follow_numpy_s_generator_alone():
    boxes = random_boxes(np.random.RandomState(0), 5)
    crop = RandomCropWithInstance("relative_range", (0.3, 0.3))
    drawn = []
    for _ in range(2):
        np.random.seed(3)
        drawn.append([window(crop.get_transform(IMAGE, boxes)) for _ in range(5)])
    assert drawn[0] == drawn[1] and len(set(drawn[0])) > 1


@pytest.mark.parametrize("seed", range(25))
def test_a_clipped_polygon_fills_what_the_crop_shows_of_it(seed):
    rng = np.random.RandomState(seed)
    points = rng.uniform(0, 80, (rng.randint(3, 12), 2))
    x0, y0 = rng.randint(0, 50, 2)
    width, height = rng.randint(8, 30, 2)

    def fill(p, h, w):
        return mask_util.decode(mask_util.merge(mask_util.frPyObjects([p.ravel().tolist()], h, w)))

    shown = fill(points, 80, 80)[y0 : y0 + height, x0 : x0 + width]
    clipped = clip_polygon(points, x0, y0, x0 + width, y0 + height) - (x0, y0)
    filled = fill(clipped, int(height), int(width)) if len(clipped) >= 3 else np.zeros_like(shown)
    # Rounding to pixels may differ along the border of the crop, nowhere else.
    assert np.count_nonzero(filled != shown) <= 0.3 * (width + height)


def test_a_clipped_polygon_leaves_no_spike_along_the_border():
    # Outside on the left the outline runs down to y = 90, which the crop cuts off at 50.
    points = np.array([[0, 0], [50, 0], [50, 20], [-10, 20], [-10, 90], [30, 90], [30, 95], [-20, 95], [-20, 0.0]])
    assert clip_polygon(points, 0, 0, 100, 50)[:, 1].max() == 20


def test_a_polygon_inside_the_crop_stays_as_it_is():
    points = np.array([[1.5, 2.5], [7.25, 3.0], [4.0, 9.0]])
    assert np.array_equal(clip_polygon(points, 1, 2, 10, 10), points)


def config(**keys):
    cfg = get_cfg()
    for key, value in keys.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    return cfg


def test_the_config_orders_crop_resize_flip():
    augmentations = build_augmentation(config(INPUT__CROP__ENABLED=True), True)
    assert [type(a) for a in augmentations] == [RandomCropWithInstance, ResizeShorterSide, T.RandomFlip]
    assert [type(a) for a in build_augmentation(config(INPUT__CROP__ENABLED=True), False)] == [ResizeShorterSide]
    assert len(build_augmentation(config(INPUT__HFLIP_TRAIN=False), True)) == 1


@pytest.mark.parametrize(
    "key, value",
    [
        ("INPUT.IS_ROTATE", True),
        ("INPUT.RANDOM_FLIP", "diagonal"),
        ("INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"),
    ],
)
def test_what_cannot_be_done_is_refused_by_its_key(key, value):
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN = (100, 200, 300)
    cfg.merge_from_list([key, value])
    with pytest.raises(UserError, match="INPUT"):
        build_augmentation(cfg, True)
