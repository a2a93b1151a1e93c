"""Operations and aggregations against formulas that are written out here, place by place where that is possible."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from video_cells.aggregations import AGGREGATIONS, SYMMETRIC, build_aggregation
from video_cells.operations import CELL_OPERATIONS, DECODER_OPERATIONS, build_operation

C = 4
SIZES = [((5, 7), (5, 7)), ((9, 6), (5, 3)), ((4, 5), (7, 11)), ((1, 1), (6, 5))]


def maps(sizes, seed=0, channels=C):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, channels, *size, generator=generator, dtype=torch.float64) for size in sizes]


def enlarged(x, size):
    """Bilinear, with pixel centers aligned: each axis by a matrix of weights."""

    def weights(before, after):
        matrix = np.zeros((after, before))
        for i in range(after):
            at = max((i + 0.5) * before / after - 0.5, 0.0)
            low = min(int(at), before - 1)
            high = min(low + 1, before - 1)
            matrix[i, low] += 1 - (at - low)
            matrix[i, high] += at - low
        return matrix

    rows, columns = (weights(b, a) for b, a in zip(x.shape[-2:], size))
    return np.einsum("ih,nchw,jw->ncij", rows, x, columns)


def padded(x, by=1):
    return np.pad(x, ((0, 0), (0, 0), (by, by), (by, by)))


def depthwise(x, weight):
    """A 3x3 filter (C, 3, 3) per channel."""
    n, c, h, w = x.shape
    wide, result = padded(x), np.zeros_like(x)
    for i in range(3):
        for j in range(3):
            result += weight[None, :, i, j, None, None] * wide[:, :, i : i + h, j : j + w]
    return result


def normalized(x, mean, var, weight, bias):
    shape = (1, -1, 1, 1)
    x = (x - mean.reshape(shape)) / np.sqrt(var.reshape(shape) + 1e-5)
    return x * weight.reshape(shape) + bias.reshape(shape)


def weighted_sum(x, y, p):
    return p["a"].reshape(1, -1, 1, 1) * x + p["b"].reshape(1, -1, 1, 1) * y


def concat(x, y, p):
    z = normalized(np.concatenate([x, y], 1), p["0.running_mean"], p["0.running_var"], p["0.weight"], p["0.bias"])
    z = np.maximum(z, 0)
    weight = p["2.weight"]  # C x 2 x 1 x 1: group g reads the channels 2 g and 2 g + 1
    return np.stack([weight[g, 0] * z[:, 2 * g] + weight[g, 1] * z[:, 2 * g + 1] for g in range(C)], 1)


def predictive(x, y, p):
    n, c, h, w = y.shape
    z = depthwise(np.maximum(x, 0), p["filters.1.weight"][:, 0])
    z = depthwise(np.maximum(z, 0), p["filters.3.weight"][:, 0])
    z = np.einsum("kc,nchw->nkhw", p["filters.5.weight"][:, :, 0, 0], np.maximum(z, 0))
    z = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    wide, result = padded(y), np.zeros_like(y)
    for image in range(n):
        for row in range(h):
            for column in range(w):
                window = wide[image, :, row : row + 3, column : column + 3].reshape(c, 9)
                result[image, :, row, column] = window @ z[image, :, row, column]
    return result


def bilinear_sampling(x, y, p):
    n, c, h, w = x.shape
    pooled = np.maximum(np.einsum("kc,nchw->nkhw", p["conv.weight"][:, :, 0, 0], y), 0).mean((2, 3))
    matrices = (pooled @ p["linear.weight"].T + p["linear.bias"]).reshape(n, 2, 3)
    result = y.copy()
    for image in range(n):
        for row in range(h):
            for column in range(w):
                # From -1 at the center of the first pixel to 1 at that of the last; one pixel alone is at 0.
                at = [2 * k / (size - 1) - 1 if size > 1 else 0.0 for k, size in ((column, w), (row, h))]
                to_x, to_y = matrices[image] @ np.array([*at, 1.0])
                px, py = (to_x + 1) / 2 * (w - 1), (to_y + 1) / 2 * (h - 1)
                for i in (math.floor(py), math.floor(py) + 1):
                    for j in (math.floor(px), math.floor(px) + 1):
                        if 0 <= i < h and 0 <= j < w:
                            share = (1 - abs(py - i)) * (1 - abs(px - j))
                            result[image, :, row, column] += share * x[image, :, i, j]
    return result


def conv_3d(x, y, p):
    weight = p["conv.weight"]  # C x 2 x 3 x 3
    return depthwise(x, weight[:, 0]) + depthwise(y, weight[:, 1])


def dense_attention(x, y, p):
    return x / (1 + np.exp(-y))


FORMULAS = {f.__name__: f for f in (weighted_sum, concat, predictive, bilinear_sampling, conv_3d, dense_attention)}


def with_random_state(module):
    """Draw all parameters, and the statistics of norms."""
    generator = torch.Generator().manual_seed(1)
    for name, value in module.double().state_dict().items():
        if value.is_floating_point():
            value.normal_(generator=generator)
            if name.endswith("running_var"):
                value.abs_().add_(0.5)
    return module.eval()


def test_the_formulas_are_for_all_aggregations_in_the_order_of_their_numbers():
    assert tuple(FORMULAS) == AGGREGATIONS and len(AGGREGATIONS) == 6


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("name", AGGREGATIONS)
def test_an_aggregation_is_its_listing(name, sizes):
    aggregation = with_random_state(build_aggregation(name, C))
    x, y = maps(sizes)
    size = max(sizes)
    parameters = {key: value.numpy() for key, value in aggregation.state_dict().items()}
    expected = FORMULAS[name](enlarged(x.numpy(), size), enlarged(y.numpy(), size), parameters)
    with torch.no_grad():
        np.testing.assert_allclose(aggregation(x, y).numpy(), expected, rtol=0, atol=1e-6)
        if name in SYMMETRIC:
            exchanged = {"a": "b", "b": "a"}
            state = {exchanged.get(key, key): value.clone() for key, value in aggregation.state_dict().items()}
            state = {key: value.flip(1) if key == "conv.weight" else value for key, value in state.items()}
            aggregation.load_state_dict(state)
            np.testing.assert_allclose(aggregation(y, x).numpy(), expected, rtol=0, atol=1e-6)


def test_a_weighted_sum_starts_as_the_sum_and_attention_to_a_large_input_as_the_first():
    x, y = maps([(3, 5), (3, 5)])
    with torch.no_grad():
        torch.testing.assert_close(build_aggregation("weighted_sum", C)(x, y), x + y)
        torch.testing.assert_close(build_aggregation("dense_attention", C)(x, y + 100), x)


@pytest.mark.parametrize(
    ("name", "count"),
    list(zip(AGGREGATIONS, (128, 384, 1728, 426, 1152, 0))),
)
def test_the_parameters_of_the_aggregations(name, count):
    assert sum(p.numel() for p in build_aggregation(name, 64).parameters()) == count


@pytest.mark.parametrize(
    ("name", "count"),
    list(zip(CELL_OPERATIONS, (4800, 4224, 4800, 5824, 0, 68214))),
)
def test_the_parameters_of_the_operations(name, count):
    assert sum(p.numel() for p in build_operation(name, 64).parameters()) == count


def separable(x, p, kernel, dilation):
    """Gather the input of every tap, then both convolutions, norm and ReLU."""
    n, c, h, w = x.shape
    reach = dilation * (kernel // 2)
    wide, z = padded(x, reach), np.zeros_like(x)
    for i in range(kernel):
        for j in range(kernel):
            top, left = i * dilation, j * dilation
            z += p["0.weight"][None, :, 0, i, j, None, None] * wide[:, :, top : top + h, left : left + w]
    return ending(np.einsum("oc,nchw->nohw", p["1.weight"][:, :, 0, 0], z), p, 2)


def ending(z, p, norm, prefix=""):
    names = ("running_mean", "running_var", "weight", "bias")
    return np.maximum(normalized(z, *(p[f"{prefix}{norm}.{name}"] for name in names)), 0)


def global_pool(x, p):
    z = np.einsum("oc,nc->no", p["conv.0.weight"][:, :, 0, 0], x.mean((2, 3)))[:, :, None, None]
    return np.broadcast_to(ending(z, p, 1, "conv."), x.shape)


def deformable(x, p):
    """Two groups of channels, each with a vertical and a horizontal offset and a weight for each of nine taps."""
    n, c, h, w = x.shape
    z = F.conv2d(torch.from_numpy(x), *(torch.from_numpy(p[f"0.offset.{k}"]) for k in ("weight", "bias")), padding=1)
    z = z.numpy()
    offsets, masks = z[:, :36].reshape(n, 2, 9, 2, h, w), 1 / (1 + np.exp(-z[:, 36:].reshape(n, 2, 9, h, w)))
    result = np.tile(p["0.conv.bias"].reshape(1, -1, 1, 1), (n, 1, h, w))
    weight = p["0.conv.weight"].reshape(c, c, 9)
    for image, group, tap, row, column in np.ndindex(n, 2, 9, h, w):
        dy, dx = offsets[image, group, tap, :, row, column]
        py, px = row + tap // 3 - 1 + dy, column + tap % 3 - 1 + dx
        channels = slice(group * c // 2, (group + 1) * c // 2)
        value = np.zeros(c // 2)
        for i in (math.floor(py), math.floor(py) + 1):
            for j in (math.floor(px), math.floor(px) + 1):
                if 0 <= i < h and 0 <= j < w:
                    value += (1 - abs(py - i)) * (1 - abs(px - j)) * x[image, channels, i, j]
        value *= masks[image, group, tap, row, column]
        result[image, :, row, column] += weight[:, channels, tap] @ value
    return ending(result, p, 1)


OPERATIONS = {
    "sep_conv_3x3": lambda x, p: separable(x, p, 3, 1),
    "global_pool": global_pool,
    "sep_conv_3x3_dil3": lambda x, p: separable(x, p, 3, 3),
    "sep_conv_5x5_dil6": lambda x, p: separable(x, p, 5, 6),
    "skip": lambda x, p: x,
    "deformable_3x3": deformable,
}


@pytest.mark.parametrize("size", [(5, 7), (13, 4)], ids=str)
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_that_of_table_6_1(name, size):
    assert tuple(OPERATIONS) == CELL_OPERATIONS
    operation = with_random_state(build_operation(name, C))
    (x,) = maps([size])
    parameters = {key: value.numpy() for key, value in operation.state_dict().items()}
    with torch.no_grad():
        np.testing.assert_allclose(operation(x.clone()).numpy(), OPERATIONS[name](x.numpy(), parameters), atol=1e-6)


@pytest.mark.parametrize("name", DECODER_OPERATIONS)
def test_an_operation_of_the_decoder_keeps_the_shape(name):
    (x,) = maps([(5, 9)])
    found = build_operation(name, C, repeats=2).double()(x)
    assert found.shape == x.shape
    assert name != "none" or not found.any()


def test_a_repeated_separable_convolution_is_twice_the_single_one():
    once, twice = (build_operation("sep_conv_5x5", C, n) for n in (1, 2))
    state = once.state_dict()
    shifted = {f"{int(key.split('.')[0]) + 4}.{key.split('.', 1)[1]}": value for key, value in state.items()}
    twice.load_state_dict({**state, **shifted})
    (x,) = maps([(6, 5)])
    torch.testing.assert_close(twice.double().eval()(x), once.double().eval()(once(x)))
