"""Boxes, instances, image lists and masks."""

import pickle

import numpy as np
import pytest
import torch

from adet_ext.d2.embedded import structures as embedded
from adet_ext.d2.structures import (
    BitMasks,
    Boxes,
    BoxMode,
    ImageList,
    Instances,
    PolygonMasks,
    polygons_to_bitmask,
)

SQUARE = np.array([1.0, 1.0, 5.0, 1.0, 5.0, 4.0, 1.0, 4.0])


def random_boxes(number: int, size: float = 50.0, seed: int = 0) -> torch.Tensor:
    corners = torch.rand(number, 2, 2, generator=torch.Generator().manual_seed(seed)) * size
    return torch.cat([corners.amin(1), corners.amax(1)], dim=1)


@pytest.mark.parametrize("make", [list, tuple, np.array, torch.tensor])
def test_box_modes_convert_there_and_back_in_the_same_type(make):
    rows = [1.0, 2.0, 4.0, 7.0] if make in (list, tuple) else [[1.0, 2.0, 4.0, 7.0]]
    box = make(rows)
    sized = BoxMode.convert(box, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
    assert type(sized) is type(box)
    assert np.asarray(sized).ravel().tolist() == [1, 2, 3, 5]
    back = BoxMode.convert(sized, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
    assert np.asarray(back).ravel().tolist() == np.asarray(box).ravel().tolist() == [1, 2, 4, 7]


def test_boxes_measure_and_change_themselves():
    boxes = Boxes([[0, 0, 2, 4], [-5, 2, 30, 3], [1, 1, 1, 9]])
    assert boxes.area().tolist() == [8, 35, 0]
    assert boxes.nonempty().tolist() == [True, True, False]
    assert boxes.nonempty(threshold=1).tolist() == [True, False, False]
    boxes.clip((4, 20))
    assert boxes.tensor[1].tolist() == [0, 2, 20, 3]
    boxes.scale(2, 0.5)
    assert boxes.tensor[0].tolist() == [0, 0, 4, 2]


def test_boxes_index_like_tensors():
    boxes = Boxes(random_boxes(5))
    assert boxes[2].tensor.shape == (1, 4)
    assert len(boxes[1:3]) == 2 and len(boxes[torch.tensor([True, False, True, False, False])]) == 2
    assert torch.equal(Boxes.cat([boxes[:2], boxes[2:]]).tensor, boxes.tensor)
    assert Boxes.cat([]).tensor.shape == Boxes([]).tensor.shape == (0, 4)
    assert [tuple(box.shape) for box in boxes] == [(4,)] * 5
    assert Boxes(torch.ones(1, 4, dtype=torch.float64)).tensor.dtype == torch.float32
    with pytest.raises(AssertionError):
        Boxes(torch.ones(2, 3))
    with pytest.raises(AssertionError):
        Boxes([[0, 0, float("nan"), 1]]).clip((5, 5))


def test_instances_keep_all_fields_in_step():
    instances = Instances((10, 20), pred_boxes=Boxes(random_boxes(3)), scores=torch.tensor([0.1, 0.9, 0.5]))
    instances.names = ["a", "b", "c"]
    assert len(instances) == 3 and instances.image_size == (10, 20)
    assert instances[1].names == instances[-2].names == ["b"]
    assert instances[1:].names == ["b", "c"]
    instances.remove("names")
    assert len(instances[torch.tensor([], dtype=torch.int64)].pred_boxes) == 0
    best = instances[instances.scores > 0.4]
    assert torch.equal(best.pred_boxes.tensor, instances.pred_boxes.tensor[1:])
    assert set(best.get_fields()) == {"pred_boxes", "scores"} and not best.has("names")
    joined = Instances.cat([best, instances])
    assert len(joined) == 5 and torch.equal(joined.scores[2:], instances.scores)
    assert torch.equal(pickle.loads(pickle.dumps(joined)).scores, joined.scores)
    assert joined.to("cpu").pred_boxes.device.type == "cpu"
    with pytest.raises(AssertionError):
        instances.labels = [1]
    with pytest.raises(AttributeError, match="labels"):
        _ = instances.labels
    with pytest.raises(IndexError):
        instances[3]
    with pytest.raises(NotImplementedError):
        len(Instances((1, 1)))


@pytest.mark.parametrize("number", [1, 3])
def test_images_are_padded_to_the_common_size(number):
    images = [torch.rand(3, 5 + i, 9 - i) for i in range(number)]
    batch = ImageList.from_tensors(images, 4, pad_value=-1)
    assert batch.tensor.shape == (number, 3, 8, 12)
    assert [tuple(size) for size in batch.image_sizes] == [(5 + i, 9 - i) for i in range(number)]
    for image, padded, own in zip(images, batch.tensor, batch, strict=True):
        assert torch.equal(own, image)
        assert (padded == -1).sum() == padded.numel() - image.numel()


def test_polygons_and_bitmasks_agree():
    polygons = PolygonMasks([[SQUARE], [SQUARE + 2, SQUARE + 6], [SQUARE]])
    masks = BitMasks.from_polygon_masks(polygons, 12, 14)
    assert masks.image_size == (12, 14) and masks.tensor.dtype == torch.bool
    assert polygons.area().tolist() == [12, 24, 12]
    assert masks.tensor.flatten(1).sum(1).tolist() == [12, 24, 12]
    assert torch.equal(masks.get_bounding_boxes().tensor, polygons.get_bounding_boxes().tensor)
    assert masks.get_bounding_boxes().tensor[1].tolist() == [3, 3, 11, 10]
    for item in (1, slice(0, 2), torch.tensor([2, 0]), torch.tensor([False, True, True])):
        assert torch.equal(BitMasks.from_polygon_masks(polygons[item], 12, 14).tensor, masks[item].tensor)
    assert len(polygons[[0, 2]]) == 2 and polygons[[0, 2]].nonempty().tolist() == [True, True]
    assert len(PolygonMasks.cat([polygons, polygons[:1]])) == len(BitMasks.cat([masks, masks[:1]])) == 4


def test_cropping_gives_what_is_inside_the_box():
    polygons = PolygonMasks([[SQUARE]])
    masks = BitMasks.from_polygon_masks(polygons, 8, 8)
    for source in (polygons, masks):
        assert source.crop_and_resize(torch.tensor([[1.0, 1.0, 5.0, 4.0]]), 7).all()
        half = source.crop_and_resize(torch.tensor([[3.0, 1.0, 7.0, 4.0]]), 8)[0]
        assert half[:, :4].all() and not half[:, 4:].any()


def test_empty_masks_have_empty_boxes():
    masks = BitMasks(torch.zeros(2, 4, 5, dtype=torch.bool))
    masks.tensor[1, 3, 4] = True
    assert masks.get_bounding_boxes().tensor.tolist() == [[0, 0, 0, 0], [4, 3, 5, 4]]
    assert masks.nonempty().tolist() == [False, True]
    assert BitMasks(torch.zeros(0, 4, 5)).get_bounding_boxes().tensor.shape == (0, 4)
    assert BitMasks.from_polygon_masks([], 4, 5).tensor.shape == (0, 4, 5)
    assert PolygonMasks([]).crop_and_resize(torch.zeros(0, 4), 7).shape == (0, 7, 7)
    assert not polygons_to_bitmask([], 3, 4).any()


def test_polygons_with_too_few_points_are_refused():
    with pytest.raises(ValueError):
        PolygonMasks([[np.array([1.0, 1.0, 2.0, 2.0])]])
    with pytest.raises(ValueError):
        PolygonMasks([np.array([1.0] * 6)])


@pytest.mark.needs_detectron2
def test_numbers_are_those_of_detectron2():
    theirs = pytest.importorskip("detectron2.structures")
    import adet_ext.d2.embedded.structures as ours

    generator = np.random.default_rng(0)
    tensor = random_boxes(40)
    tensor[3, 2:] = tensor[3, :2]
    polygons = [
        [generator.random(2 * generator.integers(3, 9)) * 60 for _ in range(generator.integers(1, 3))]
        for _ in range(40)
    ]
    results = []
    for lib in (ours, theirs):
        boxes = lib.Boxes(tensor.clone())
        masks = lib.PolygonMasks(polygons)
        bits = lib.BitMasks.from_polygon_masks(masks, 50, 60)
        values = [
            boxes.area(),
            boxes.nonempty(20.0),
            masks.area(),
            masks.get_bounding_boxes().tensor,
            masks.crop_and_resize(tensor, 14),
            bits.tensor,
            bits.get_bounding_boxes().tensor,
            bits.crop_and_resize(tensor, 14),
            lib.ImageList.from_tensors([torch.ones(3, 5, 7), torch.ones(3, 6, 4)], 32).tensor,
        ]
        boxes.scale(1.3, 0.7)
        boxes.clip((20, 25))
        results.append([*values, boxes.tensor])
    for ours_value, theirs_value in zip(*results, strict=True):
        assert ours_value.dtype == theirs_value.dtype
        assert torch.equal(ours_value, theirs_value)


@pytest.mark.parametrize("index", [3, -4, [0, 3], torch.tensor([3])])
def test_an_index_beyond_the_instances_is_named(index):
    masks = embedded.PolygonMasks([[SQUARE]] * 3)  # Detectron2's own says "list index out of range"
    assert len(masks[-3]) == len(masks[torch.tensor([2])]) == 1
    number = index if isinstance(index, int) else 3
    with pytest.raises(IndexError, match=f"there are 3 instances, from 0 on; got number {number}"):
        masks[index]
