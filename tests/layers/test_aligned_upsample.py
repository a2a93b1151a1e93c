"""Enlarging in step with strided convolutions."""

import pytest
import torch
from torch.nn import functional as F

from adet_ext.layers.aligned_upsample import aligned_upsample


def strided(x: torch.Tensor) -> torch.Tensor:
    """A convolution of stride 2, kernel 3, padding 1 that takes what lies in the middle of its kernel."""
    kernel = torch.zeros(1, 1, 3, 3, dtype=x.dtype)
    kernel[..., 1, 1] = 1
    return F.conv2d(x, kernel, stride=2, padding=1)


@pytest.mark.parametrize("size", [(13, 21), (14, 21), (16, 8), (1, 7), (2, 1)])
def test_samples_return_to_where_strided_convolutions_took_them(size):
    x = torch.rand(1, 1, *size)
    up = aligned_upsample(strided(x), size)
    assert up.shape == x.shape
    torch.testing.assert_close(up[..., ::2, ::2], x[..., ::2, ::2])


@pytest.mark.parametrize("size", [(37, 53), (38, 51), (64, 96)])
def test_a_ramp_survives_five_levels_of_any_size_and_resizing_moves_it(size):
    y, x = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    ramp = (2 * y + 3 * x)[None, None].double()
    levels = [ramp]
    for _ in range(3):
        levels.append(strided(levels[-1]))
    aligned = resized = levels[-1]
    for level in levels[-2::-1]:
        aligned = aligned_upsample(aligned, level.shape[-2:])
        resized = F.interpolate(resized, size=level.shape[-2:], mode="bilinear", align_corners=False)
    # Beyond the last sample of the coarsest level there is nothing to interpolate with.
    inside = [8 * (side - 1) + 1 for side in levels[-1].shape[-2:]]
    assert torch.equal(aligned[..., : inside[0], : inside[1]], ramp[..., : inside[0], : inside[1]])
    assert (resized - ramp)[..., 8 : inside[0], 8 : inside[1]].abs().min() > 0.5


def test_gradients_are_those_of_the_interpolation():
    x = torch.rand(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: aligned_upsample(t, (5, 8)), x)


def test_a_size_that_is_no_double_is_refused():
    with pytest.raises(ValueError, match="size must be 6 x 8, or .* for a map of 3 x 4; got 7 x 8"):
        aligned_upsample(torch.zeros(1, 1, 3, 4), (7, 8))
