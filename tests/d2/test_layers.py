"""Convolutions with norms, frozen and synchronised norms, deformable convolutions, mask pasting."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from adet_ext.d2 import layers as d2_layers
from adet_ext.d2.embedded import layers as embedded_layers
from adet_ext.d2.layers import (
    CNNBlockBase,
    Conv2d,
    DeformConv,
    FrozenBatchNorm2d,
    NaiveSyncBatchNorm,
    ROIAlign,
    ShapeSpec,
    batched_nms,
    cat,
    get_norm,
    paste_masks_in_image,
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def randomise(module: nn.Module) -> nn.Module:
    """Give every norm inside ``module`` statistics and an affine map that change something."""
    for part in module.modules():
        if getattr(part, "running_mean", None) is not None:
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
            if part.weight is not None:
                part.weight.data.uniform_(0.5, 2)
                part.bias.data.normal_()
    return module


def unfolded(conv: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What ``conv`` computes, step by step."""
    x = F.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)
    if conv.norm is not None:
        norm = conv.norm
        x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0, norm.eps)
    return x if conv.activation is None else conv.activation(x)


def evaluate(module: nn.Module, *args: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return module(*args)


NORMS = ["FrozenBN", "BN", "SyncBN", "naiveSyncBN", lambda channels: nn.BatchNorm2d(channels, affine=False)]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", [None, F.relu, torch.sigmoid])
def test_convolution_then_norm_then_activation(norm, bias, activation):
    conv = Conv2d(4, 8, 3, padding=1, groups=2, bias=bias, norm=get_norm(norm, 8), activation=activation)
    conv = randomise(conv).eval()
    x = torch.randn(2, 4, 9, 7)
    expected = unfolded(conv, x)
    assert torch.allclose(conv(x), expected, rtol=1e-5, atol=1e-6)
    assert torch.allclose(evaluate(conv, x), expected, rtol=1e-5, atol=1e-6)
    with torch.inference_mode():
        assert torch.allclose(conv(x), expected, rtol=1e-5, atol=1e-6)


CHANGES = {
    "weight in place": lambda conv: conv.weight.mul_(2),
    "weight through data": lambda conv: setattr(conv.weight, "data", conv.weight.data * 2),
    "weight replaced": lambda conv: setattr(conv, "weight", nn.Parameter(conv.weight * 2)),
    "affine map": lambda conv: conv.norm.weight.mul_(2),
    "shift": lambda conv: conv.norm.bias.add_(1),
    "mean": lambda conv: conv.norm.running_mean.add_(1),
    "variance": lambda conv: conv.norm.running_var.mul_(2),
    "epsilon": lambda conv: setattr(conv.norm, "eps", 0.5),
    "norm replaced": lambda conv: setattr(conv, "norm", randomise(get_norm("FrozenBN", 8))),
    "norm removed": lambda conv: setattr(conv, "norm", None),
    "dtype": lambda conv: conv.double().float(),
    "state dict": lambda conv: conv.load_state_dict({k: v * 2 for k, v in conv.state_dict().items()}),
    "data in place, then eval": lambda conv: (conv.weight.data.mul_(2), conv.eval()),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
def test_folded_weights_are_never_stale(norm, change):
    conv = randomise(Conv2d(4, 8, 3, norm=get_norm(norm, 8))).eval()
    x = torch.randn(2, 4, 9, 7)
    evaluate(conv, x)
    with torch.no_grad():
        CHANGES[change](conv)
    assert torch.allclose(evaluate(conv, x), unfolded(conv, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("change", ["weight in place", "mean", "dtype", "state dict"])
def test_changes_in_inference_mode_are_seen(change):
    conv = randomise(Conv2d(4, 8, 3, norm=get_norm("FrozenBN", 8))).eval()
    x = torch.randn(2, 4, 9, 7)
    with torch.inference_mode():
        for _ in range(2):
            conv(x)
            CHANGES[change](conv)
            assert torch.allclose(conv(x), unfolded(conv, x), rtol=1e-5, atol=1e-4)


def test_statistics_gathered_by_the_norm_alone_are_seen():
    conv = randomise(Conv2d(4, 8, 3, norm=get_norm("BN", 8))).eval()
    x = torch.randn(2, 4, 9, 7)
    evaluate(conv, x)
    conv.norm.train()
    evaluate(conv, x + 3)
    conv.norm.eval()
    assert torch.allclose(evaluate(conv, x), unfolded(conv, x), rtol=1e-5, atol=1e-6)


def test_an_optimiser_step_between_evaluations_is_seen():
    conv = randomise(Conv2d(4, 8, 3, norm=get_norm("FrozenBN", 8)))
    optimiser = torch.optim.SGD(conv.parameters(), 0.1)
    x = torch.randn(2, 4, 9, 7)
    for _ in range(2):
        evaluate(conv, x)
        conv(x).square().mean().backward()
        optimiser.step()
        assert torch.allclose(evaluate(conv, x), unfolded(conv, x), rtol=1e-5, atol=1e-6)


def test_folding_leaves_no_trace():
    conv = randomise(Conv2d(4, 8, 3, norm=get_norm("FrozenBN", 8))).eval()
    names, size = list(conv.state_dict()), len(pickle.dumps(conv))
    x = torch.randn(2, 4, 9, 7)
    before = evaluate(conv, x)
    assert list(conv.state_dict()) == names
    assert len(pickle.dumps(conv)) == size
    assert torch.equal(evaluate(copy.deepcopy(conv), x), before)
    assert conv(x).requires_grad


def test_hooks_on_a_norm_are_called():
    conv = randomise(Conv2d(4, 8, 3, norm=get_norm("FrozenBN", 8))).eval()
    seen = []
    conv.norm.register_forward_hook(lambda *args: seen.append(args[2]))
    result = evaluate(conv, torch.randn(2, 4, 9, 7))
    assert len(seen) == 1 and torch.equal(seen[0], result)


@pytest.mark.parametrize("norm", ["FrozenBN", "GN", None])
def test_channels_last_stays_channels_last(norm):
    conv = Conv2d(32, 32, 3, padding=1, norm=get_norm(norm, 32), activation=F.relu).eval()
    conv = conv.to(memory_format=torch.channels_last)
    x = torch.randn(2, 32, 9, 7).to(memory_format=torch.channels_last)
    for result in (evaluate(conv, x), conv(x)):
        assert result.is_contiguous(memory_format=torch.channels_last)


def test_empty_batches_keep_their_shape():
    conv = Conv2d(4, 8, 3, stride=2, padding=1, norm=get_norm("FrozenBN", 8))
    assert conv(torch.zeros(0, 4, 9, 7)).shape == (0, 8, 5, 4)
    deform = DeformConv(4, 8, 3, stride=2, padding=1)
    assert deform(torch.zeros(0, 4, 9, 7), torch.zeros(0, 18, 5, 4)).shape == (0, 8, 5, 4)


def test_norms_by_name():
    assert get_norm("", 8) is None and get_norm(None, 8) is None
    assert isinstance(get_norm("BN", 8), nn.BatchNorm2d)
    assert isinstance(get_norm("SyncBN", 8), nn.SyncBatchNorm)
    assert isinstance(get_norm("naiveSyncBN", 8), NaiveSyncBatchNorm)
    assert get_norm("GN", 64).num_groups == 32
    assert isinstance(get_norm(nn.InstanceNorm2d, 8), nn.InstanceNorm2d)
    with pytest.raises(KeyError):
        get_norm("BM", 8)


def test_a_frozen_norm_has_no_parameters_and_starts_as_identity():
    norm = FrozenBatchNorm2d(8)
    x = torch.randn(2, 8, 3, 3)
    assert not list(norm.parameters()) and set(norm.state_dict()) == {
        "weight",
        "bias",
        "running_mean",
        "running_var",
    }
    assert torch.allclose(norm(x), x, atol=1e-5)
    assert torch.allclose(norm(x.requires_grad_()), x, atol=1e-5)


def test_freezing_converts_norms_and_keeps_the_function():
    class Block(CNNBlockBase):
        def __init__(self):
            super().__init__(4, 8, 1)
            self.conv = Conv2d(4, 8, 3, norm=get_norm("BN", 8))

        def forward(self, x):
            return self.conv(x)

    block = randomise(Block())
    x = torch.randn(2, 4, 5, 5)
    expected = evaluate(block.eval(), x)
    names = list(block.state_dict())
    assert block.train().freeze() is block
    assert type(block.conv.norm) is FrozenBatchNorm2d and list(block.state_dict()) == names
    assert not any(parameter.requires_grad for parameter in block.parameters())
    assert torch.allclose(block(x), expected, atol=1e-5)


def test_norms_of_caffe2_without_statistics_load():
    norm = FrozenBatchNorm2d(2)
    norm.running_mean.fill_(9)
    result = norm.load_state_dict({"weight": torch.tensor([1.0, 2.0]), "bias": torch.zeros(2)})
    assert not result.missing_keys
    assert norm.running_mean.tolist() == [0, 0] and norm.running_var.tolist() == [1, 1]


def test_suppression_is_by_class():
    boxes = torch.tensor([[0, 0, 9, 9], [0, 0, 9, 9.5], [0, 0, 9, 9.0]])
    keep = batched_nms(boxes.half(), torch.tensor([0.1, 0.9, 0.5]), torch.tensor([0, 0, 1]), 0.5)
    assert keep.tolist() == [1, 2]


def test_small_helpers():
    one = torch.ones(2)
    assert cat([one]) is one and cat([one, one], dim=0).shape == (4,)
    assert ShapeSpec(channels=3) == ShapeSpec(3, None, None, None)
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    pooled = ROIAlign((2, 2), 0.5, 2)(ramp, torch.tensor([[0, 0, 0, 8.0, 8.0]]))
    assert torch.allclose(pooled[0, 0], torch.tensor([[0.5, 2.5]] * 2))


@pytest.mark.parametrize("dilation", [1, 2])
def test_zero_offsets_make_a_deformable_convolution_ordinary(dilation):
    x = torch.randn(2, 4, 9, 7)
    conv = DeformConv(4, 8, 3, padding=dilation, dilation=dilation, groups=2)
    expected = F.conv2d(x, conv.weight, None, 1, dilation, dilation, 2)
    assert torch.allclose(conv(x, torch.zeros(2, 18, 9, 7)), expected, atol=1e-5)
    # One whole pixel down and two to the right: pairs are (dy, dx).
    offset = torch.tensor([1.0, 2.0]).repeat(9)[None, :, None, None].expand(2, 18, 9, 7)
    moved = conv(x, offset.contiguous())
    assert torch.allclose(moved[..., 2:6, 2:3], expected[..., 3:7, 4:5], atol=1e-5)


def test_modulated_convolution_weighs_every_sample():
    norm = randomise(d2_layers.get_norm("FrozenBN", 8))
    conv = d2_layers.ModulatedDeformConv(4, 8, 3, padding=1, norm=norm, activation=F.relu)
    x = torch.randn(2, 4, 9, 7)
    conv.bias.data.normal_()
    mask = torch.zeros(2, 9, 9, 7)
    mask[:, 4] = 0.5  # the centre of the kernel
    centre = F.conv2d(x, conv.weight[..., 1:2, 1:2] * 0.5, conv.bias)
    expected = F.relu(conv.norm(centre))
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            assert torch.allclose(conv(x, torch.zeros(2, 18, 9, 7), mask), expected, atol=1e-5)


@pytest.mark.parametrize("groups, offset_groups, stride, dilation", [(1, 1, 1, 1), (2, 2, 2, 1), (1, 4, 1, 2)])
@pytest.mark.parametrize("modulated", [False, True])
def test_deformable_convolutions_on_a_cpu_are_those_of_the_embedded_engine(
    modulated, groups, offset_groups, stride, dilation
):
    name = "ModulatedDeformConv" if modulated else "DeformConv"
    settings = dict(stride=stride, padding=dilation, dilation=dilation, groups=groups, deformable_groups=offset_groups)
    ours = getattr(d2_layers, name)(8, 12, 3, **settings)
    embedded = getattr(embedded_layers, name)(8, 12, 3, **settings)
    embedded.load_state_dict(ours.state_dict())  # the same parameters
    x = torch.randn(2, 8, 9, 7)
    size = F.conv2d(x, ours.weight.detach(), None, stride, dilation, dilation, groups).shape[2:]
    args = [torch.randn(2, 18 * offset_groups, *size)]
    args += [torch.rand(2, 9 * offset_groups, *size)] if modulated else []
    results = []
    for conv in (ours, embedded):
        inputs = [t.clone().requires_grad_() for t in (x, *args)]
        result = conv(*inputs)
        (result * torch.linspace(-1, 1, result.numel()).view_as(result)).sum().backward()
        results.append([result.detach(), conv.weight.grad, *(t.grad for t in inputs)])
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*results))


def random_pasting():
    boxes = torch.rand(12, 2, 2) * 40
    boxes = torch.cat([boxes.amin(1) - 5, boxes.amax(1) + 5], dim=1)
    boxes[0] = torch.tensor([3.2, 4.1, 3.4, 30.0])  # thinner than a pixel
    boxes[1] = torch.tensor([-20.0, -20.0, 90.0, 90.0])
    return torch.rand(12, 14, 14), boxes


@pytest.mark.parametrize("threshold", [0.5, 0.0, -1])
def test_pasting_interpolates_over_each_box(threshold):
    masks, boxes = random_pasting()
    pasted = paste_masks_in_image(masks, boxes, (40, 50), threshold)
    rows, columns = torch.arange(40) + 0.5, torch.arange(50) + 0.5
    y = (rows - boxes[:, 1:2]) / (boxes[:, 3:] - boxes[:, 1:2]) * 2 - 1
    x = (columns - boxes[:, :1]) / (boxes[:, 2:3] - boxes[:, :1]) * 2 - 1
    grid = torch.stack([x[:, None].expand(-1, 40, -1), y[:, :, None].expand(-1, -1, 50)], dim=3)
    values = F.grid_sample(masks[:, None], grid, align_corners=False)[:, 0]
    if threshold < 0:
        assert pasted.dtype == torch.uint8
        assert (pasted.int() - (values * 255).int()).abs().max() <= 1
    elif threshold > 0:
        assert pasted.dtype == torch.bool
        certain = (values - threshold).abs() > 1e-4
        assert torch.equal(pasted[certain], (values >= threshold)[certain])


def test_boxes_outside_of_the_image_paste_nothing():
    boxes = torch.tensor([[-30.0, 2, -20, 9], [60, 2, 70, 9], [5, -30, 9, -20], [5, 60, 9, 70], [5, 5, 5, 5]])
    assert not embedded_layers.paste_masks_in_image(torch.ones(5, 7, 7), boxes, (40, 50)).any()


def test_pasting_nothing_gives_nothing():
    assert paste_masks_in_image(torch.rand(0, 7, 7), torch.rand(0, 4), (4, 5)).shape == (0, 4, 5)
    with pytest.raises(AssertionError):
        paste_masks_in_image(torch.rand(1, 7, 8), torch.rand(1, 4), (4, 5))


def test_pasting_makes_no_image_of_floats_per_instance():
    largest = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.dtype.is_floating_point:
                largest.append(out.numel())
            return out

    boxes = torch.tensor([[10.0, 20.0, 30.0, 50.0]]).repeat(20, 1)
    with Watch():
        embedded_layers.paste_masks_in_image(torch.rand(20, 28, 28), boxes, (400, 500))
    assert max(largest) <= 20 * 28 * 28  # the masks themselves, or the grid of one box


@pytest.mark.needs_detectron2
def test_numbers_are_those_of_detectron2():
    theirs = pytest.importorskip("detectron2.layers")
    x = torch.randn(2, 64, 13, 11)
    masks, boxes = random_pasting()
    offset = torch.randn(2, 18, 13, 11)
    results = []
    for lib in (embedded_layers, theirs):
        torch.manual_seed(1)
        values = []
        for name in ("FrozenBN", "BN", "GN", "naiveSyncBN", ""):
            conv = lib.Conv2d(64, 64, 3, padding=1, bias=not name, norm=lib.get_norm(name, 64), activation=F.relu)
            randomise(conv)
            inputs = x.clone().requires_grad_()
            result = conv(inputs)
            result.square().sum().backward()
            values += [result, inputs.grad, conv.weight.grad]
            values += [conv.norm.running_var] if hasattr(conv.norm, "running_var") else []
        deform = lib.DeformConv(64, 8, 3, padding=1, groups=2, norm=lib.get_norm("FrozenBN", 8))
        values += [deform.weight, deform(x, offset), lib.ModulatedDeformConv(8, 8, 3).weight]
        values += [lib.ROIAlign((7, 7), 0.5, 0)(x, torch.cat([torch.zeros(12, 1), boxes], dim=1))]
        values += [lib.batched_nms(boxes, boxes[:, 0], (boxes[:, 1] > 5).long(), 0.3)]
        values += [lib.paste_masks_in_image(masks, boxes, (40, 50), threshold) for threshold in (0.5, 0.1, -1)]
        results.append(values)
    for index, (ours_value, theirs_value) in enumerate(zip(*results, strict=True)):
        assert ours_value.dtype == theirs_value.dtype
        assert torch.equal(ours_value, theirs_value), index
