"""Properties of cropping and blending."""

import pytest
import torch
from torchvision.ops import roi_align, roi_pool

from adet_ext.layers.blend_masks import blend_masks
from adet_ext.layers.blend_reference import assemble, crop_bases, merge_crops, one_hot_attentions


@pytest.fixture
def crops():
    torch.manual_seed(0)
    return torch.randn(3, 4, 8, 8, dtype=torch.float64)


def test_a_crop_of_a_linear_ramp_is_the_ramp_at_the_bin_centres():
    ramp = torch.arange(16.0).expand(1, 1, 16, 16) + 0.5  # value = x at pixel centres, stride 1
    crop = crop_bases(ramp, torch.tensor([[2.0, 4, 10, 12]]), torch.tensor([0]), size=4, scale=1.0)
    assert crop[0, 0, 0].tolist() == pytest.approx([3, 5, 7, 9])


def test_equal_attentions_average_the_bases(crops):
    torch.testing.assert_close(merge_crops(crops, torch.zeros(3, 4, 2, 2).double()), crops.mean(1))


def test_an_attention_far_above_the_others_picks_its_basis(crops):
    attention = torch.zeros(3, 4, 2, 2).double()
    attention[:, 2] = 100
    torch.testing.assert_close(merge_crops(crops, attention), crops[:, 2])


def test_blending_is_linear_in_the_bases(crops):
    attention = torch.randn(3, 4, 2, 2).double()
    other = torch.randn_like(crops)
    torch.testing.assert_close(
        merge_crops(2 * crops + other, attention), 2 * merge_crops(crops, attention) + merge_crops(other, attention)
    )


def test_a_one_by_one_attention_is_a_weighted_sum(crops):
    attention = torch.randn(3, 4, 1, 1).double()
    weights = attention.softmax(1)
    for interp in ("nearest", "bilinear"):
        torch.testing.assert_close(merge_crops(crops, attention, top_interp=interp), (weights * crops).sum(1))


def test_one_basis_gives_the_product_of_two_sigmoids():
    a, b = torch.randn(2, 1, 4, 4).double() * 10, torch.randn(2, 1, 4, 4).double() * 10
    torch.testing.assert_close(merge_crops(b, a).sigmoid(), (a.sigmoid() * b.sigmoid())[:, 0])
    extreme = merge_crops(torch.full((1, 1, 1, 1), 500.0), torch.full((1, 1, 1, 1), -500.0))
    assert torch.isfinite(extreme).all()


def test_the_assembler_is_the_blender_with_one_hot_attentions_and_nearest_interpolation(crops):
    log_weights = one_hot_attentions(3, 2, crops).clamp(min=1e-300).log()
    torch.testing.assert_close(assemble(crops, 2), merge_crops(crops, log_weights, top_interp="nearest"))
    upper = torch.cat([crops[:, 0, :4, :4], crops[:, 1, :4, 4:]], dim=2)
    lower = torch.cat([crops[:, 2, 4:, :4], crops[:, 3, 4:, 4:]], dim=2)
    torch.testing.assert_close(assemble(crops, 2), torch.cat([upper, lower], dim=1))


def test_no_instances_give_no_masks():
    assert merge_crops(torch.zeros(0, 4, 8, 8), torch.zeros(0, 4, 2, 2)).shape == (0, 8, 8)


def test_an_unknown_pooler_is_named():
    with pytest.raises(ValueError, match="'Max'"):
        crop_bases(
            torch.zeros(1, 1, 4, 4),
            torch.zeros(0, 4),
            torch.zeros(0, dtype=torch.int64),
            size=2,
            scale=1.0,
            pooler_type="Max",
        )


HUGE = [[0, 0, 1e5, 1e5], [-3e9, 0, 3e9, 5], [-1e30, -1e30, 1e30, 1e30], [1e30] * 4]
NOT_FINITE = [[float("nan")] * 4, [0, 0, float("inf"), 9]]
KINDS = [("ROIAlignV2", 0), ("ROIAlign", 0), ("ROIPool", 1)]


@pytest.mark.parametrize("kind, ratio", KINDS)
@pytest.mark.parametrize("face", ["crop", "blend"])
def test_a_box_of_any_size_takes_little_memory_and_gives_finite_numbers(kind, ratio, face):
    bases = torch.randn(1, 2, 20, 24)
    boxes, image = torch.tensor(HUGE + NOT_FINITE), torch.zeros(6, dtype=torch.int64)
    options = {"size": 7, "scale": 0.25, "sampling_ratio": ratio, "pooler_type": kind}
    if face == "crop":
        result = crop_bases(bases, boxes, image, **options)
        assert (result[4:] == 0).all()
    else:
        result = blend_masks(bases, torch.randn(6, 2, 3, 3), boxes, image, **options)
    assert result.isfinite().all() and result.abs().max() <= bases.abs().max()


@pytest.mark.parametrize("kind, ratio", KINDS)
def test_boxes_are_cut_1024_cells_outside_the_map_and_not_before(kind, ratio):
    bases, image = torch.randn(1, 2, 20, 24), torch.zeros(2, dtype=torch.int64)
    near = torch.tensor([[-4096.0, -4000, 4 * (24 + 1024), 4000], [4, 4, 60, 44]])
    far = torch.tensor([[-5000.0, -4000, 9999, 4000], [4, 4, 60, 44]])
    crops = [
        crop_bases(bases, boxes, image, size=7, scale=0.25, sampling_ratio=ratio, pooler_type=kind)
        for boxes in (near, far)
    ]
    assert torch.equal(*crops) and crops[0][0].any()
    rois = torch.cat([image[:, None], near], dim=1)
    if kind == "ROIPool":
        expected = roi_pool(bases, rois, 7, 0.25)
    else:
        expected = roi_align(bases, rois, 7, 0.25, ratio, kind == "ROIAlignV2")
    assert torch.equal(crops[0], expected)
