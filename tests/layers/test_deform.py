"""Deformable convolution by sampling: torchvision's numbers and gradients."""

import pytest
import torch
from torchvision.ops import deform_conv2d

from adet_ext.layers import deform
from adet_ext.layers.deform import ModulatedDeformBlock, sampled_deform_conv2d


@pytest.mark.parametrize(("kernel", "padding", "groups"), [(3, 1, 2), (3, 0, 1), (1, 0, 2)])
def test_sampling_gives_the_deformable_convolution_and_its_gradients(kernel, padding, groups):
    generator = torch.Generator().manual_seed(kernel + groups)
    rows, columns = 7 + 2 * padding - kernel + 1, 5 + 2 * padding - kernel + 1
    taps = kernel**2 * groups

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    x, weight, bias = draw(2, 4, 7, 5), draw(6, 4, kernel, kernel), draw(6)
    # Steps of many pixels: some samples lie outside the map, or between its edge and the next pixel.
    offsets, mask = draw(2, 2 * taps, rows, columns), draw(2, taps, rows, columns)
    inputs = [x, offsets, weight, bias, mask]
    theirs = deform_conv2d(x, offsets * 3, weight, bias, padding=padding, mask=mask)
    ours = sampled_deform_conv2d(x, offsets * 3, weight, bias, padding=padding, mask=mask)
    torch.testing.assert_close(ours, theirs)
    seed = torch.randn(theirs.shape, generator=generator, dtype=torch.float64)
    for mine, expected in zip(*(torch.autograd.grad(out, inputs, seed) for out in (ours, theirs))):
        torch.testing.assert_close(mine, expected)


def test_a_block_samples_on_a_cpu_and_has_the_operator_in_a_graph(monkeypatch):
    block, x = ModulatedDeformBlock(4, 6, groups=2).eval(), torch.randn(2, 4, 6, 5)
    graph = torch.export.export(block, (x,)).graph
    assert any("deform_conv2d" in str(node.target) for node in graph.nodes)
    with monkeypatch.context() as changed:
        changed.setattr(deform, "sampled_deform_conv2d", deform_conv2d)
        expected = block(x)
    monkeypatch.setattr(deform, "deform_conv2d", None)
    torch.testing.assert_close(block(x), expected)
    with torch.no_grad():
        torch.testing.assert_close(block(x), expected)
