"""Published checkpoints load: their names, made by the rules of the released code, are the model's own."""

import re

import pytest
import torch
import torchvision
from nas_fcos.__main__ import main as nas_fcos_main
from nas_fcos.checkpoint import from_public, from_torchvision_mobilenet
from nas_fcos.genotype import FPNGenotype, HeadGenotype, load_genotype, save_genotype
from nas_fcos.table import CONFIGS

from adet_ext import load_config
from adet_ext.d2.modeling import build_model
from adet_ext.engine.checkpoint import AdetCheckpointer
from adet_ext.errors import UserError

SEPARABLE = {"sep_conv_3x3": 3, "sep_conv_3x3_dil3": 3, "sep_conv_5x5_dil6": 5}


def conv(name, out, inputs, kernel, bias=False):
    return {f"{name}.weight": (out, inputs, kernel, kernel), **({f"{name}.bias": (out,)} if bias else {})}


def norm(name, channels, kind="batch"):
    keys = ["weight", "bias"] + ["running_mean", "running_var"] * (kind != "group")
    return {f"{name}.{k}": (channels,) for k in keys} | ({f"{name}.num_batches_tracked": ()} if kind == "batch" else {})


def operation(name, op, c, kind):
    if op in SEPARABLE:
        at = f"{name}.op.sep_0"
        return conv(f"{at}.0", c, 1, SEPARABLE[op]) | conv(f"{at}.1", c, c, 1) | norm(f"{at}.2", c, kind)
    if op == "deformable_3x3":
        dcn = conv(f"{name}.dcn.0", c, c, 3, True) | conv(f"{name}.dcn.0.conv_offset_mask", 54, c, 3, True)
        return dcn | norm(f"{name}.dcn.1", c, kind)
    if op == "skip":
        return {}
    return conv(f"{name}.0", c, c, int(op[-1])) | norm(f"{name}.1", c, kind)


def resnet(blocks=(3, 4, 6, 3)):
    shapes = conv("stem.conv1", 64, 3, 7) | norm("stem.bn1", 64, "frozen")
    inputs = 64
    for stage, count in enumerate(blocks, start=1):
        width, out = 64 * 2 ** (stage - 1), 256 * 2 ** (stage - 1)
        for i in range(count):
            at = f"layer{stage}.{i}"
            for k, (a, b, size) in enumerate([(width, inputs, 1), (width, width, 3), (out, width, 1)], start=1):
                shapes |= conv(f"{at}.conv{k}", a, b, size) | norm(f"{at}.bn{k}", a, "frozen")
            if i == 0:
                shapes |= conv(f"{at}.downsample.0", out, inputs, 1) | norm(f"{at}.downsample.1", out, "frozen")
            inputs = out
    return shapes, (256, 512, 1024, 2048)


def mobilenet():
    shapes, inputs, at = conv("features.0.0", 32, 3, 3) | norm("features.0.1", 32), 32, 1
    for t, out, count in [(1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1)]:
        for _ in range(count):
            wide = t * inputs
            parts = [(wide, inputs, 1)] * (t > 1) + [(wide, 1, 3), (out, wide, 1)]
            for i, (a, b, size) in enumerate(parts):
                shapes |= conv(f"features.{at}.conv.{3 * i}", a, b, size) | norm(f"features.{at}.conv.{3 * i + 1}", a)
            inputs, at = out, at + 1
    return shapes, (24, 32, 96, 320)


def fcos_head(c):
    shapes = {}
    for tower in ("cls_tower", "bbox_tower"):
        for i in range(4):
            shapes |= conv(f"{tower}.{3 * i}", c, c, 3, True) | norm(f"{tower}.{3 * i + 1}", c, "group")
    return shapes


def found_head(genotype, c):
    shapes = {}
    for tower in ("_cls", "_reg"):
        for i, op in enumerate(genotype.operations):
            if i >= genotype.share_from:
                at = i - genotype.share_from
                shapes |= operation(f"{tower}_head_global_ops.{at}", op, c, "group")
            else:
                for level in range(5):
                    shapes |= operation(f"{tower}_head_split_ops.{level}.{i}", op, c, "group")
    return shapes


