"""Masks into the image: Detectron2's result, the specification's, and nothing outside the boxes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adet_ext.d2.layers import paste_masks_in_image
from adet_ext.layers import paste_masks as module
from adet_ext.layers.extension import serves
from adet_ext.layers.paste_masks import paste_masks

native_only = pytest.mark.skipif(
    not serves("paste_masks", torch.zeros(1)), reason="the compiled operators are not built"
)


def smooth(count, side, generator):
    """Probabilities that a threshold cuts along curves, not through noise."""
    coarse = torch.rand(count, 1, 4, 4, generator=generator)
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")[:, 0]


def boxes_in(count, height, width, generator, beyond=5):
    size = torch.tensor([width, height])
    corners = torch.rand(2, count, 2, generator=generator) * (size + 2 * beyond) - beyond
    return torch.cat([corners.amin(0), corners.amax(0) + 1], dim=1)


def differing(a, b):
    return (a != b).sum().item()


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(0, 5), side=st.integers(2, 30), size=st.tuples(st.integers(2, 60), st.integers(2, 60)),
    threshold=st.sampled_from([0.5, 0.7, 0.9]), seed=st.integers(0, 999),
)  # fmt: skip
def test_it_is_detectron2_s_pasting(device, count, side, size, threshold, seed):
    # Which on the CPU looks one pixel beyond a box and no further, enough for such thresholds.
    generator = torch.Generator().manual_seed(seed)
    masks, boxes = smooth(count, side, generator).to(device), boxes_in(count, *size, generator, beyond=0).to(device)
    ours = paste_masks(masks, boxes, size, threshold=threshold)
    assert ours.shape == (count, *size) and ours.dtype == torch.bool
    theirs = paste_masks_in_image(masks, boxes, size, threshold)
    assert differing(ours, theirs) <= 1  # a pixel whose value is the threshold but for rounding


@native_only
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_kernel_is_the_specification(dtype, device, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    masks, boxes = smooth(20, 28, generator).to(device, dtype), boxes_in(20, 90, 70, generator).to(device)
    ours = paste_masks(masks, boxes, (90, 70))
    monkeypatch.setattr(module, "serves", lambda *arguments: False)
    assert differing(ours, paste_masks(masks, boxes, (90, 70))) <= 2 and ours.any()


@pytest.mark.parametrize(
    "box", [[4.0, 4, 4, 9], [9, 9, 3, 3], [-90, -90, -50, -50], [float("nan")] * 4, [0, 0, float("inf"), 5]]
)
def test_a_box_without_area_outside_or_not_finite_leaves_its_mask_empty(box, device):
    masks = torch.ones(2, 5, 5, device=device)
    out = paste_masks(masks, torch.tensor([box, [0.0, 0, 5, 5]], device=device), (12, 14))
    assert not out[0].any() and out[1, :5, :5].all() and not out[1, 6:].any()


def test_a_full_mask_fills_its_box_and_nothing_else(device):
    box = torch.tensor([[3.0, 2, 11, 8]], device=device)
    out = paste_masks(torch.ones(1, 28, 28, device=device), box, (20, 30))[0]
    assert out[2:8, 3:11].all() and out.sum() == 6 * 8


def test_a_value_of_just_the_threshold_is_in_the_mask(device):
    out = paste_masks(
        torch.full((1, 4, 4), 0.75, device=device),
        torch.tensor([[2.0, 2, 6, 6]], device=device),
        (9, 9),
        threshold=0.75,
    )
    assert out[0, 2:6, 2:6].all() and out.sum() == 16


@native_only
def test_torch_knows_the_operator():
    out, boxes = torch.zeros(2, 9, 8, dtype=torch.bool), torch.tensor([[0.0, 0, 5, 5], [2, 2, 7, 8]])
    torch.library.opcheck(torch.ops.adet_ext.paste_masks.default, (out, torch.rand(2, 5, 5), boxes, 0.5))


@pytest.mark.parametrize(
    ("name", "masks", "boxes", "threshold"),
    [
        ("masks", torch.zeros(2, 3, 4), torch.zeros(2, 4), 0.5),
        ("boxes", torch.zeros(2, 3, 3), torch.zeros(1, 4), 0.5),
        ("threshold", torch.zeros(2, 3, 3), torch.zeros(2, 4), 0.0),
    ],
)
def test_a_wrong_argument_is_named(name, masks, boxes, threshold):
    with pytest.raises(ValueError, match=name):
        paste_masks(masks, boxes, (5, 5), threshold=threshold)
