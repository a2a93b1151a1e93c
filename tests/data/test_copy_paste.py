"""Copy-paste and large-scale jitter: what they do to images, masks, boxes and labels."""

import numpy as np
import pytest
import torch

from adet_ext.config import get_cfg
from adet_ext.d2.data import transforms as T
from adet_ext.d2.structures import BitMasks, Boxes, Instances
from adet_ext.data.augmentation import ScaleJitter, build_augmentation, cuts_instances
from adet_ext.data.copy_paste import paste_instances
from adet_ext.data.loader import _Samples
from adet_ext.errors import UserError


def _sample(height: int, width: int, value: int, *boxes: tuple[int, int, int, int]) -> dict:
    """An image of one value whose instances are filled boxes, all of class ``value``."""
    masks = torch.zeros(len(boxes), height, width, dtype=torch.bool)
    labels = torch.zeros(height, width, dtype=torch.int64)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes):
        mask[y0:y1, x0:x1] = True
        labels[y0:y1, x0:x1] = value + 1
    instances = Instances((height, width))
    instances.gt_masks, instances.gt_boxes = BitMasks(masks), Boxes(torch.tensor(boxes, dtype=torch.float32))
    instances.gt_classes = torch.full((len(boxes),), value)
    return {
        "image": torch.full((3, height, width), value, dtype=torch.uint8),
        "instances": instances,
        "basis_sem": labels,
    }


@pytest.mark.parametrize("seed", range(6))
def test_pasted_instances_cover_those_behind_and_everything_agrees(seed):
    sample = _sample(40, 60, 1, (5, 5, 45, 35))
    source = _sample(30, 80, 7, (50, 2, 70, 12), (10, 15, 25, 29))
    before = sample["image"].clone()
    np.random.seed(seed)
    pasted = paste_instances(sample, source)
    assert torch.equal(sample["image"], before) and len(sample["instances"]) == 1, "the sample itself is unchanged"
    instances = pasted["instances"]
    masks, classes = instances.gt_masks.tensor, instances.gt_classes
    assert masks.sum(0).max() == 1, "no pixel belongs to two instances"
    cover = masks[classes == 7].any(0)
    assert cover.any() and classes.tolist() == sorted(classes.tolist())
    assert torch.equal(pasted["image"][0] == 7, cover), "pasted pixels are those of the pasted masks"
    assert torch.equal(pasted["basis_sem"], torch.where(cover, 8, sample["basis_sem"]))
    assert torch.equal(instances.gt_boxes.tensor, instances.gt_masks.get_bounding_boxes().tensor)
    areas = masks[classes == 7].flatten(1).sum(1)
    assert set(areas.tolist()) <= {200, 210}, "nothing that fits is cut"


def test_an_instance_that_is_hidden_is_dropped():
    np.random.seed(0)
    pasted = paste_instances(_sample(20, 20, 1, (4, 4, 8, 8)), _sample(20, 20, 2, (0, 0, 20, 20)))
    assert pasted["instances"].gt_classes.tolist() == [2]


def test_an_image_without_instances_pastes_nothing():
    sample = _sample(20, 20, 1, (4, 4, 8, 8))
    assert paste_instances(sample, _sample(20, 20, 2)) is sample


def test_polygons_are_refused():
    sample = _sample(20, 20, 1, (4, 4, 8, 8))
    sample["instances"].gt_masks = [[np.zeros(6)]]
    with pytest.raises(UserError, match="INPUT.COPY_PASTE needs .*MASK_FORMAT bitmask; got others for a.png"):
        paste_instances(sample, sample, "a.png")


@pytest.mark.parametrize("probability, classes", [(0.0, {1}), (1.0, {1, 2})])
def test_the_loader_pastes_with_the_probability_it_is_given(probability, classes):
    boxes = {1: (4, 4, 8, 8), 2: (12, 12, 16, 16)}
    samples = _Samples([1, 2], lambda c: {**_sample(20, 20, c, boxes[c]), "file_name": "a"}, 3, probability)
    found = [samples[position, 0]["instances"].gt_classes.tolist() for position in range(8)]
    assert set().union(*found) == classes
    assert found == [samples[position, 0]["instances"].gt_classes.tolist() for position in range(8)]


@pytest.mark.parametrize("factor, size", [(0.5, (50, 100)), (1.0, (100, 200)), (2.0, (100, 200))])
def test_jitter_shrinks_the_image_or_cuts_it_back_around_an_instance(factor, size):
    image = np.zeros((50, 100, 3), np.uint8)
    image[10:14, 80:84] = 255
    inputs = T.AugInput(image, boxes=np.array([[80.0, 10, 84, 14]]))
    np.random.seed(0)
    transform = ScaleJitter((factor, factor), (100,), 1000, "choice")(inputs)
    assert inputs.image.shape[:2] == size
    (x0, y0, x1, y1) = inputs.boxes[0]
    assert x1 - x0 == pytest.approx(8 * factor) and y1 - y0 == pytest.approx(8 * factor)
    x, y = int((x0 + x1) / 2), int((y0 + y1) / 2)
    assert inputs.image[y, x].tolist() == [255, 255, 255] and transform.apply_image(image).shape[:2] == size


def test_jitter_is_off_by_default_and_refuses_an_empty_range():
    cfg = get_cfg()
    assert not any(isinstance(a, ScaleJitter) for a in build_augmentation(cfg, True)) and not cuts_instances(cfg)
    cfg.INPUT.SCALE_JITTER = (0.5, 2.0)
    assert isinstance(build_augmentation(cfg, True)[0], ScaleJitter) and cuts_instances(cfg)
    cfg.INPUT.SCALE_JITTER = (2.0, 0.5)
    with pytest.raises(UserError, match="SCALE_JITTER must be two factors above 0, the smaller one first; got"):
        build_augmentation(cfg, True)
