"""BlurConv: three ways to one linear map, with the plain strided convolution's parameters."""

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from adet_ext.d2.layers import Conv2d, get_norm
from adet_ext.layers.blur_conv import BlurConv2d, blur_conv2d, fold_kernel
from adet_ext.layers.blur_pool import PADDINGS, blur_pool


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    kernel=st.sampled_from([(1, 1), (2, 2), (3, 3), (7, 7), (3, 1)]),
    size=st.tuples(st.integers(7, 20), st.integers(7, 20)),
    blurs=st.tuples(st.integers(1, 7), st.sampled_from([1, 2, 4]), st.sampled_from(PADDINGS)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    options=st.tuples(st.sampled_from([1, 2]), st.sampled_from([1, 2]), st.booleans()),
)
def test_every_way_gives_equation_3_4_s_numbers_and_gradients(kernel, size, blurs, padding, options):
    (taps, stride, blur_padding), (dilation, groups, biased) = blurs, options
    if any(extent + 2 * p <= dilation * (k - 1) for extent, p, k in zip(size, padding, kernel)):
        return
    x = torch.randn(2, 4, *size, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 4 // groups, *kernel, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(6, dtype=torch.float64, requires_grad=True) if biased else None
    sources = [x, weight, bias] if biased else [x, weight]
    conv = F.conv2d(x, weight, bias, 1, padding, dilation, groups)
    expected = blur_pool(conv, taps=taps, stride=stride, padding=blur_padding)
    grad = torch.randn_like(expected)
    expected_grads = torch.autograd.grad(expected, sources, grad)
    for method in ("plain", "commuted", "folded", "auto"):
        if method == "folded" and dilation > 1:
            continue
        y = blur_conv2d(
            x,
            weight,
            bias,
            stride=stride,
            taps=taps,
            blur_padding=blur_padding,
            padding=padding,
            dilation=(dilation, dilation),
            groups=groups,
            method=method,
        )
        torch.testing.assert_close(y, expected)
        for ours, theirs in zip(torch.autograd.grad(y, sources, grad), expected_grads):
            torch.testing.assert_close(ours, theirs)


def test_a_folded_kernel_is_the_blurred_kernel():
    weight = torch.zeros(1, 1, 3, 3)
    weight[0, 0, 1, 1] = 16
    expected = torch.zeros(5, 5)
    expected[1:4, 1:4] = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]])
    assert torch.equal(fold_kernel(weight, 3)[0, 0], expected)
    assert fold_kernel(torch.randn(4, 3, 7, 7), 3).shape == (4, 3, 9, 9)
    assert fold_kernel(torch.randn(4, 3, 1, 1), 4).shape == (4, 3, 4, 4)


