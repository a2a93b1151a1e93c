"""Modulated deformable convolution on CPUs: torchvision's numbers and gradients, chunk by chunk, on any threads."""

import pytest
import torch
from torch.nn.modules.utils import _pair
from torchvision.ops import deform_conv2d as operator

from adet_ext.layers import native_operators

compiled = pytest.mark.skipif("deform_conv" not in native_operators(), reason="not built")
SETTINGS = [
    ((3, 3), {"padding": 1}, 2),
    ((3, 3), {}, 1),
    ((1, 1), {"padding": 0}, 2),
    ((3, 3), {"padding": 2, "dilation": 2, "stride": 2}, 1),
    ((2, 3), {"padding": (1, 0), "dilation": (2, 1), "stride": (1, 2)}, 4),
    ((5, 5), {"padding": 2}, 2),
]


def draw(generator: torch.Generator, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()


def arguments(kernel, settings, groups, *, images=2, channels=4, outputs=6, size=(7, 5), dtype=torch.float64):
    """Return x, offsets, mask, weight, and stride, padding and dilation as pairs."""
    generator = torch.Generator().manual_seed(kernel[1] + groups)
    x = draw(generator, images, channels, *size, dtype=dtype)
    weight = draw(generator, outputs, channels, *kernel, dtype=dtype)
    places = torch.nn.functional.conv2d(x, weight, **settings).shape[2:]
    parts = kernel[0] * kernel[1] * groups
    # Steps of many pixels: some samples lie outside the map, or between its edge and the next pixel.
    offsets = (draw(generator, images, 2 * parts, *places, dtype=dtype) * 3).detach().requires_grad_()
    mask = draw(generator, images, parts, *places, dtype=dtype)
    pairs = [list(_pair(settings.get(k, d))) for k, d in (("stride", 1), ("padding", 0), ("dilation", 1))]
    return [x, offsets, mask, weight], pairs


def both(tensors, pairs) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return the result and the gradients of our operator, and of torchvision's."""
    x, offsets, mask, weight = tensors
    stride, padding, dilation = pairs
    ours = torch.ops.adet_ext.deform_conv(*tensors, *pairs)
    theirs = operator(x, offsets, weight, None, stride, padding, dilation, mask)
    seed = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    return tuple([found, *torch.autograd.grad(found, tensors, seed)] for found in (ours, theirs))


@compiled
@pytest.mark.parametrize(("kernel", "settings", "groups"), SETTINGS)
def test_numbers_and_gradients_are_those_of_torchvision(kernel, settings, groups):
    for mine, expected in zip(*both(*arguments(kernel, settings, groups))):
        torch.testing.assert_close(mine, expected)


@compiled
def test_offsets_of_whole_pixels_have_the_gradient_of_torchvision():
    tensors, pairs = arguments((3, 3), {"padding": 1}, 1)
    tensors[1] = tensors[1].detach().round().requires_grad_()  # at the kink of the bilinear kernel
    for mine, expected in zip(*both(tensors, pairs)):
        torch.testing.assert_close(mine, expected)


@compiled
def test_second_derivatives_are_refused():
    tensors, pairs = arguments((3, 3), {"padding": 1}, 2)
    found = torch.ops.adet_ext.deform_conv(*tensors, *pairs)
    (first,) = torch.autograd.grad(found.sum(), tensors[3], create_graph=True)
    with pytest.raises(RuntimeError, match="deform_conv has no second derivatives"):
        first.sum().backward()


@compiled
def test_chunks_that_end_within_an_image_change_nothing():
    # A row of samples is 9 x 512 numbers, so that a chunk is 57 of the 3 x 6 x 9 places.
    tensors, pairs = arguments((3, 3), {"padding": 1}, 2, images=3, channels=512, outputs=8, size=(6, 9))
    for mine, expected in zip(*both(tensors, pairs)):
        torch.testing.assert_close(mine, expected)


@compiled
def test_threads_change_the_order_of_no_sum_of_the_maps():
    tensors, pairs = arguments((3, 3), {"padding": 1}, 2, channels=64, outputs=8, size=(9, 12), dtype=torch.float32)
    seed, threads, found = torch.ones(2, 8, 9, 12), torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(torch.ops.adet_ext.deform_conv_backward(seed, *tensors, *pairs))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        for mine, first in zip(other, found[0]):
            torch.testing.assert_close(mine, first)


@compiled
def test_a_map_that_is_not_finite_spoils_what_samples_it_alone():
    tensors, pairs = arguments((3, 3), {"padding": 1}, 1)
    tensors[0] = tensors[0].detach().clone()
    tensors[0][1, :, 3, 3] = float("nan")
    found = torch.ops.adet_ext.deform_conv(*tensors, *pairs)
    assert found[0].isfinite().all() and not found[1].isfinite().all()
    tensors[1] = torch.full_like(tensors[1], float("inf"))  # nothing is sampled
    assert not torch.ops.adet_ext.deform_conv(
        *(t.nan_to_num() if i != 1 else t for i, t in enumerate(tensors)), *pairs
    ).any()


@compiled
@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({0: lambda x: x.half()}, "x must be float32 or float64; got float16"),
        ({1: lambda t: t[:, :-1]}, r"offsets must have 18 channels for each group of the 4 channels of x"),
        ({1: lambda t: t[:, :, 1:]}, r"offsets must have shape \(2, O, 7, 5\)"),
        ({2: lambda t: t[:, :9]}, r"mask must have shape \(2, 18, 7, 5\); got \(2, 9, 7, 5\)"),
        ({3: lambda t: t[:, :2]}, r"weight must have shape \(F, 4, k, l\); got \(6, 2, 3, 3\)"),
        ({4: lambda p: [1]}, "stride must have 2 numbers; got 1"),
        ({4: lambda p: [1, 0]}, "stride must be 1 to 2147483647; got 0"),
        ({6: lambda p: [9, 9]}, "x must be at least as large as weight, with padding"),
    ],
)
def test_arguments_that_do_not_fit_are_named(change, error):
    tensors, pairs = arguments((3, 3), {"padding": 1}, 2)
    given = [t.detach() for t in tensors] + pairs
    for place, make in change.items():
        given[place] = make(given[place])
    for device in ("cpu", "meta"):
        with pytest.raises((RuntimeError, TypeError, ValueError), match=error):
            torch.ops.adet_ext.deform_conv(*(v.to(device) if isinstance(v, torch.Tensor) else v for v in given))


@compiled
@pytest.mark.parametrize("shape", [(0, 4, 5, 6), (2, 0, 5, 6), (2, 4, 0, 6)])
def test_nothing_to_sample_gives_zeros(shape):
    n, c, h, w = shape
    places = (h + 2, w + 2)
    tensors = [torch.zeros(shape), *(torch.zeros(n, k, *places) for k in (18, 9)), torch.ones(3, c, 3, 3)]
    pairs = [[1, 1], [2, 2], [1, 1]]
    assert torch.equal(torch.ops.adet_ext.deform_conv(*tensors, *pairs), torch.zeros(n, 3, *places))
    grads = torch.ops.adet_ext.deform_conv_backward(torch.ones(n, 3, *places), *tensors, *pairs)
    assert all(torch.equal(found, torch.zeros_like(t)) for found, t in zip(grads, tensors))
