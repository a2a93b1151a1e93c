"""The blur's properties, and the compiled operator against the plain-PyTorch reference."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from adet_ext.layers import native_operators
from adet_ext.layers.blur_pool import (
    PADDINGS,
    BlurPool2d,
    binomial_filter,
    blur,
    blur_pool,
    blur_pool_reference,
)

from .layouts import STRIDES_OF_LAYOUTS, laid_out

native = pytest.mark.skipif("blur_pool" not in native_operators(), reason="no compiled blur_pool here")
TOLERANCE = {
    torch.float64: {"rtol": 1e-12, "atol": 1e-12},
    torch.float32: {"rtol": 1e-5, "atol": 1e-6},
    torch.float16: {"rtol": 1e-3, "atol": 1e-4},
    torch.bfloat16: {"rtol": 8e-3, "atol": 1e-3},
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("taps", range(1, 8))
def test_the_filter_is_a_row_of_pascal_s_triangle_that_adds_up_to_one(taps):
    row = [math.comb(taps - 1, k) for k in range(taps)]
    assert binomial_filter(taps) == [value / sum(row) for value in row]


def test_three_taps_of_a_small_map_by_hand():
    x = torch.tensor([[0.0, 4, 8, 0], [4, 8, 4, 0], [0, 0, 0, 16]])[None, None]
    # Reflected rows 1 0 1 and 1 2 1, columns likewise, each weighed 1 2 1 over 4.
    y = blur_pool(x, taps=3, stride=2)
    rows = torch.tensor([[2.0, 6, 6, 0], [2, 4, 2, 8]])  # 1 2 1 down the columns at rows 0 and 2
    expected = torch.stack([(rows[:, 0] + rows[:, 1]) / 2, (rows[:, 1] + 2 * rows[:, 2] + rows[:, 3]) / 4], dim=1)
    torch.testing.assert_close(y[0, 0], expected)


@pytest.mark.parametrize("padding", ["reflect", "replicate"])
def test_a_constant_map_stays_constant(padding):
    for taps, stride in itertools.product(range(1, 8), (1, 2, 4)):
        y = blur_pool(torch.full((1, 2, 9, 14), 3.0), taps=taps, stride=stride, padding=padding)
        torch.testing.assert_close(y, torch.full((1, 2, -(-9 // stride), -(-14 // stride)), 3.0))


@pytest.mark.parametrize("padding", PADDINGS)
def test_one_tap_only_subsamples(padding):
    x = torch.randn(2, 3, 7, 10)
    assert torch.equal(blur_pool(x, taps=1, stride=2, padding=padding), x[:, :, ::2, ::2])


@pytest.mark.parametrize("taps", [3, 5, 7])
def test_the_highest_frequency_vanishes_where_subsampling_would_alias_it(taps):
    x = (-1.0) ** torch.arange(16).expand(1, 1, 16, 16)  # columns of +1 and -1
    assert x[..., ::2].eq(1).all()
    assert blur_pool(x, taps=taps, stride=2).abs().max() < 1e-6


def test_stride_takes_every_s_th_of_the_blur_at_stride_1(device):
    x = torch.randn(2, 5, 11, 13, device=device)
    for taps, stride in itertools.product((2, 3, 6), (2, 4)):
        full = blur_pool(x, taps=taps, stride=1)
        torch.testing.assert_close(blur_pool(x, taps=taps, stride=stride), full[:, :, ::stride, ::stride])


def test_the_reference_is_pad_and_depthwise_convolution():
    x = torch.randn(2, 3, 8, 9)
    kernel = torch.tensor([1.0, 3, 3, 1])
    kernel = (kernel[:, None] * kernel / 64).expand(3, 1, 4, 4)
    for padding, mode in zip(PADDINGS, ("reflect", "replicate", "constant")):
        expected = F.conv2d(F.pad(x, (1, 2, 1, 2), mode=mode), kernel, stride=2, groups=3)
        torch.testing.assert_close(blur_pool_reference(x, 4, 2, padding), expected)


def test_maps_smaller_than_the_filter_are_reflected_as_often_as_it_takes():
    x = torch.randn(1, 1, 3, 1, dtype=torch.float64)
    padded = torch.tensor(range(-3, 6)).apply_(lambda p: [0, 1, 2, 1][p % 4])  # numpy's rule, by hand
    weights = torch.tensor(binomial_filter(7), dtype=torch.float64)
    expected = torch.stack([(x[0, 0, padded[i : i + 7], 0] * weights).sum() for i in range(3)])
    torch.testing.assert_close(blur_pool(x, taps=7, stride=1)[0, 0, :, 0], expected)


def test_an_extended_blur_reaches_as_far_beyond_the_map_as_asked(device):
    x = torch.randn(1, 2, 5, 6, device=device)
    wide = blur(F.pad(x, (4, 4, 3, 3)), 3, 1, "zeros")
    torch.testing.assert_close(blur(x, 3, 1, "zeros", (3, 4)), wide)
    with pytest.raises(ValueError, match="rows must be 0 to 0"):
        blur(x, 3, 2, "zeros", (1, 1))


def layouts(x):
    """The same map contiguous, channels-last, as a slice, and transposed."""
    yield x.contiguous()
    yield x.contiguous(memory_format=torch.channels_last)
    yield x.contiguous(memory_format=torch.channels_last)[:, :, 1:, 1:]
    yield x.transpose(2, 3)


maps = st.tuples(st.integers(1, 2), st.sampled_from([1, 3, 4, 8, 33, 70]), st.integers(1, 12), st.integers(1, 40))
blurs = st.tuples(st.integers(1, 7), st.sampled_from([1, 2, 4]), st.sampled_from(PADDINGS))


@native
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(shape=maps, filtered=blurs)
def test_the_operator_gives_the_reference_s_numbers_and_gradients(device, dtype, shape, filtered):
    torch.manual_seed(sum(shape))
    for x in layouts(torch.randn(shape, device=device).to(dtype)):
        x = x.detach().requires_grad_()
        exact = x.detach().double().requires_grad_()
        y, expected = blur(x, *filtered), blur_pool_reference(exact, *filtered)
        assert y.dtype == dtype and y.shape == expected.shape
        torch.testing.assert_close(y.double(), expected, **TOLERANCE[dtype])
        grad = torch.randn_like(y)
        y.backward(grad)
        expected.backward(grad.double())
        torch.testing.assert_close(x.grad.double(), exact.grad, **TOLERANCE[dtype])


@native
@pytest.mark.parametrize("layout", STRIDES_OF_LAYOUTS)
def test_any_alignment_agrees_with_the_reference(layout, device):
    x = laid_out(torch.randn(2, 8, 5, 7, device=device), *STRIDES_OF_LAYOUTS[layout])
    torch.testing.assert_close(blur_pool(x), blur_pool_reference(x, 3, 2, "reflect"))


def test_on_a_gpu_there_may_be_more_images_than_a_grid_has_rows(gpu):
    x = torch.randn(65537, 1, 1, 1, device=gpu)
    assert torch.equal(blur_pool(x, taps=1, stride=1), x)


@native
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_every_number_of_half_and_bfloat16_comes_through_unchanged(dtype, device):
    x = torch.arange(-32768, 32768).to(torch.int16).view(dtype).reshape(1, 64, 32, 32).to(device)
    y = blur_pool(x, taps=1, stride=1)
    assert torch.equal(torch.where(x.isnan(), 0, y), torch.where(x.isnan(), 0, x)) and torch.equal(y.isnan(), x.isnan())


@pytest.mark.parametrize("padding", PADDINGS)
def test_the_gradient_has_a_gradient(padding):
    x = torch.randn(1, 2, 6, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: blur_pool(x, padding=padding).square(), x)


@native
def test_sums_of_half_precision_are_rounded_once(device):
    x = torch.randn(1, 8, 33, 31).half().to(device)
    assert torch.equal(blur_pool(x, taps=5), blur_pool_reference(x.float(), 5, 2, "reflect").half())


@native
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_nan_spreads_as_far_as_the_filter_reaches_and_no_further(layout, device):
    x = torch.randn(1, 4, 9, 12, device=device).contiguous(memory_format=layout)
    for row, column in ((0, 0), (2, 2), (4, 5), (8, 11)):
        spoiled = x.clone(memory_format=torch.preserve_format)
        spoiled[:, :, row, column] = torch.nan
        for taps, padding in itertools.product((2, 3, 5), PADDINGS):
            expected = blur_pool_reference(spoiled, taps, 2, padding).isnan()
            assert torch.equal(blur_pool(spoiled, taps=taps, padding=padding).isnan(), expected)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("taps, stride", [(3, 2), (4, 1), (7, 4)])
def test_gradients_are_those_of_finite_differences(taps, stride, padding):
    x = torch.randn(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: blur_pool(x, taps=taps, stride=stride, padding=padding), x)


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (2, 0, 8, 8), (2, 3, 0, 8), (2, 3, 8, 0)])
def test_nothing_in_gives_nothing_out_and_a_gradient_of_nothing(shape, device):
    x = torch.zeros(shape, device=device, requires_grad=True)
    y = blur_pool(x)
    assert y.shape == (*shape[:2], -(-shape[2] // 2), -(-shape[3] // 2))
    y.sum().backward()
    assert x.grad.shape == shape


@native
@pytest.mark.parametrize(
    "shape, layout, geometry",
    [
        ((2, 3, 8, 9), torch.contiguous_format, (3, 2, 0, 0, 0)),
        ((2, 3, 8, 9), torch.channels_last, (4, 1, 2, 2, 1)),
        ((1, 4, 1, 1), torch.channels_last, (5, 4, 1, 0, 0)),
        ((0, 3, 8, 8), torch.contiguous_format, (3, 2, 0, 0, 0)),
    ],
)
def test_the_registration_is_complete(shape, layout, geometry):
    x = torch.randn(shape).contiguous(memory_format=layout)
    op, backward = torch.ops.adet_ext.blur_pool.default, torch.ops.adet_ext.blur_pool_backward.default
    torch.library.opcheck(op, (x.clone(memory_format=torch.preserve_format).requires_grad_(), *geometry))
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(backward, (op(x, *geometry), *shape[2:], *geometry), test_utils=checks)


def test_it_compiles_into_one_graph_of_any_size():
    layer = torch.compile(BlurPool2d(), backend="aot_eager", fullgraph=True, dynamic=True)
    for size in (12, 17):
        x = torch.randn(1, 3, size, size + 3, requires_grad=True)
        y = layer(x)
        torch.testing.assert_close(y, blur_pool(x))
        (grad,) = torch.autograd.grad(y.square().sum(), x)
        torch.testing.assert_close(grad, torch.autograd.grad(blur_pool(x).square().sum(), x)[0])


def test_it_exports():
    program = torch.export.export(BlurPool2d(taps=5), (torch.randn(2, 3, 16, 16),))
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(program.module()(x), blur_pool(x, taps=5))


def test_the_layer_leaves_no_trace_in_a_state_dict():
    layer = BlurPool2d(taps=4, stride=4, padding="zeros")
    assert not layer.state_dict() and "taps=4, stride=4, padding=zeros" in repr(layer)


@pytest.mark.parametrize(
    "error, sentence, x, options",
    [
        (TypeError, "x must be a tensor; got list", [1.0], {}),
        (TypeError, "x must be .*; got int64", torch.zeros(1, 1, 4, 4, dtype=torch.int64), {}),
        (ValueError, r"x must have shape \(N, C, H, W\); got \(4, 4\)", torch.zeros(4, 4), {}),
        (TypeError, "taps must be an integer; got 3.0", torch.zeros(1, 1, 4, 4), {"taps": 3.0}),
        (ValueError, "taps must be 1 to 7; got 8", torch.zeros(1, 1, 4, 4), {"taps": 8}),
        (ValueError, "stride must be 1, 2 or 4; got 3", torch.zeros(1, 1, 4, 4), {"stride": 3}),
        (ValueError, "padding must be .*; got 'wrap'", torch.zeros(1, 1, 4, 4), {"padding": "wrap"}),
    ],
)
def test_what_it_does_not_take_is_named(error, sentence, x, options):
    with pytest.raises(error, match=sentence):
        blur_pool(x, **options)


@native
def test_the_operator_itself_refuses_what_its_kernels_cannot_do():
    op, x = torch.ops.adet_ext.blur_pool, torch.zeros(1, 1, 4, 4)
    wrong = ((x, 0, 2, 0, 0, 0), (x, 3, 3, 0, 0, 0), (x, 3, 2, 3, 0, 0), (x, 3, 2, 0, 1, 1), (x[0], 3, 2, 0, 0, 0))
    for arguments in wrong:
        with pytest.raises(RuntimeError, match="must"):
            op(*arguments)
    with pytest.raises(RuntimeError, match=r"grad must have shape \(N, C, 2, 2\)"):
        torch.ops.adet_ext.blur_pool_backward(x, 4, 4, 3, 2, 0, 0, 0)
