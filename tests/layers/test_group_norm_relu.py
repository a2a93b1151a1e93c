"""Group norm and ReLU of all levels: the compiled operator against PyTorch's, and what it refuses."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from adet_ext.layers import extension
from adet_ext.layers.extension import native_operators, status
from adet_ext.layers.group_norm_relu import group_norm_relu, group_norm_relu_reference, has_kernel
from adet_ext.modeling.fcos.head import conv_tower

from .layouts import STRIDES_OF_LAYOUTS, laid_out

pytestmark = pytest.mark.skipif(
    "group_norm_relu" not in native_operators(), reason=f"compares the compiled operator: {status().reason}"
)
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


@pytest.fixture(autouse=True)
def _served(request, monkeypatch):
    """On the CPU the kernel runs for tests alone."""
    if "gpu" in request.fixturenames:
        everywhere = {**extension._DEVICES, "group_norm_relu": frozenset(["cpu", "cuda", "meta"])}
        monkeypatch.setattr(extension, "_DEVICES", everywhere)


def make(images, channels, sizes, dtype=torch.float32, device="cpu"):
    generator = torch.Generator().manual_seed(channels + sum(map(sum, sizes)))

    def random(*shape):
        return torch.randn(*shape, generator=generator)

    maps = [(3 + 2 * random(images, channels, *size)).to(device, dtype) for size in sizes]
    maps = [x.contiguous(memory_format=torch.channels_last) for x in maps]
    return maps, random(channels).to(device, dtype), random(channels).to(device, dtype)


def assert_like_reference(maps, weight, bias, groups, eps=1e-5):
    found = group_norm_relu(maps, weight, bias, groups=groups, eps=eps)
    exact = [x.double() for x in maps], weight.double(), bias.double()
    tolerance = TOLERANCE[weight.dtype]
    for mine, x, expected in zip(found, maps, group_norm_relu_reference(*exact, groups=groups, eps=eps), strict=True):
        assert mine.dtype == x.dtype and mine.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(mine.double(), expected, rtol=tolerance, atol=tolerance * 4)


@given(
    st.integers(1, 2),
    st.sampled_from([(1, 1), (6, 3), (8, 2), (16, 2), (24, 3), (64, 8), (40, 8)]),
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=4),
    st.sampled_from(list(TOLERANCE)),
)
@settings(max_examples=40, deadline=None)
def test_any_shape_and_type_agrees_with_pytorch(gpu, images, channels, sizes, dtype):
    count, groups = channels
    maps, weight, bias = make(images, count, sizes, dtype, gpu)
    assume(has_kernel(maps, weight, bias))  # maps without locations have any strides
    assert_like_reference(maps, weight, bias, groups)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_moments_of_many_blocks_are_merged(gpu, dtype):
    maps, weight, bias = make(1, 16, [(40, 60), (20, 30), (1, 1025)], dtype, gpu)
    assert_like_reference(maps, weight, bias, 4)


def test_a_large_mean_costs_no_precision(gpu):
    maps, weight, bias = make(1, 16, [(20, 60)], torch.float32, gpu)
    assert_like_reference([x + 1000 for x in maps], weight, bias, 2)


@pytest.mark.parametrize("layout", STRIDES_OF_LAYOUTS)
def test_maps_with_gaps_are_read_right(layout, gpu):
    (x, *others), weight, bias = make(2, 16, [(5, 6), (3, 3)], torch.float32, gpu)
    assert_like_reference([laid_out(x, *STRIDES_OF_LAYOUTS[layout]), *others], weight, bias, 4)


def test_no_number_stays_no_number(gpu):
    maps, weight, bias = make(1, 8, [(3, 4), (2, 2)], torch.float32, gpu)
    maps[0][0, 0, 0, 0] = torch.nan
    found = group_norm_relu(maps, weight, bias, groups=2)
    assert found[0][:, :4].isnan().all() and not found[0][:, 4:].isnan().any() and not found[1].isnan().any()


def test_a_tower_takes_it_in_inference_and_not_in_training(gpu, monkeypatch):
    tower = conv_tower(32, 2, norm="GN", num_levels=2).to(gpu, memory_format=torch.channels_last).eval()
    nn.init.normal_(tower[1].weight)
    levels, _, _ = make(1, 32, [(6, 7), (3, 4)], torch.float32, gpu)
    expected = [tower(x, i) for i, x in enumerate(levels)]
    calls = []
    operator = torch.ops.adet_ext.group_norm_relu
    counted = lambda *arguments: calls.append(len(arguments[0])) or operator(*arguments)  # noqa: E731
    monkeypatch.setattr(torch.ops.adet_ext, "group_norm_relu", counted)
    with torch.no_grad():
        found = tower.over(levels)
    assert calls == [2, 2]
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    assert all(x.requires_grad for x in tower.over(levels)) and calls == [2, 2]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"groups": 3}, "groups must divide the 8 channels; got 3"),
        ({"groups": 0}, "groups must be 1 to 8; got 0"),
        ({"eps": 0.0}, "eps must be a finite number above 0; got 0"),
        ({"maps": []}, "the number of maps must be 1 to 16; got 0"),
        ({"weight": torch.ones(7)}, r"weight must have shape \(8,\); got \(7,\)"),
        ({"bias": torch.ones(8, dtype=torch.float64)}, "bias must be float32; got float64"),
        ({"maps": [torch.ones(1, 8, 2, 2), torch.ones(1, 4, 2, 2)]}, r"maps\[1\] must have shape \(1, 8, H, W\)"),
    ],
)
def test_what_does_not_fit_is_named_alike(change, words, gpu):
    maps, weight, bias = make(1, 8, [(3, 4)], torch.float32)
    values = {"maps": maps, "weight": weight, "bias": bias, "groups": 2, "eps": 1e-5, **change}
    values = {key: x.to(gpu) if isinstance(x, torch.Tensor) else x for key, x in values.items()}
    values["maps"] = [x.to(gpu) for x in values["maps"]]
    with pytest.raises(RuntimeError, match=words):
        torch.ops.adet_ext.group_norm_relu(*values.values())
    positional = [values.pop(key) for key in ("maps", "weight", "bias")]
    with pytest.raises((TypeError, ValueError), match=words), extension.references_only():
        group_norm_relu(*positional, **values)
