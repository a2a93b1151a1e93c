"""The deformable block: offsets and masks of its own convolution, and torchvision's operator in a graph."""

import torch
from torchvision.ops import deform_conv2d

from adet_ext.layers.deform import ModulatedDeformBlock


def test_a_block_is_the_operator_on_its_offsets_and_masks_and_has_it_in_a_graph():
    block, x = ModulatedDeformBlock(4, 6, groups=2).eval(), torch.randn(2, 4, 6, 5)
    graph = torch.export.export(block, (x,)).graph
    assert any("deform_conv2d" in str(node.target) for node in graph.nodes)
    offsets, mask = block.offset(x).split([36, 18], dim=1)
    expected = deform_conv2d(x, offsets, block.conv.weight, block.conv.bias, padding=1, mask=mask.sigmoid())
    torch.testing.assert_close(block(x), expected)
    with torch.no_grad():
        torch.testing.assert_close(block(x), expected)
