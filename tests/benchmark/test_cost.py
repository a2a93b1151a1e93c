"""Counting of parameters, multiply-adds and activations."""

import pytest
import torch
from torch import nn

from adet_ext.benchmark.cost import measure
from adet_ext.cli import analyze


class Nested(nn.Module):
    """One convolution used at two sizes, and one layer called as a function only."""

    def __init__(self):
        super().__init__()
        self.head = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1))
        self.linear = nn.Linear(4, 5)

    def forward(self, x):
        y = self.head(x) + nn.functional.interpolate(self.head(x[..., ::2, ::2]), scale_factor=2)
        return nn.functional.linear(y.mean((2, 3)), self.linear.weight, self.linear.bias)


def test_convolutions_cost_outputs_times_weights_of_one_output():
    cost = measure(nn.Conv2d(4, 6, 3, groups=2, bias=False), [torch.zeros(2, 4, 7, 9)])
    assert cost.multiply_adds[""] == 2 * 6 * 5 * 7 * (2 * 9)
    assert cost.activations[""] == 2 * 6 * 5 * 7
    assert cost.parameters[""] == 6 * 2 * 9


def test_a_module_s_cost_is_that_of_its_children_and_of_every_call():
    model = Nested()
    cost = measure(model, [torch.zeros(1, 3, 8, 8)])
    conv = 4 * 3 * 9 * (64 + 16)
    assert cost.multiply_adds["head.0"] == cost.multiply_adds["head"] == conv
    assert cost.multiply_adds["linear"] == 0, "what a module does not do itself is its caller's"
    assert cost.multiply_adds[""] == conv + 4 * 5
    assert cost.parameters[""] == sum(p.numel() for p in model.parameters())


def test_deformable_convolutions_cost_what_plain_ones_do():
    from torchvision.ops import DeformConv2d

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = DeformConv2d(4, 6, 3, padding=1, groups=2)

        def forward(self, x):
            return self.conv(x, torch.zeros(1, 18, 5, 7))

    assert measure(Model(), [torch.zeros(1, 4, 5, 7)]).multiply_adds[""] == 6 * 35 * 2 * 9


def test_counting_works_inside_inference_mode_too():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        @torch.inference_mode()
        def forward(self, x):
            return self.conv(x)

    assert measure(Model(), [torch.zeros(1, 3, 5, 5)]).multiply_adds[""] == 3 * 4 * 25


def test_counts_of_convolutions_are_those_of_fvcore():
    from fvcore.nn import FlopCountAnalysis

    model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(4 * 49, 3)).eval()
    x = torch.zeros(1, 3, 15, 15)
    assert measure(model, [x]).multiply_adds[""] == FlopCountAnalysis(model, (x,)).total()


def test_the_model_is_left_as_it_was():
    model = Nested().train()
    measure(model, [torch.zeros(1, 3, 8, 8)])
    assert model.training and model.head.training
    assert not model._forward_hooks and not model.head[0]._forward_pre_hooks


def test_a_failing_model_is_left_as_it_was_too():
    model = Nested().train()
    with pytest.raises(RuntimeError):
        measure(model, [torch.zeros(1, 5, 8, 8)])
    assert model.training and not model._forward_hooks


def test_a_model_of_ours_adds_up(capsys):
    assert analyze.main(["--config-file", "demo/shapes_R_18.yaml", "--height", "64", "--width", "96", "--json"]) == 0
    import json

    report = json.loads(capsys.readouterr().out)
    assert (report["height"], report["width"]) == (64, 96)
    top = {row["name"]: row for row in report["modules"]}
    children = [row for name, row in top.items() if name and "." not in name]
    assert sum(row["parameters"] for row in children) == report["parameters"]
    assert 0 < top["backbone"]["multiply_adds"] < report["multiply_adds"]
    assert sum(row["multiply_adds"] for row in children) <= report["multiply_adds"]


def test_the_table_shows_modules_to_the_chosen_depth(capsys):
    analyze.main(["--config-file", "demo/shapes_R_18.yaml", "--height", "64", "--width", "64", "--depth", "1"])
    out = capsys.readouterr().out
    assert "backbone (" in out and "bottom_up" not in out and "64 x 64" in out