def public_shapes(body, fpn, head, c, classes):
    """The names and shapes that the released code makes: encoder, decoder.fpn, decoder.rpn.head."""
    shapes = {f"encoder.body.{k}": v for k, v in body[0].items()}
    for i, inputs in enumerate(body[1], start=1):
        shapes |= conv(f"decoder.fpn.adapt{i}.0", c, inputs, 1) | norm(f"decoder.fpn.adapt{i}.1", c)
    for t, block in enumerate(fpn.blocks):
        at = f"decoder.fpn._ops.{t}"
        for j, op in enumerate(block.operations):
            shapes |= operation(f"{at}.{j}", op, c, "batch")
        if block.aggregation == "sum":
            shapes |= {f"{at}.2.a": (c,), f"{at}.2.b": (c,)}
        else:
            shapes |= norm(f"{at}.2.conv1x1.0", 2 * c) | conv(f"{at}.2.conv1x1.2", c, 2, 1)
    for name in ("p6", "p7"):
        shapes |= conv(f"decoder.fpn.top_blocks.{name}", c, c, 3, True)
    predictors = {"cls_logits": classes, "bbox_pred": 4, "centerness": 1}
    head |= {k: v for name, out in predictors.items() for k, v in conv(name, out, c, 3, True).items()}
    head |= {f"scales.{level}.scale": (1,) for level in range(5)}
    return shapes | {f"decoder.rpn.head.{k}": v for k, v in head.items()}


FPN, HEAD = load_genotype("nas_fcos_fpn"), load_genotype("nas_fcos_head")


