"""Classifiers of torchvision and timm as weights of a model's body."""

import logging

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from adet_ext.config import get_cfg
from adet_ext.d2.layers import ShapeSpec
from adet_ext.d2.modeling import BACKBONE_REGISTRY, build_model
from adet_ext.engine.checkpoint import AdetCheckpointer
from adet_ext.engine.foreign_names import recognize
from adet_ext.engine.predictor import Predictor
from adet_ext.errors import UserError

from ..modeling.conftest import TINY

_FEATURES = ("MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"])
_RESNET = ("build_resnet_backbone", *_FEATURES, "MODEL.RESNETS.STRIDE_IN_1X1", False, "MODEL.RESNETS.DEPTH")
_SMALL = ("MODEL.RESNETS.RES2_OUT_CHANNELS", 64)
_NEXT = ("MODEL.RESNETS.NUM_GROUPS", 32, "MODEL.RESNETS.WIDTH_PER_GROUP")
_LITE = ("build_efficientnet_lite_backbone", *_FEATURES, "MODEL.EFFICIENTNET_LITE.VARIANT")
_MOBILE = ("build_mnv2_backbone", *_FEATURES)
# The name of the model in its library; the builder of the body and its keys.
_TORCHVISION = {
    "resnet18": (*_RESNET, 18, *_SMALL),
    "resnet50": (*_RESNET, 50),
    "resnet152": (*_RESNET, 152),
    "resnext50_32x4d": (*_RESNET, 50, *_NEXT, 4),
    "mobilenet_v2": _MOBILE,
}
_TIMM = {
    **{name: _TORCHVISION[name] for name in ("resnet18", "resnet50", "resnext50_32x4d")},
    "mobilenetv2_100": _MOBILE,
    "tf_efficientnet_lite0": (*_LITE, "lite0"),
    "tf_efficientnet_lite1": (*_LITE, "lite1"),
    "tf_efficientnet_lite4": (*_LITE, "lite4"),
    "efficientnet_lite0": (*_LITE, "lite0", "MODEL.EFFICIENTNET_LITE.PADDING", "symmetric")
    + ("MODEL.EFFICIENTNET_LITE.NORM_EPS", 1e-5),
}
_NUMERIC = [
    *(("torchvision", "resnet18", "pth"), ("torchvision", "mobilenet_v2", "safetensors")),
    *(("timm", "resnext50_32x4d", "safetensors"), ("timm", "mobilenetv2_100", "pth")),
    *(("timm", "tf_efficientnet_lite0", "safetensors"), ("timm", "efficientnet_lite0", "pth")),
]


def _body(builder: str, *keys, device: str = "cpu") -> nn.Module:
    cfg = get_cfg()
    cfg.merge_from_list(list(keys))
    with torch.device(device):
        return BACKBONE_REGISTRY.get(builder)(cfg, ShapeSpec(channels=3)).eval()


def _make(library: str, name: str, device: str) -> nn.Module:
    with torch.device(device):
        if library == "torchvision":
            return getattr(torchvision.models, name)().eval()
        return pytest.importorskip("timm").create_model(name).eval()


