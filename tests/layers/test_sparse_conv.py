"""Convolutions at chosen locations: the dense convolution's numbers there."""

import torch
from torch import nn
from torchvision.ops import deform_conv2d

from adet_ext.layers.deform import ModulatedDeformBlock
from adet_ext.layers.floats import autocasts, sum_dtype
from adet_ext.layers.sparse_conv import conv_at, unravel_locations
from adet_ext.layers.sparse_deform import deform_conv_at

SIZES = [(5, 4), (3, 2)]
IMAGE = torch.tensor([0, 1, 1, 0])
LOCATION = torch.tensor([0, 19, 20, 25])  # corners of both levels


def make(channels=3):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, channels, h, w, generator=generator) for h, w in SIZES]


def read(maps):
    """(P, O): the values of dense maps at the chosen locations."""
    flat = torch.cat([x.flatten(2) for x in maps], dim=2)
    return flat[IMAGE, :, LOCATION]


def test_locations_are_counted_level_by_level_and_row_by_row():
    level, y, x = unravel_locations(SIZES, LOCATION)
    assert level.tolist() == [0, 0, 1, 1] and y.tolist() == [0, 4, 0, 2] and x.tolist() == [0, 3, 0, 1]


def test_a_sparse_convolution_is_the_dense_one_at_its_locations():
    conv, maps = nn.Conv2d(3, 6, 3, padding=1), make()
    torch.testing.assert_close(conv_at(conv, maps, IMAGE, LOCATION), read([conv(x) for x in maps]))


def test_a_sparse_deformable_convolution_is_the_dense_one_at_its_locations():
    maps, weight, bias = make(), torch.randn(4, 3, 3, 3), torch.randn(4)
    offsets = [torch.randn(2, 18, h, w) for h, w in SIZES]
    masks = [torch.rand(2, 9, h, w) for h, w in SIZES]
    dense = [deform_conv2d(x, o, weight, bias, padding=1, mask=m) for x, o, m in zip(maps, offsets, masks)]
    sparse = deform_conv_at(maps, IMAGE, LOCATION, read(offsets), read(masks), weight, bias)
    torch.testing.assert_close(sparse, read(dense))


def test_a_deformable_block_without_offsets_is_half_a_convolution():
    block, x = ModulatedDeformBlock(3, 4), make()[0]
    nn.init.zeros_(block.offset.weight)  # offsets of zero, factors of sigmoid(0)
    expected = nn.functional.conv2d(x, block.conv.weight, padding=1) / 2
    torch.testing.assert_close(block(x), expected)


def test_sums_are_kept_in_float32_but_for_float64():
    assert [sum_dtype(t) for t in (torch.float16, torch.bfloat16, torch.float64)] == [torch.float32] * 2 + [
        torch.float64
    ]
    assert not autocasts(torch.empty(1, device="meta"))
