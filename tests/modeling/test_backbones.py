"""Backbones: names and numbers of AdelaiDet's, tops of the pyramid, freezing, and refusals.

The facts below (number of state-dict entries, number of parameters, sha256 of the sorted lines "KEY SHAPE",
mean absolute value of each output for the weights and the picture of ``_fill`` and ``_picture``) were taken
from AdelaiDet's own modules, for V-19-dw and V-19-slim-dw from VoVNet's.
"""

import hashlib

import pytest
import torch
from torch import nn

from adet_ext.config import get_cfg
from adet_ext.d2 import ENGINE
from adet_ext.d2.layers import FrozenBatchNorm2d, ShapeSpec
from adet_ext.d2.modeling import BACKBONE_REGISTRY, build_resnet_backbone
from adet_ext.modeling.backbone import LastLevelP6, LastLevelP6P7, MobileNetV2, VoVNet

_RES = ["res3", "res4", "res5"]
_LEVELS = ["level3", "level4", "level5"]
_STAGES = ["stage3", "stage4", "stage5"]
_RESNET = ["MODEL.RESNETS.OUT_FEATURES", _RES, "MODEL.FPN.IN_FEATURES", _RES]
_DEFORM = ["MODEL.RESNETS.DEFORM_INTERVAL", 3, "MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, True, True, True]]
_INTERVAL = _RESNET + _DEFORM
_DLA = ["MODEL.FPN.IN_FEATURES", _LEVELS, "MODEL.BACKBONE.FREEZE_AT", -1]
_VOVNET = ["MODEL.BACKBONE.FREEZE_AT", 0, "MODEL.FPN.IN_FEATURES", _STAGES]
_VOVNET += ["MODEL.VOVNET.OUT_FEATURES", _STAGES, "MODEL.VOVNET.CONV_BODY"]

# What a config says: the backbone's registered name and the keys that differ from the defaults.
_CASES = {
    "R-50": ("build_fcos_resnet_fpn_backbone", _RESNET),
    "R-50-P2-P6": (
        "build_fcos_resnet_fpn_backbone",
        ["MODEL.FPN.IN_FEATURES", ["res2", *_RES], "MODEL.FCOS.TOP_LEVELS", 1]
        + ["MODEL.RESNETS.OUT_FEATURES", ["res2", *_RES]],
    ),
    "R-50-dcn1i3": ("build_fcos_resnet_fpn_backbone", _INTERVAL),
    "R-101-dcni3": (
        "build_fcos_resnet_fpn_backbone",
        _INTERVAL + ["MODEL.RESNETS.DEPTH", 101, "MODEL.RESNETS.DEFORM_MODULATED", True],
    ),
    "MobileNetV2": ("build_fcos_resnet_fpn_backbone", _RESNET + ["MODEL.MOBILENET", True]),
    "DLA-34-RT": ("build_fcos_dla_fpn_backbone", _DLA + ["MODEL.DLA.NORM", "BN", "MODEL.FCOS.TOP_LEVELS", 0]),
    "DLA-34": ("build_fcos_dla_fpn_backbone", _DLA),
    "V-19": ("build_fcos_vovnet_fpn_backbone", _VOVNET + ["V-19-eSE"]),
    "V-39": ("build_fcos_vovnet_fpn_backbone", _VOVNET + ["V-39-eSE"]),
    "V-57": ("build_fcos_vovnet_fpn_backbone", _VOVNET + ["V-57-eSE"]),
    "V-99": ("build_fcos_vovnet_fpn_backbone", _VOVNET + ["V-99-eSE"]),
    "V-19-dw": ("build_vovnet_backbone", _VOVNET + ["V-19-dw-eSE"]),
    "V-19-slim": ("build_vovnet_backbone", _VOVNET + ["V-19-slim-eSE"]),
    "V-19-slim-dw": ("build_vovnet_backbone", _VOVNET + ["V-19-slim-dw-eSE"]),
}

# entries, parameters, sha256
_NAMES = {
    "R-50": (281, 27323584, "4b4b3423b869c50fdfa61bfbd86873f900bfe0f447b1e7064958b7064fd93987"),
    "R-50-P2-P6": (283, 27389376, "43026694b8a755184f9b7d7c0aec6e023f29cddbf4d4e952b744d3bef8600fd5"),
    "R-50-dcn1i3": (291, 27531034, "62b671276d00b93fa2589021d2821c6978e923c0060d3f46daed8b609bd4b920"),
    "R-101-dcni3": (558, 46948073, "ec05a93de0a99f81a45bb0bed5ee92ee16199144ba7809d2a93d3c7e3d500cd4"),
    "MobileNetV2": (322, 4877568, "49c240f685af0865bbaad63db3de1f4e8c58c5e85514d776266a9af3c9f880b6"),
    "DLA-34-RT": (246, 17271216, "1bc31842f72a96d3cb6dae4481146e9bc8e02b3fa2994bb88e15ab347a564617"),
    "DLA-34": (211, 18435120, "a8ee4c46b5bbe7baddc2361f66da2bfa4ca98cf83d0092c3a075a6756749ecc9"),
    "V-19": (119, 13711552, "a332d6e3ef127ea740cc985fa05b1ca6446c56a31ce7ad09d31d44b8053e7c91"),
    "V-39": (223, 28704704, "dd1f14fd4436272b06a9c58652216cb0bd02b85c20bfcbbf813b74ba2ae8b381"),
    "V-57": (319, 44964288, "ebd14696dc6c589d8f9ead6d6fc756c8130c2d4136319de51112b0b8cae18cbb"),
    "V-99": (543, 73010368, "bb2d131114d16bcaa325592f3c4e35aaee6c698aaf052c0c805f4425b194f554"),
    "V-19-dw": (137, 5506944, "a7ecfdb27fae166964227853547da2faa1872a8a117962c6f0bb6b493fe16060"),
    "V-19-slim": (103, 2647984, "34057fe7ec37749974749dcab3b8dabe0cf905ecaad474628727847caf8d73be"),
    "V-19-slim-dw": (132, 1379152, "af76f6169ba42591e409cecca2a445876a99ff3c28e6124cf62958bbe08b1a37"),
}

# mean absolute values of the outputs, finest first
_NUMBERS = {
    "R-50": [744.823, 664.065, 488.715, 453.414, 136.779],
    "R-50-dcn1i3": [212.998, 178.97, 112.006, 103.301, 31.8492],
    "MobileNetV2": [9.84325, 7.81682, 2.71148, 2.43662, 0.820093],
    "DLA-34": [38.785, 35.7062, 25.591, 23.644, 7.6342],
    "V-19": [0.514876, 0.260572, 0.118366, 0.111699, 0.0618897],
    "V-39": [0.490085, 0.282891, 0.151536, 0.160685, 0.0678198],
    "V-19-dw": [1.1246, 1.37109, 1.64192],
    "V-19-slim": [0.136813, 0.0766981, 0.0444181],
    "V-19-slim-dw": [0.88818, 0.699608, 0.720027],
}


def _config(name: str, *opts):
    builder, own = _CASES[name]
    cfg = get_cfg()
    cfg.merge_from_list([*own, *opts])
    return builder, cfg


def _build(name: str, *opts) -> nn.Module:
    builder, cfg = _config(name, *opts)
    return BACKBONE_REGISTRY.get(builder)(cfg, ShapeSpec(channels=3))


def _build_filled(name: str, *opts) -> nn.Module:
    """Without the time that drawing initial weights would take."""
    with torch.device("meta"):
        model = _build(name, *opts)
    return _fill(model.to_empty(device="cpu"))


def _noise(count: int, seed: int) -> torch.Tensor:
    """Values in [-0.5, 0.5) that look random and depend on no generator; they repeat after 65,537."""
    x = torch.sin(torch.arange(1, min(count, 65537) + 1, dtype=torch.float64) * 12.9898 + seed * 78.233)
    x = x * 43758.5453
    x = (x - x.floor() - 0.5).float()
    return x.repeat(-(-count // len(x)))[:count]


@torch.no_grad()
def _fill(module: nn.Module) -> nn.Module:
    """Gives each entry of the state dict the values that its place in the sorted list of keys says."""
    for seed, (key, value) in enumerate(sorted(module.state_dict().items())):
        if not value.is_floating_point():
            value.zero_()
            continue
        noise = _noise(value.numel(), seed).reshape(value.shape)
        if value.dim() > 1:
            noise = noise * (24.0 / value[0].numel()) ** 0.5
        elif key.endswith(("running_var", "weight")):
            noise = 1 + 0.2 * noise
        else:
            noise = 0.2 * noise
        value.copy_(noise)
    return module


def _picture(images: int = 1) -> torch.Tensor:
    return 2 * _noise(images * 3 * 64 * 64, 1000).reshape(images, 3, 64, 64)


@pytest.mark.parametrize("name", _NAMES)
def test_names_and_shapes_are_those_of_published_weights(name):
    with torch.device("meta"):
        model = _build(name)
    state = model.state_dict()
    lines = "\n".join(sorted(f"{key} {tuple(value.shape)}" for key, value in state.items()))
    assert (
        len(state),
        sum(parameter.numel() for parameter in model.parameters()),
        hashlib.sha256(lines.encode()).hexdigest(),
    ) == _NAMES[name]


@pytest.mark.parametrize("name", _NUMBERS)
def test_outputs_are_the_reference_implementations(name):
    model = _build_filled(name).eval()
    with torch.no_grad():
        outputs = model(_picture())
    shapes = model.output_shape()
    assert list(outputs) == list(shapes)
    for feature, output in outputs.items():
        side = -(-64 // shapes[feature].stride)
        assert output.shape == (1, shapes[feature].channels, side, side)
    means = [float(output.abs().mean()) for output in outputs.values()]
    assert means == pytest.approx(_NUMBERS[name], rel=1e-4)


@pytest.mark.parametrize("name", ["R-50-dcn1i3", "MobileNetV2", "DLA-34-RT", "V-19-slim-dw"])
def test_every_trained_parameter_gets_a_gradient(name):
    if "dcn" in name and ENGINE == "detectron2":
        pytest.skip("Detectron2's deformable convolution has no backward on a CPU")
    model = _build_filled(name).train()
    outputs = model(_picture(images=2))
    sum(output.square().mean() for output in outputs.values()).backward()
    for key, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key
        assert parameter.grad is None or parameter.grad.isfinite().all(), key


@pytest.mark.parametrize(
    "name, strides",
    [
        ("R-50", {"p3": 8, "p4": 16, "p5": 32, "p6": 64, "p7": 128}),
        ("R-50-P2-P6", {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}),
        ("MobileNetV2", {"p3": 8, "p4": 16, "p5": 32, "p6": 64, "p7": 128}),
        ("DLA-34-RT", {"p3": 8, "p4": 16, "p5": 32}),
        ("V-39", {"p3": 8, "p4": 16, "p5": 32, "p6": 64, "p7": 128}),
        ("V-19-slim", {"stage3": 8, "stage4": 16, "stage5": 32}),
    ],
)
def test_levels_are_named_by_their_strides(name, strides):
    with torch.device("meta"):
        model = _build(name)
    assert {feature: shape.stride for feature, shape in model.output_shape().items()} == strides


@pytest.mark.parametrize(
    "name, feature, channels",
    [
        ("R-50", "res5", 2048),
        ("MobileNetV2", "res5", 320),
        ("DLA-34", "level5", 512),
        ("V-39", "stage5", 1024),
    ],
)
def test_p6_can_start_from_c5_whatever_the_body_calls_it(name, feature, channels):
    with torch.device("meta"):
        top = _build(name, "MODEL.FCOS.TOP_FEATURE", "res5").top_block
        assert (top.in_feature, top.p6.in_channels, top.p7.in_channels) == (feature, channels, 256)
        top = _build(name, "MODEL.FPN.OUT_CHANNELS", 64).top_block
        assert (top.in_feature, top.p6.in_channels, top.p7.in_channels) == ("p5", 64, 64)


def test_norm_and_fusion_of_the_pyramid_follow_the_config():
    with torch.device("meta"):
        normed = _build("V-19", "MODEL.FPN.NORM", "GN")
    assert isinstance(normed.fpn_lateral3.norm, nn.GroupNorm) and normed.fpn_output5.bias is None
    summed, averaged = (_build_filled("V-19", "MODEL.FPN.FUSE_TYPE", kind).eval() for kind in ("sum", "avg"))
    picture = _picture()
    with torch.no_grad():
        summed, averaged = summed(picture), averaged(picture)
    assert torch.equal(summed["p5"], averaged["p5"])
    assert not torch.allclose(summed["p4"], averaged["p4"])


def test_p6_of_the_pyramid_is_computed_from_the_feature_named():
    for source, feature in (("p5", "p5"), ("res5", "level5")):
        model = _build_filled("DLA-34", "MODEL.FCOS.TOP_FEATURE", source).eval()
        picture = _picture()
        with torch.no_grad():
            outputs = model(picture)
            features = {**model.bottom_up(picture), **outputs}
            assert torch.equal(outputs["p6"], model.top_block.p6(features[feature]))


def test_p7_sees_the_rectified_p6_and_p6_stays_signed():
    top = _fill(LastLevelP6P7(in_channels=4, out_channels=4, in_feature="p5"))
    p6, p7 = top(_picture(images=4).reshape(1, 4, 96, 128))
    assert p6.shape == (1, 4, 48, 64) and p7.shape == (1, 4, 24, 32)
    assert (p6 < 0).any()
    assert torch.equal(p7, top.p7(p6.clamp(min=0)))
    assert (LastLevelP6(in_channels=4, out_channels=4).num_levels, top.num_levels) == (1, 2)


def _build_interval(*opts) -> nn.Module:
    """The body alone, without values."""
    _, cfg = _config("R-50-dcn1i3", *opts)
    with torch.device("meta"):
        return BACKBONE_REGISTRY.get("build_resnet_interval_backbone")(cfg, ShapeSpec(channels=3))


def test_every_third_block_of_a_deformable_stage_is_deformable():
    blocks = [key for key, module in _build_interval().named_modules() if hasattr(module, "conv2_offset")]
    assert blocks == ["res3.0", "res3.3", "res4.0", "res4.3", "res5.0"]


@pytest.mark.parametrize("modulated", [False, True])
def test_interval_one_is_the_plain_deformable_resnet(modulated):
    opts = ["MODEL.RESNETS.DEFORM_INTERVAL", 1, "MODEL.RESNETS.DEFORM_MODULATED", modulated]
    _, cfg = _config("R-50-dcn1i3", *opts)
    with torch.device("meta"):
        plain = build_resnet_backbone(cfg, ShapeSpec(channels=3)).state_dict()
    interval = _build_interval(*opts).state_dict()
    assert list(plain) == list(interval)
    assert all(plain[key].shape == interval[key].shape for key in plain)


def test_interval_resnet_builds_no_stage_past_the_last_one_asked_for():
    model = _build_interval("MODEL.RESNETS.OUT_FEATURES", ["res3", "res4"])
    assert not any(key.startswith("res5") for key in model.state_dict())


def _trained(model: nn.Module) -> set[str]:
    """The first parts of the names of what has trained parameters."""
    return {key.split(".")[0] for key, parameter in model.named_parameters() if parameter.requires_grad}


def test_interval_resnet_freezes_stem_and_first_stage():
    model = _build_interval("MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_AT", 2)
    assert _trained(model) == {"res3", "res4", "res5"}
    assert isinstance(model.stem.conv1.norm, FrozenBatchNorm2d)
    assert isinstance(model.res3[0].conv1.norm, nn.BatchNorm2d)


@pytest.mark.parametrize("freeze_at, trained", [(-1, 5), (0, 5), (1, 4), (2, 3), (5, 0)])
def test_vovnet_freezes_the_first_parts_with_their_norms(freeze_at, trained):
    model = VoVNet(body="V-19-slim-eSE", norm="BN", out_features=["stage5"], freeze_at=freeze_at)
    parts = ["stem", "stage2", "stage3", "stage4", "stage5"]
    assert _trained(model) == set(parts[len(parts) - trained :])
    for index, part in enumerate(parts):
        kinds = {type(module) for module in getattr(model, part).modules()}
        kinds &= {nn.BatchNorm2d, FrozenBatchNorm2d}
        assert kinds == {FrozenBatchNorm2d if index < freeze_at else nn.BatchNorm2d}


@pytest.mark.parametrize("freeze_at", [-1, 0, 2, 18])
def test_mobilenet_freezes_the_first_layers(freeze_at):
    model = MobileNetV2(out_features=["res5"], freeze_at=freeze_at)
    frozen = [not any(p.requires_grad for p in layer.parameters()) for layer in model.features]
    assert frozen == [index < freeze_at for index in range(18)]
    assert list(model.eval()(_picture())) == ["res5"]


def test_projections_that_dla_never_uses_change_nothing_and_get_zero_gradients():
    model = _build_filled("DLA-34-RT").train()
    before = model(_picture(images=2))
    nn.init.constant_(model.bottom_up.level3.project[0].weight, 7.0)
    after = model(_picture(images=2))
    assert all(torch.equal(before[key], after[key]) for key in before)
    after["p5"].sum().backward()
    assert not model.bottom_up.level3.project[0].weight.grad.any()


_REFUSALS = [
    ("R-50", ["MODEL.BACKBONE.ANTI_ALIAS", True], "ANTI_ALIAS.*SmalMask"),
    ("R-50", ["MODEL.FCOS.TOP_LEVELS", 3], "TOP_LEVELS is 3"),
    ("R-50", ["MODEL.FCOS.TOP_FEATURE", "p4"], "TOP_FEATURE is 'p4'"),
    ("R-50", ["MODEL.FPN.IN_FEATURES", ["res3", "res4"]], "ends with 'res4' at stride 16"),
    ("R-50", ["MODEL.FPN.IN_FEATURES", ["res2", "res3"]], r"ResNet gives \['res3', 'res4', 'res5'\]"),
    ("R-50-dcn1i3", ["MODEL.RESNETS.DEPTH", 18], "DEPTH must be 50, 101 or 152 with DEFORM_INTERVAL 3"),
    ("R-50-dcn1i3", ["MODEL.RESNETS.RES5_DILATION", 3], "RES5_DILATION must be 1 or 2; got 3"),
    ("MobileNetV2", ["MODEL.RESNETS.OUT_FEATURES", ["res1"]], "MobileNetV2 has no feature 'res1'"),
    ("MobileNetV2", ["MODEL.BACKBONE.FREEZE_AT", 19], "FREEZE_AT is 19"),
    ("DLA-34", ["MODEL.BACKBONE.FREEZE_AT", 2], "DLA cannot be frozen"),
    ("DLA-34", ["MODEL.DLA.CONV_BODY", "DLA60"], "CONV_BODY is 'DLA60'; there is DLA34"),
    ("DLA-34", ["MODEL.FPN.IN_FEATURES", ["res3"]], "DLA34 has no feature 'res3'"),
    ("V-39", ["MODEL.VOVNET.CONV_BODY", "V-40"], "CONV_BODY is 'V-40'.*V-39-eSE"),
    ("V-39", ["MODEL.VOVNET.OUT_FEATURES", ["stage6"]], "V-39-eSE has no feature 'stage6'"),
]


@pytest.mark.parametrize("name, opts, sentence", _REFUSALS)
def test_what_cannot_be_built_raises_with_the_key(name, opts, sentence):
    with torch.device("meta"), pytest.raises(ValueError, match=sentence):
        _build(name, *opts)