def _features(model: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """The last output at each of the strides 4, 8, 16 and 32 below the head."""
    last: dict[int, torch.Tensor] = {}
    stages = [getattr(model, f"layer{i}", None) for i in range(1, 5)]
    if stages[0] is None:
        layers = model.features[:-1] if hasattr(model, "features") else model.blocks
        stages = list(layers)
    for stage in stages:
        stage.register_forward_hook(lambda module, inputs, output: last.__setitem__(output.shape[-1], output))
    model(images)
    return [last[images.shape[-1] // stride] for stride in (4, 8, 16, 32)]


_CASES = [("torchvision", name) for name in _TORCHVISION] + [("timm", name) for name in _TIMM]


@pytest.mark.parametrize("library, name", _CASES)
def test_every_tensor_of_the_body_has_its_counterpart(library, name):
    theirs = _make(library, name, "meta").state_dict()
    ours = _body(*{**_TIMM, **_TORCHVISION}[name], device="meta").state_dict()
    found = recognize(theirs).names
    assert {new: tuple(theirs[old].shape) for old, new in found.items() if new in ours} == {
        new: tuple(value.shape) for new, value in ours.items() if not new.endswith("num_batches_tracked")
    } | {new: () for new in ours if new.endswith("num_batches_tracked")}
    left_out = {old for old in theirs if found.get(old) not in ours and not old.endswith("num_batches_tracked")}
    assert {old.split(".")[0] for old in left_out} <= {"fc", "classifier", "conv_head", "bn2", "features"}


@pytest.mark.parametrize("library, name, kind", _NUMERIC)
def test_features_are_those_of_the_library(library, name, kind, tmp_path):
    torch.manual_seed(0)
    theirs = _make(library, name, "cpu")
    for module in theirs.modules():  # statistics that matter
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    path = str(tmp_path / f"model.{kind}")
    (torch.save if kind == "pth" else save_file)(theirs.state_dict(), path)
    body = _body(*{**_TIMM, **_TORCHVISION}[name])
    checkpointer = AdetCheckpointer(body)
    checkpointer.load(path)
    assert not checkpointer.incompatible.missing_keys and not checkpointer.incompatible.incorrect_shapes
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for one, other in zip(body(images).values(), _features(theirs, images), strict=True):
            assert torch.allclose(one, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))


def test_names_of_timm_are_known_without_timm():
    names = ["conv_stem.weight", "bn1.running_var", "classifier.weight"]
    names += ["blocks.0.0.conv_dw.weight", "blocks.0.0.bn1.bias", "blocks.0.0.conv_pw.weight", "blocks.0.0.bn2.weight"]
    later = ["conv_pw.weight", "bn1.weight", "conv_dw.weight", "bn2.weight", "conv_pwl.weight", "bn3.weight"]
    repeats = [1, 2, 2, 3, 3, 4, 1]
    names += [f"blocks.{s}.{i}.{rest}" for s in range(1, 7) for i in range(repeats[s]) for rest in later]
    model = {name: torch.empty(32, 1, 5, 5) for name in names}
    lite = recognize(model).names
    assert lite["conv_stem.weight"] == "stem.weight" and lite["bn1.running_var"] == "stem.norm.running_var"
    assert lite["blocks.0.0.bn2.weight"] == "blocks.0.project.norm.weight" and "classifier.weight" not in lite
    assert lite["blocks.3.2.bn2.weight"] == "blocks.7.depthwise.norm.weight"
    assert lite["blocks.6.0.conv_pwl.weight"] == "blocks.15.project.weight"


def _detector() -> nn.Module:
    cfg = get_cfg()
    cfg.merge_from_list(TINY)
    return build_model(cfg)


def test_what_was_loaded_is_told_by_module_with_what_the_images_need(tmp_path, caplog):
    path = str(tmp_path / "resnet18.pth")
    torch.save(torchvision.models.resnet18().state_dict(), path)
    with caplog.at_level(logging.INFO):
        AdetCheckpointer(_detector()).load(path)
    text = caplog.text
    assert "loaded 100 of the model's" in text and ": backbone.bottom_up (100)" in text
    assert "left as they were: backbone.fpn_lateral3 (2)" in text and "left out: fc (2)" in text
    (warning,) = [
        x for x in map(logging.LogRecord.getMessage, caplog.records) if "a ResNet of torchvision or timm" in x
    ]
    assert "INPUT.FORMAT RGB" in warning
    assert "MODEL.PIXEL_MEAN [123.675, 116.28, 103.53], MODEL.PIXEL_STD [58.395, 57.12, 57.375]" in warning


def test_a_detector_with_a_backbones_weights_alone_does_not_predict(tmp_path):
    path = str(tmp_path / "resnet18.pth")
    torch.save(torchvision.models.resnet18().state_dict(), path)
    cfg = get_cfg()
    cfg.merge_from_list([*TINY, "MODEL.WEIGHTS", path])
    with pytest.raises(UserError, match="backbone alone, a ResNet of torchvision.*not trained.*would be noise"):
        Predictor(cfg)


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"conv1.0.weight": 1}, "a ResNet with a deep stem, which this package does not build"),
        ({"layer1.0.se.fc1.weight": 1}, "a variant of ResNet with layer1.0.se.fc1"),
    ],
)
def test_relatives_of_known_kinds_are_refused(change, sentence, tmp_path):
    state = {**torchvision.models.resnet18().state_dict(), **{name: torch.ones(1) for name in change}}
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(UserError, match=sentence):
        AdetCheckpointer(_detector()).load(str(tmp_path / "a.pth"))


def test_weights_of_another_kind_of_body_are_refused(tmp_path):
    torch.save(torchvision.models.mobilenet_v2().state_dict(), tmp_path / "a.pth")
    with pytest.raises(
        UserError, match="MobileNet-v2, whose .* do not fit the model's body, ResNet; set MODEL.BACKBONE"
    ):
        AdetCheckpointer(_detector()).load(str(tmp_path / "a.pth"))


def test_files_of_the_models_own_names_are_not_taken_for_foreign_ones(tmp_path):
    model = torchvision.models.resnet18()
    torch.save(model.state_dict(), tmp_path / "a.pth")
    checkpointer = AdetCheckpointer(torchvision.models.resnet18())
    checkpointer.load(str(tmp_path / "a.pth"))
    assert checkpointer.foreign is None and torch.equal(checkpointer.model.fc.weight, model.fc.weight)