@pytest.mark.parametrize(
    "name, body, head",
    [
        ("NAS_FCOS_256_R_50_1x", resnet(), found_head(HEAD, 256)),
        ("NAS_FCOS_256_R_101_2x", resnet((3, 4, 23, 3)), found_head(HEAD, 256)),
        ("NAS_FCOS_256_MNV2_1x", mobilenet(), found_head(HEAD, 256)),
        ("NAS_FCOS_f_R_50_1x", resnet(), fcos_head(256)),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_released_models_names_and_shapes_are_the_config_s(name, body, head, prefix):
    shapes = public_shapes(body, FPN, head, 256, 80)
    state = from_public({prefix + k: torch.empty(v, device="meta") for k, v in shapes.items()})
    with torch.device("meta"):
        model = build_model(load_config(str(CONFIGS / f"{name}.yaml"), ["MODEL.DEVICE", "meta"]))
    ours = {k: v.shape for k, v in model.state_dict().items()}
    assert {k: v.shape for k, v in state.items()} == ours


def test_a_published_file_is_converted_and_loads_every_weight(small_config, tmp_path, capsys):
    """With every operation and aggregation, a share index, and values that tell the tensors apart."""
    fpn = FPNGenotype.from_numbers([[3, 3, 0, 1, 0], [2, 2, 2, 4, 1], [1, 4, 3, 4, 1], [0, 5, 3, 0, 0]])
    head = HeadGenotype(("conv_1x1", "sep_conv_3x3", "deformable_3x3", "skip", "conv_3x3"), share_from=2)
    paths = [tmp_path / "fpn.json", tmp_path / "head.json"]
    for genotype, path in zip((fpn, head), paths):
        save_genotype(genotype, path)
    fpn = FPNGenotype.from_numbers([[3, 3, 0, 1, 0], [2, 2, 2, 4, 1], [1, 1, 3, 4, 1]])
    save_genotype(fpn, paths[0])
    torch.manual_seed(0)
    shapes = public_shapes(mobilenet(), fpn, found_head(head, 32), 32, 3)
    state = {k: torch.randn(v) for k, v in shapes.items()}
    source, target = tmp_path / "public.pth", tmp_path / "ours.pth"
    torch.save({"model": state, "iteration": 5}, source)

    assert nas_fcos_main(["convert", str(source), str(target)]) == 0
    assert capsys.readouterr().out == f"wrote {target}: {len(state)} tensors\n"
    overrides = ("MODEL.NAS_FCOS.FPN", str(paths[0]), "MODEL.NAS_FCOS.HEAD", str(paths[1]))
    model = build_model(small_config("NAS_FCOS_256_MNV2_1x", *overrides))
    checkpointer = AdetCheckpointer(model)
    checkpointer.load_to_predict(str(target))
    assert not checkpointer.incompatible.missing_keys and not checkpointer.incompatible.unexpected_keys
    ours = model.state_dict()
    for theirs, name in (
        ("encoder.body.features.4.conv.3.weight", "backbone.bottom_up.features.4.conv.3.weight"),
        ("decoder.fpn.adapt1.1.bias", "backbone.fpn.adapters.0.1.bias"),
        ("decoder.fpn._ops.0.2.b", "backbone.fpn.cells.0.merge.b"),
        ("decoder.fpn._ops.0.1.op.sep_0.0.weight", "backbone.fpn.cells.0.second.0.weight"),
        ("decoder.fpn._ops.1.1.dcn.0.conv_offset_mask.bias", "backbone.fpn.cells.1.second.0.offset.bias"),
        ("decoder.fpn._ops.1.2.conv1x1.0.running_var", "backbone.fpn.cells.1.merge.0.running_var"),
        ("decoder.rpn.head._reg_head_split_ops.3.1.op.sep_0.2.weight", "bbox_tower.own.3.1.2.weight"),
        ("decoder.rpn.head._cls_head_global_ops.0.dcn.0.weight", "cls_tower.shared.0.0.conv.weight"),
        ("decoder.rpn.head._cls_head_global_ops.2.0.weight", "cls_tower.shared.2.0.weight"),
        ("decoder.rpn.head.centerness.bias", "ctrness.bias"),
        ("decoder.rpn.head.scales.4.scale", "scales.4.scale"),
    ):
        head_name = f"proposal_generator.fcos_head.{name}"
        torch.testing.assert_close(ours[name if name in ours else head_name], state[theirs])


def test_frozen_norms_compute_what_they_did():
    """maskrcnn-benchmark divides by sqrt(var); Detectron2 by sqrt(var + eps)."""
    state = public_shapes(resnet(), FPN, found_head(HEAD, 256), 256, 80)
    state = {k: torch.full(v, 1e-3) if len(v) == 1 else torch.empty(v, device="meta") for k, v in state.items()}
    ours = from_public(state)
    from adet_ext.d2.layers import FrozenBatchNorm2d

    norm = FrozenBatchNorm2d(64)
    prefix = "backbone.bottom_up.stem.conv1.norm."
    norm.load_state_dict({k.removeprefix(prefix): v for k, v in ours.items() if k.startswith(prefix)})
    x = torch.randn(1, 64, 3, 3)
    torch.testing.assert_close(norm(x), (x - 1e-3) * 1e-3 / 1e-3**0.5 + 1e-3)
    assert ours["backbone.fpn.adapters.0.1.running_var"][0] == pytest.approx(1e-3)  # trained norms had their eps


@pytest.mark.parametrize("names", [["backbone.stem.weight"], ["encoder.body.stem.conv1.weight"], []])
def test_another_file_is_refused_by_one_sentence(names, tmp_path, capsys):
    state = {name: torch.zeros(1) for name in names}
    with pytest.raises(UserError, match="must have encoder.body, decoder.fpn and decoder.rpn.head; got"):
        from_public(state)
    torch.save(state, tmp_path / "other.pth")
    assert nas_fcos_main(["convert", str(tmp_path / "other.pth"), str(tmp_path / "ours.pth")]) == 2
    said = capsys.readouterr().err
    assert "other.pth cannot be converted" in said and said.count("\n") == 1
    assert not (tmp_path / "ours.pth").exists()


def test_torchvision_s_mobilenet_gives_the_same_features(tmp_path):
    """On RGB images in 0..1 there, on BGR images in 0..255 here."""
    torch.manual_seed(0)
    theirs = torchvision.models.mobilenet_v2(weights=None).eval()
    config = load_config(str(CONFIGS / "NAS_FCOS_128_MNV2_1x.yaml"), ["MODEL.DEVICE", "cpu"])
    model = build_model(config).eval()
    left = model.load_state_dict(from_torchvision_mobilenet(theirs.state_dict()), strict=False)
    assert not left.unexpected_keys and not any("bottom_up" in name for name in left.missing_keys)
    rgb = torch.rand(1, 3, 64, 64)
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    bgr = rgb.flip(1) * 255
    with torch.no_grad():
        expected = theirs.features[:18]((rgb - mean) / std)
        found = model.backbone.bottom_up((bgr - model.pixel_mean) / model.pixel_std)["res5"]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    with pytest.raises(UserError, match="must be those of torchvision's mobilenet_v2"):
        from_torchvision_mobilenet({"features.0.0.weight": torch.zeros(1)})


def test_the_project_s_verbs_are_beside_those_of_the_package(capsys):
    assert nas_fcos_main(["--help"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^  train ", said, re.M) and re.search(r"^  table ", said, re.M)
