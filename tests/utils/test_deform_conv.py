"""Deformable convolution: what computes it where, and by sampling torchvision's numbers and gradients."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import deform_conv2d as operator

from adet_ext.layers import native_operators
from adet_ext.utils import deform_conv
from adet_ext.utils.deform_conv import deform_conv2d, sampled_deform_conv2d


@pytest.mark.parametrize(
    ("kernel", "settings", "groups", "offset_groups", "masked"),
    [
        ((3, 3), {"padding": 1}, 1, 2, True),
        ((3, 3), {}, 1, 1, False),
        ((1, 1), {"padding": 0}, 1, 2, True),
        ((3, 3), {"padding": 2, "dilation": 2, "stride": 2}, 2, 1, True),
        ((2, 3), {"padding": (1, 0), "dilation": (2, 1), "stride": (1, 2)}, 2, 4, False),
        ((5, 5), {"padding": 2}, 4, 2, True),
    ],
)
def test_sampling_gives_the_deformable_convolution_and_its_gradients(kernel, settings, groups, offset_groups, masked):
    generator = torch.Generator().manual_seed(kernel[1] + groups)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    x, weight, bias = draw(2, 4, 7, 5), draw(8, 4 // groups, *kernel), draw(8)
    size = nn.functional.conv2d(x, weight, groups=groups, **settings).shape[2:]
    taps = kernel[0] * kernel[1] * offset_groups
    # Steps of many pixels: some samples lie outside the map, or between its edge and the next pixel.
    offsets, mask = draw(2, 2 * taps, *size), draw(2, taps, *size) if masked else None
    inputs = [t for t in (x, offsets, weight, bias, mask) if t is not None]
    theirs = operator(x, offsets * 3, weight, bias, mask=mask, **settings)
    pairs = [nn.modules.utils._pair(settings.get(k, d)) for k, d in (("stride", 1), ("padding", 0), ("dilation", 1))]
    ours = sampled_deform_conv2d(x, offsets * 3, weight, bias, *pairs, mask)
    torch.testing.assert_close(ours, theirs)
    seed = torch.randn(theirs.shape, generator=generator, dtype=torch.float64)
    for mine, expected in zip(*(torch.autograd.grad(out, inputs, seed) for out in (ours, theirs))):
        torch.testing.assert_close(mine, expected)


class _Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 4, 3, 3))

    def forward(self, x: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        return deform_conv2d(x, offsets, self.weight, padding=1)


def test_graphs_and_counters_see_the_operator(monkeypatch):
    layer, inputs = _Layer(), (torch.randn(2, 4, 6, 5), torch.randn(2, 18, 6, 5))
    graph = torch.export.export(layer, inputs).graph
    assert any("deform_conv2d" in str(node.target) for node in graph.nodes)
    on_cpu = layer(*inputs)
    monkeypatch.setattr(deform_conv, "_compiled", None)
    monkeypatch.setattr(deform_conv, "sampled_deform_conv2d", None)
    with FlopCounterMode(display=False):
        torch.testing.assert_close(layer(*inputs), on_cpu)
    torch.testing.assert_close(layer.double()(*(t.double() for t in inputs)).float(), on_cpu)


def test_a_cpu_takes_the_compiled_operator_and_samples_without_it_or_for_groups(monkeypatch):
    monkeypatch.setattr(deform_conv, "_compiled", lambda *arguments: "compiled")
    monkeypatch.setattr(deform_conv, "sampled_deform_conv2d", lambda *arguments: "sampled")
    x, offsets, weight = torch.randn(2, 4, 6, 5), torch.randn(2, 18, 6, 5), torch.randn(6, 4, 3, 3)
    best = "compiled" if "deform_conv" in native_operators() else "sampled"
    assert deform_conv2d(x, offsets, weight, padding=1) == best
    assert deform_conv2d(x, offsets, weight[:, :2], padding=1) == "sampled"


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_result_has_the_layout_of_the_input_and_its_bias(layout):
    x, offsets = torch.randn(2, 4, 6, 5).to(memory_format=layout), torch.randn(2, 18, 6, 5)
    weight, bias = torch.randn(6, 4, 3, 3), torch.randn(6)
    found = deform_conv2d(x, offsets, weight, bias, padding=1)
    torch.testing.assert_close(found, operator(x, offsets, weight, bias, padding=1))
    if "deform_conv" in native_operators():
        assert found.is_contiguous(memory_format=layout)


def test_an_empty_batch_goes_to_the_operator(monkeypatch):
    monkeypatch.setattr(deform_conv, "operator", lambda *arguments: "operator")
    empty = torch.zeros(0, 4, 6, 5)
    assert deform_conv2d(empty, torch.zeros(0, 18, 6, 5), torch.zeros(6, 4, 3, 3)) == "operator"