def test_sizes_follow_the_config():
    from adet_ext.config import load_config

    assert analyze.config_size(load_config("BlendMask/R_50_1x.yaml")) == (800, 1088)
    assert analyze.config_size(load_config("BlendMask/550_R_50_3x.yaml")) == (550, 736)


DEMOS = [
    "shapes_R_18",
    "shapes_panoptic_R_18",
    "shapes_smalmask_R_18",
    "shapes_dr1mask_R_18",
    "shapes_dr1mask_panoptic_R_18",
    "pennfudan_smalmask_R_18",
]


@pytest.mark.parametrize("config", [*(f"demo/{name}.yaml" for name in DEMOS), "SmalMask/smooth_R_50_1x.yaml"])
def test_the_references_cost_what_the_compiled_operators_do(config, monkeypatch):
    from adet_ext.benchmark.analysis import analyze as count
    from adet_ext.config import load_config
    from adet_ext.layers import extension

    cfg = load_config(config)
    native = count(cfg, 64, 96)
    monkeypatch.setattr(extension, "_DEVICES", {})
    reference = count(cfg, 64, 96)
    assert native.table(9) == reference.table(9)


def test_a_dynamic_rank_1_convolution_costs_what_a_plain_one_does():
    from adet_ext.layers.dr1_conv import DR1Conv2d

    x = torch.zeros(1, 16, 14, 15).contiguous(memory_format=torch.channels_last)
    cost = measure(DR1Conv2d(16, 32), [x])
    assert cost.multiply_adds[""] == 14 * 15 * 16 * 32 * 9 and cost.activations[""] == 32 * 14 * 15


def test_elementwise_operations_are_those_of_biases_norms_and_activations_that_are_modules():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.act, self.pool = (
                nn.Conv2d(3, 4, 1),
                nn.BatchNorm2d(4),
                nn.ReLU6(),
                nn.MaxPool2d(2),
            )
            self.plain, self.group = nn.Conv2d(4, 4, 1, bias=False), nn.GroupNorm(2, 4)

        def forward(self, x):
            x = self.pool(self.act(self.norm(self.conv(x))))
            return nn.functional.relu(self.group(self.plain(x)))

    cost = measure(Model(), [torch.zeros(2, 3, 8, 8)])
    assert cost.elementwise["conv"] == cost.elementwise["act"] == 2 * 4 * 64
    assert cost.elementwise["norm"] == 2 * 2 * 4 * 64
    assert cost.elementwise["pool"] == 2 * 4 * 16
    assert cost.elementwise["plain"] == cost.elementwise["group"] == 0
    assert cost.elementwise[""] == 2 * 4 * (64 * 4 + 16)
    assert cost.operations() == cost.multiply_adds[""] + cost.elementwise[""]


def test_frozen_norms_folded_into_convolutions_are_no_biases():
    from adet_ext.d2.layers import Conv2d, get_norm

    model = Conv2d(3, 4, 1, bias=False, norm=get_norm("FrozenBN", 4)).eval()
    assert measure(model, [torch.zeros(1, 3, 8, 8)]).elementwise[""] == 0


def test_of_deformable_convolutions_only_real_biases_count():
    from torchvision.ops import DeformConv2d

    class Model(nn.Module):
        def __init__(self, bias):
            super().__init__()
            self.conv = DeformConv2d(4, 6, 3, padding=1, bias=bias)

        def forward(self, x):
            return self.conv(x, x.new_zeros(1, 18, 5, 7))

    counts = [measure(Model(bias), [torch.zeros(1, 4, 5, 7)]).elementwise[""] for bias in (True, False)]
    assert counts == [6 * 35, 0]


def test_frozen_parameters_are_not_trainable_ones():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))
    model[0].requires_grad_(False)
    cost = measure(model, [torch.zeros(1, 3, 4, 4)])
    assert (cost.parameters[""], cost.trainable[""], cost.trainable["0"]) == (26, 10, 0)


def test_nothing_is_computed_on_the_meta_device():
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.MaxPool2d(2)).eval()
    x = torch.zeros(1, 3, 10, 10)
    real = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.MaxPool2d(2))
    assert measure(model, [x.to("meta")]).operations() == measure(real, [x]).operations() > 0