class Multiplications(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts those of convolutions and matrix products, but for a blur that is composed of depthwise convolutions."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default and args[1].shape[1] > 1:
            self.count += out.numel() * args[1][0].numel()
        elif func in (torch.ops.aten.mm.default, torch.ops.aten.bmm.default):
            self.count += out.numel() * args[0].shape[-1]
        return out


@pytest.mark.parametrize("kernel", [1, 3, 7])
def test_the_commuted_way_costs_what_the_strided_convolution_does_and_a_frame(kernel):
    x, weight = torch.randn(1, 8, 64, 64), torch.randn(8, 8, kernel, kernel)
    counts = {}
    for method in ("plain", "commuted", "folded"):
        with torch.no_grad(), Multiplications() as counting:
            blur_conv2d(x, weight, padding=(kernel // 2,) * 2, method=method)
        counts[method] = counting.count
    strided = 32 * 32 * 8 * weight[0].numel()
    assert counts["plain"] == 4 * strided
    assert counts["commuted"] <= 1.1 * strided  # the border is a larger share of so small a map
    if kernel > 1:
        assert counts["folded"] < counts["plain"]


@pytest.mark.parametrize("norm", ["", "FrozenBN", "BN", "GN"])
@pytest.mark.parametrize("method", ["plain", "commuted", "folded"])
def test_evaluation_gives_the_numbers_of_the_layers_one_after_another(norm, method):
    layer = BlurConv2d(
        8, 32, 3, padding=1, bias=False, method=method, norm=_busy_norm(norm, 32), activation=F.relu
    ).eval()
    x = torch.randn(2, 8, 12, 13)
    conv = F.conv2d(x, layer.weight, padding=1)
    expected = blur_pool(conv)
    expected = F.relu(expected if layer.norm is None else layer.norm(expected))
    torch.testing.assert_close(layer(x), expected)
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            for _ in range(2):
                torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


def _busy_norm(name: str, channels: int) -> nn.Module | None:
    norm = get_norm(name, channels)
    for value in norm.state_dict().values() if norm else ():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + 0.5)
    return norm


def test_folded_weights_follow_every_change():
    layer = BlurConv2d(4, 6, 3, padding=1, norm=_busy_norm("FrozenBN", 6), method="folded").eval()
    x = torch.randn(1, 4, 10, 10)

    def agrees():
        with torch.no_grad():
            quick = layer(x)
        torch.testing.assert_close(quick, layer(x), rtol=1e-4, atol=1e-5)

    agrees()
    with torch.no_grad():
        layer.weight.mul_(2)
    agrees()
    with torch.no_grad():
        layer.norm.running_mean.add_(1)
    agrees()
    layer.load_state_dict({key: torch.rand_like(value) + 0.5 for key, value in layer.state_dict().items()})
    agrees()
    layer.train()
    layer.weight.data.mul_(3)  # a change that leaves no trace
    layer.eval()
    agrees()
    layer.double()
    x = x.double()
    agrees()
    copy.deepcopy(layer)


def test_a_norm_that_somebody_listens_to_is_called():
    layer = BlurConv2d(4, 6, 3, padding=1, norm=_busy_norm("FrozenBN", 6)).eval()
    seen = []
    layer.norm.register_forward_hook(lambda *args: seen.append(1))
    with torch.no_grad():
        layer(torch.randn(1, 4, 8, 8))
    assert seen


def test_the_norm_stays_unfolded_where_zeros_are_blurred_in():
    layer = BlurConv2d(4, 6, 3, padding=1, blur_padding="zeros", norm=_busy_norm("FrozenBN", 6)).eval()
    x = torch.randn(1, 4, 9, 9)
    with torch.no_grad():
        expected = layer.norm(blur_pool(F.conv2d(x, layer.weight, layer.bias, padding=1), padding="zeros"))
        torch.testing.assert_close(layer(x), expected)


def test_it_takes_a_strided_convolution_s_place_with_its_parameters():
    conv = Conv2d(4, 6, 3, stride=2, padding=1, groups=2, bias=False, norm=get_norm("BN", 6), activation=F.relu)
    state = torch.get_rng_state()
    layer = BlurConv2d.from_conv(conv, taps=5, blur_padding="replicate")
    assert torch.equal(torch.get_rng_state(), state)  # no weights were drawn
    assert layer.weight is conv.weight and layer.norm is conv.norm
    before, after = conv.state_dict(), layer.state_dict()
    assert [(k, v.shape) for k, v in before.items()] == [(k, v.shape) for k, v in after.items()]
    x = torch.randn(1, 4, 15, 16)
    assert layer(x).shape == conv(x).shape
    expected = blur_pool(F.conv2d(x, conv.weight, padding=1, groups=2), taps=5, padding="replicate")
    torch.testing.assert_close(layer(x), F.relu(conv.norm(expected)))


def test_blurring_a_smooth_input_changes_it_less_than_a_rough_one():
    conv = nn.Conv2d(1, 1, 1, stride=2, bias=False)
    nn.init.ones_(conv.weight)
    layer = BlurConv2d.from_conv(conv)
    ramp = torch.arange(16.0).expand(1, 1, 16, 16)
    inside = (slice(None), slice(None), slice(1, None), slice(1, None))  # reflection bends a ramp at the border
    torch.testing.assert_close(layer(ramp)[inside], conv(ramp)[inside])
    assert layer((-1.0) ** ramp).abs().max() < 1e-6 and conv((-1.0) ** ramp).eq(1).all()


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda: BlurConv2d(2, 2, 3, padding="same"), "padding must be numbers.* got 'same'"),
        (lambda: BlurConv2d(2, 2, 3, padding=1, padding_mode="reflect"), "padding_mode zeros; got .* and reflect"),
        (lambda: BlurConv2d(2, 2, 3, method="fast"), "method must be one of .*; got 'fast'"),
        (lambda: BlurConv2d(2, 2, 3, stride=3), "stride must be 1, 2 or 4; got 3"),
        (
            lambda: BlurConv2d.from_conv(nn.Conv2d(2, 2, 3, stride=(1, 2))),
            r"stride must be the same in both directions; got \(1, 2\)",
        ),
        (
            lambda: BlurConv2d(2, 2, 3, dilation=2, method="folded")(torch.randn(1, 2, 9, 9)),
            "dilation must be .* for method 'folded'; got",
        ),
    ],
)
def test_what_it_does_not_take_is_named(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_half_precision_and_layouts_come_through():
    layouts = (torch.contiguous_format, torch.channels_last)
    for dtype, layout in itertools.product((torch.float32, torch.bfloat16), layouts):
        layer = BlurConv2d(8, 8, 3, padding=1).to(dtype)
        x = torch.randn(1, 8, 10, 12, dtype=dtype).contiguous(memory_format=layout)
        y = layer(x)
        assert y.dtype == dtype and y.is_contiguous(memory_format=layout)
        expected = blur_pool(F.conv2d(x.float(), layer.weight.float(), layer.bias.float(), padding=1))
        torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.02 if dtype == torch.bfloat16 else 1e-5)


def test_no_images_give_no_features():
    assert BlurConv2d(3, 4, 3, padding=1)(torch.zeros(0, 3, 8, 8)).shape == (0, 4, 4, 4)


def test_it_compiles_and_exports():
    layer = BlurConv2d(4, 6, 3, padding=1, norm=_busy_norm("FrozenBN", 6)).eval()
    x = torch.randn(1, 4, 12, 14)
    expected = layer(x)
    torch.testing.assert_close(torch.compile(layer, backend="aot_eager", fullgraph=True)(x), expected)
    torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), expected)
