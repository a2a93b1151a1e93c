"""SmalMask's parts: predictors, teacher forcing, targets, poolers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import deform_conv2d, roi_align

from adet_ext.d2.structures import BitMasks, Boxes, Instances, PolygonMasks
from adet_ext.d2.utils import EventStorage
from adet_ext.modeling.fcos.targets import all_locations
from adet_ext.modeling.mask.mask_predictors import PREDICTORS, Places
from adet_ext.modeling.mask.mask_targets import crop_masks, crop_objects, gather_boxes
from adet_ext.modeling.mask.poolers import canonical_sizes, level_by_longer_side
from adet_ext.modeling.mask.smalmask2 import SmalHead
from adet_ext.modeling.mask.teacher_forcing import TeacherForcing

STRIDES = [8, 16, 32]
SIZES = [(7, 9), (4, 5), (2, 3)]


def maps_of(channels: int = 4, sizes=SIZES) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return [torch.randn(2, channels, *s, generator=g, dtype=torch.float64, requires_grad=True) for s in sizes]


def distances() -> list[torch.Tensor]:
    """(2, 4, H, W) pixels for each level; boxes of all shapes, some without extent, some beyond the image."""
    g = torch.Generator().manual_seed(1)
    found = [torch.rand(2, 4, *s, generator=g, dtype=torch.float64) * 3 * k for s, k in zip(SIZES, STRIDES)]
    found[0][0, :, 1, 1] = 0
    found[1][1, 2, 0, 0] = 500
    return found


def every_place(ltrb: list[torch.Tensor], mask_level: list[int]) -> Places:
    """All locations of both images."""
    locations = all_locations(SIZES, STRIDES, torch.device("cpu"))
    count = len(locations.level)
    flat = torch.cat([x.flatten(2) for x in ltrb], dim=2).transpose(1, 2)  # (2, L, 4)
    boxes = torch.cat([locations.xy - flat[..., :2], locations.xy + flat[..., 2:]], dim=2)
    return Places(
        image=torch.arange(2).repeat_interleave(count),
        location=torch.arange(count).repeat(2),
        level=torch.tensor(mask_level)[locations.level].repeat(2),
        boxes=boxes.flatten(0, 1),
    )


def predictor_of(kind: str, kernel: int, strides=STRIDES, channels: int = 4):
    torch.manual_seed(2)
    predictor = PREDICTORS[kind](channels, 3, kernel, strides).double()
    for parameter in predictor.parameters():  # offsets too: they are zero at first
        torch.nn.init.normal_(parameter, std=0.3)
    return predictor


def assert_same_with_gradients(ours: torch.Tensor, theirs: torch.Tensor, inputs: list[torch.Tensor]) -> None:
    torch.testing.assert_close(ours, theirs)
    g = torch.Generator().manual_seed(3)
    weights = torch.randn(ours.shape, generator=g, dtype=ours.dtype)
    gradients = [torch.autograd.grad((x * weights).sum(), inputs) for x in (ours, theirs)]
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", PREDICTORS)
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_a_predictor_at_chosen_places_is_its_dense_form(kind, kernel):
    predictor, maps, ltrb = predictor_of(kind, kernel), maps_of(), distances()
    sparse = predictor(maps, every_place(ltrb, [0, 1, 2])).flatten(1)  # (2 L, 9)
    dense = [predictor.dense(m, d, stride=s, feature_stride=s).flatten(2) for m, d, s in zip(maps, ltrb, STRIDES)]
    dense = torch.cat(dense, dim=2).transpose(1, 2).flatten(0, 1)
    assert_same_with_gradients(sparse, dense, [*maps, *predictor.parameters()])


@pytest.mark.parametrize("kind", ["RoIConv", "RoIPred"])
def test_lower_level_sampling_is_the_dense_form_of_equation_3_5(kind):
    # Three levels of locations read two maps, of strides 8 and 16: the first its own, the others the one below.
    predictor, maps, ltrb = predictor_of(kind, 3, STRIDES[:2]), maps_of(sizes=SIZES[:2]), distances()
    sparse = predictor(maps, every_place(ltrb, [0, 0, 1])).flatten(1)
    dense = [
        predictor.dense(maps[i], d, stride=s, feature_stride=STRIDES[i]).flatten(2)
        for i, d, s in zip([0, 0, 1], ltrb, STRIDES)
    ]
    dense = torch.cat(dense, dim=2).transpose(1, 2).flatten(0, 1)
    assert_same_with_gradients(sparse, dense, [*maps, *predictor.parameters()])


@pytest.mark.parametrize("kernel", [3, 5])
def test_roi_pred_is_a_deformable_convolution_with_box_offsets(kernel):
    """Inside the map, where both rules for the border agree."""
    predictor, size, stride = predictor_of("RoIPred", kernel, [8]), 24, 8
    g = torch.Generator().manual_seed(4)
    feature = torch.randn(1, 4, size, size, generator=g, dtype=torch.float64)
    ltrb = torch.rand(1, 4, size, size, generator=g, dtype=torch.float64) * 6 * stride
    left, top, right, bottom = (ltrb[:, i, None] / stride for i in range(4))  # (1, 1, H, W)
    step = (2 * torch.arange(kernel, dtype=torch.float64) + 1).view(1, -1, 1, 1) / (2 * kernel)
    ox, oy = (left + right) * step - left, (top + bottom) * step - top  # (1, k, H, W) from the location
    tap = (torch.arange(kernel) - kernel // 2).double().view(1, -1, 1, 1)  # where a plain convolution has its taps
    dy = (oy - tap)[:, :, None].expand(-1, -1, kernel, -1, -1)
    dx = (ox - tap)[:, None].expand(-1, kernel, -1, -1, -1)
    offsets = torch.stack([dy, dx], dim=3).flatten(1, 3)  # (1, 2 k^2, H, W)
    weight, bias = predictor.pred.weight, predictor.pred.bias
    theirs = deform_conv2d(feature, offsets, weight, bias, padding=kernel // 2)
    ours = predictor.dense(feature, ltrb, stride=stride, feature_stride=stride)
    middle = (..., slice(7, 17), slice(7, 17))
    torch.testing.assert_close(ours[middle], theirs[middle])


def test_the_head_is_roi_align_and_a_fully_connected_layer():
    torch.manual_seed(5)
    head, maps = SmalHead(in_channels=4, mask_size=3, kernel=5, strides=STRIDES).double(), maps_of()
    corner = torch.rand(20, 2, dtype=torch.float64) * 60 - 10
    boxes = torch.cat([corner, corner + torch.rand(20, 2, dtype=torch.float64) * 50], dim=1)
    image, level = torch.randint(0, 2, (20,)), torch.randint(0, 3, (20,))
    ours = head(maps, boxes, image, level)
    for i in range(20):
        roi = torch.cat([image[i, None].double(), boxes[i]])[None]
        crop = roi_align(maps[level[i]], roi, 5, 1 / STRIDES[level[i]], 1, aligned=True)
        torch.testing.assert_close(ours[i].flatten(), head.fc(crop.permute(0, 2, 3, 1).flatten(1))[0])


def test_even_kernels_are_refused():
    with pytest.raises(ValueError, match="KERNEL must be an odd number.*; got 4"):
        PREDICTORS["Conv"](4, 3, 4, STRIDES)


@pytest.mark.parametrize(
    "schedule, expected",
    [("w/", [1, 1, 1, 1]), ("w/o", [0, 0, 0, 0]), ("fix", [1, 1, 0, 0]), ("random", [1, 1 - 17_999 / 90_000, 0.8, 0])],
)
def test_the_schedules_are_the_thesis_ones(schedule, expected):
    forcing = TeacherForcing(schedule)
    assert [forcing.probability(i) for i in (0, 17_999, 18_000, 100_000)] == expected
    with EventStorage(18_000):
        assert forcing.current() == expected[2]


def test_schedules_that_depend_on_the_iteration_ask_for_it():
    assert TeacherForcing("w/").current() == 1
    with pytest.raises(ValueError, match="depend on the iteration; got 'fix'"):
        TeacherForcing("fix").current()
    with pytest.raises(ValueError, match="TEACHER_FORCING must be .*; got 'sometimes'"):
        TeacherForcing("sometimes")


def test_boxes_are_chosen_row_by_row_with_the_given_probability():
    torch.manual_seed(0)
    truth, predicted = torch.zeros(4000, 4), torch.ones(4000, 4, requires_grad=True)
    assert TeacherForcing.choose(1.0, truth, predicted).eq(0).all()
    assert TeacherForcing.choose(0.0, truth, predicted).eq(1).all()
    chosen = TeacherForcing.choose(0.7, truth, predicted)
    assert not chosen.requires_grad and (chosen == chosen[:, :1]).all()
    assert chosen[:, 0].mean().item() == pytest.approx(0.3, abs=0.03)


def two_images(kind: str) -> list[Instances]:
    """Rectangles within boxes that are larger than they are: two objects, none, one."""
    found = []
    for boxes in ([[0, 0, 20, 10], [5, 5, 30, 30]], [], [[10, 0, 40, 20]]):
        instances = Instances((32, 48))
        instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
        inner = [[x0 + 2, y0 + 2, (x0 + x1) // 2, y1 - 1] for x0, y0, x1, y1 in boxes]
        if kind == "bits":
            masks = torch.zeros(len(boxes), 32, 48, dtype=torch.bool)
            for mask, (x0, y0, x1, y1) in zip(masks, inner):
                mask[y0:y1, x0:x1] = True
            instances.gt_masks = BitMasks(masks)
        else:
            instances.gt_masks = PolygonMasks(
                [[np.array([x0, y0, x1, y0, x1, y1, x0, y1], dtype=float)] for x0, y0, x1, y1 in inner]
            )
        found.append(instances)
    return found


@pytest.mark.parametrize("kind", ["bits", "polygons"])
def test_a_crop_by_an_object_s_own_box_is_the_object_s_crop(kind):
    gt = two_images(kind)
    boxes, image = gather_boxes(gt, torch.device("cpu"))
    assert image.tolist() == [0, 0, 2]
    objects = torch.tensor([2, 0, 1, 0])
    own = crop_objects(gt, 14, boxes)
    assert own.sum() > 0
    assert torch.equal(crop_masks(gt, boxes[objects], objects, 14), own[objects])


@pytest.mark.parametrize("kind", ["bits", "polygons"])
def test_masks_are_cropped_by_the_box_that_is_given(kind):
    gt = two_images(kind)
    inside, outside, left_half = [2, 2, 10, 9], [40, 25, 47, 31], [2, 2, 18, 9]
    crops = crop_masks(gt, torch.tensor([inside, outside, left_half]).float(), torch.tensor([0, 0, 0]), 8)
    assert crops[0].eq(1).all() and crops[1].eq(0).all()
    assert crops[2][:, :4].eq(1).all() and crops[2][:, 4:].eq(0).all()


@given(st.lists(st.tuples(st.floats(0, 3000), st.floats(0, 3000)), max_size=20), st.sampled_from([48, 64, 96, 128]))
@settings(max_examples=40, deadline=None)
def test_a_box_goes_to_the_level_whose_sizes_hold_its_longer_side(sides, length):
    boxes = torch.tensor([[1.0, 2.0, 1 + w, 2 + h] for w, h in sides]).reshape(-1, 4)
    levels = level_by_longer_side(boxes, torch.tensor(canonical_sizes(length, 5))).tolist()
    for box, level in zip(boxes, levels):
        longer = max((box[2] - box[0]).item(), (box[3] - box[1]).item())
        p = level + 1  # the thesis counts levels from 1
        assert level == 0 or longer >= 2.0 ** (p - 2) * length
        assert level == 4 or longer < 2.0 ** (p - 1) * length


def test_the_canonical_length_of_fcos_is_64():
    assert canonical_sizes(64, 5) == [64, 128, 256, 512]
    with pytest.raises(ValueError, match="positive"):
        canonical_sizes(0, 5)
