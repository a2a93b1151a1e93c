"""The operations and aggregations are made of what the thesis and the released code say, layer by layer."""

import pytest
import torch
from nas_fcos.operations import (
    FPN_OPERATIONS,
    HEAD_OPERATIONS,
    Concatenation,
    WeightedSum,
    build_aggregation,
    build_operation,
    resize,
)
from torch import nn


def batch_norm(channels):
    return nn.BatchNorm2d(channels)


def group_norm(channels):
    return nn.GroupNorm(32, channels)


C = 32
PARAMETERS = {  # without the norm's 2 C
    "sep_conv_3x3": 9 * C + C * C,
    "sep_conv_3x3_dil3": 9 * C + C * C,
    "sep_conv_5x5_dil6": 25 * C + C * C,
    "skip": -2 * C,
    "deformable_3x3": (9 * C * C + C) + (9 * C * 54 + 54),
    "conv_1x1": C * C,
    "conv_3x3": 9 * C * C,
}


@pytest.mark.parametrize("make_norm", [batch_norm, group_norm])
@pytest.mark.parametrize("name", PARAMETERS)
def test_an_operation_keeps_the_shape_and_has_its_parameters(name, make_norm):
    operation = build_operation(name, C, make_norm)
    assert operation(torch.randn(2, C, 9, 7)).shape == (2, C, 9, 7)
    assert sum(p.numel() for p in operation.parameters()) == PARAMETERS[name] + 2 * C


def test_the_numbers_of_operations_are_those_of_table_7_1_and_of_the_released_heads():
    assert FPN_OPERATIONS[4] == HEAD_OPERATIONS[5] == "deformable_3x3"
    assert FPN_OPERATIONS[3] == HEAD_OPERATIONS[4] == "skip"
    assert HEAD_OPERATIONS[:2] == ("conv_1x1", "conv_3x3")
    assert set(FPN_OPERATIONS) < set(HEAD_OPERATIONS) == set(PARAMETERS)


@pytest.mark.parametrize("name, reach", [("sep_conv_3x3", 1), ("sep_conv_3x3_dil3", 3), ("sep_conv_5x5_dil6", 12)])
def test_a_separable_convolution_reaches_as_far_as_its_dilation(name, reach):
    operation = build_operation(name, C, batch_norm).eval()
    for p in operation.parameters():
        nn.init.constant_(p, 0.1)
    x = torch.zeros(1, C, 31, 31)
    x[:, :, 15, 15] = 1
    changed = (operation(x) - operation(torch.zeros_like(x)))[0, 0] != 0
    rows = changed.any(dim=1).nonzero().flatten()
    assert (rows.min(), rows.max()) == (15 - reach, 15 + reach)


def test_a_new_deformable_convolution_is_a_plain_one_at_half_weight():
    """Offsets start at 0 and the modulation at sigmoid(0)."""
    block = build_operation("deformable_3x3", C, batch_norm)[0]
    x = torch.randn(2, C, 6, 5)
    expected = nn.functional.conv2d(x, block.conv.weight / 2, block.conv.bias, padding=1)
    torch.testing.assert_close(block(x), expected)


def test_the_two_groups_of_a_deformable_convolution_move_their_own_channels():
    block = build_operation("deformable_3x3", C, batch_norm)[0]
    with torch.no_grad():
        block.offset.bias[18:36] = 100.0  # the second group's offsets: it sees nothing but zeros
    x = torch.randn(1, C, 6, 5)
    weight = block.conv.weight.clone() / 2
    weight[:, C // 2 :] = 0
    torch.testing.assert_close(block(x), nn.functional.conv2d(x, weight, block.conv.bias, padding=1))


def test_operations_learn_in_all_their_parameters():
    for name in HEAD_OPERATIONS:
        operation = build_operation(name, C, group_norm)
        x = torch.randn(1, C, 6, 6, requires_grad=True)
        operation(x).square().sum().backward()
        assert x.grad is not None and all(p.grad is not None for p in operation.parameters())


@pytest.mark.parametrize("name", ["sum", "concat"])
@pytest.mark.parametrize("out_channels", [C, 2 * C])
def test_the_smaller_map_is_resized_to_the_larger_whichever_comes_first(name, out_channels):
    merge = build_aggregation(name, C, out_channels, batch_norm)
    x, y = torch.randn(2, C, 4, 6), torch.randn(2, C, 8, 12)
    assert merge(x, y).shape == merge(y, x).shape == (2, out_channels, 8, 12)


def test_a_sum_starts_as_the_plain_one_of_resized_maps():
    x, y = torch.randn(1, C, 4, 4), torch.randn(1, C, 8, 8)
    torch.testing.assert_close(WeightedSum(C, C)(x, y), resize(x, (8, 8)) + y)


def test_a_concatenation_has_two_weights_per_channel_and_norms_first():
    merge = Concatenation(C, C, batch_norm)
    assert [type(m) for m in merge] == [nn.BatchNorm2d, nn.ReLU, nn.Conv2d]
    assert merge[0].num_features == 2 * C and merge[2].weight.shape == (C, 2, 1, 1) and merge[2].bias is None
    assert Concatenation(C, 2 * C, batch_norm)[2].weight.shape == (2 * C, 2, 1, 1)


def test_resizing_to_the_same_size_is_the_identity():
    x = torch.randn(1, 3, 5, 4)
    assert resize(x, (5, 4)) is x
