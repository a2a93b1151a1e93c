"""The models train and detect; the FPN and the head are wired as the genotype says."""

from pathlib import Path

import pytest
import torch
from nas_fcos.fpn import GenotypeFPN
from nas_fcos.genotype import FPNGenotype, HeadGenotype, load_genotype, save_genotype
from nas_fcos.head import GenotypeTower

from adet_ext import load_config
from adet_ext.d2.modeling import build_model
from adet_ext.d2.structures import Boxes, Instances
from adet_ext.errors import UserError

CONFIG_FOLDER = Path(__file__).resolve().parents[1] / "configs"
CONFIGS = [
    "NAS_FCOS_256_R_50_1x", "NAS_FCOS_f_R_50_1x", "NAS_FCOS_h_R_50_1x", "DeformFPN_FCOS_R_50_1x", "FCOS_R_50_1x",
    "RetinaNet_R_50_1x", "NAS_FCOS_128_256_X_101_64x4d_2x_improved",
]  # fmt: skip
SMALL_CONFIGS = sorted(path for folder in ("search", "pennfudan") for path in (CONFIG_FOLDER / folder).glob("*.yaml"))
PLAIN_BODY = ("MODEL.RESNETS.NUM_GROUPS", "1", "MODEL.RESNETS.WIDTH_PER_GROUP", "64")


@pytest.mark.parametrize("path", SMALL_CONFIGS, ids=lambda path: path.stem)
def test_the_configs_of_searches_and_of_small_trainings_build(path):
    config = load_config(str(path), ["MODEL.DEVICE", "meta"])
    assert build_model(config)


@pytest.fixture
def batch():
    """Two images of different sizes, with two objects and one."""

    def one(height, width, boxes):
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
        instances.gt_classes = torch.arange(len(boxes)) % 3
        generator = torch.Generator().manual_seed(height)
        image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
        return {"image": image, "height": height, "width": width, "instances": instances}

    return [one(96, 128, [[10, 12, 60, 70], [50, 20, 120, 90]]), one(80, 90, [[5, 5, 80, 60]])]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_trains_in_all_its_parameters_and_detects(name, small_model, batch):
    model = small_model(name, *PLAIN_BODY)
    losses = model(batch)
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()
    idle = {k.rsplit(".", 2)[0] for k, p in model.named_parameters() if p.requires_grad and p.grad is None}
    # The adapter of C2, which no block of the genotype takes.
    assert idle == (
        {"backbone.fpn.adapters.0"} if name.startswith(("NAS_FCOS_256", "NAS_FCOS_128", "NAS_FCOS_f")) else set()
    )
    model.eval()
    with torch.no_grad():
        results = model(batch)
    assert [r["instances"].image_size for r in results] == [(96, 128), (80, 90)]


@pytest.mark.parametrize("name", ["NAS_FCOS_256_R_50_1x", "RetinaNet_R_50_1x"])
def test_an_image_without_objects_is_trained_on(name, small_model, batch):
    for x in batch:
        x["instances"] = x["instances"][:0]
    losses = small_model(name)(batch)
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_a_mobilenet_gives_its_four_features(small_model, batch):
    model = small_model("NAS_FCOS_128_MNV2_1x", "MODEL.RESNETS.DEPTH", "50")
    shapes = model.backbone.bottom_up.output_shape()
    assert [(s.channels, s.stride) for s in shapes.values()] == [(24, 4), (32, 8), (96, 16), (320, 32)]
    sum(model(batch).values()).backward()


def pyramid(genotype, *, width=8, out_channels=8, **options):
    torch.manual_seed(0)
    fpn = GenotypeFPN(
        genotype=genotype, in_channels=[4, 6, 8, 10], width=width, out_channels=out_channels, **options
    ).eval()
    body = [torch.randn(1, c, 64 // 2**i, 96 // 2**i) for i, c in enumerate([4, 6, 8, 10], start=2)]
    return fpn, body


def test_levels_have_the_sizes_of_the_body_s_features():
    fpn, body = pyramid(load_genotype("nas_fcos_fpn"))
    levels = fpn(body)
    assert list(levels) == ["p3", "p4", "p5", "p6", "p7"]
    assert [tuple(x.shape[1:]) for x in levels.values()] == [(8, 8, 12), (8, 4, 6), (8, 2, 3), (8, 1, 2), (8, 1, 1)]


SKIPS = [[3, 3, 3, 3, 0], [2, 2, 3, 3, 0], [1, 1, 3, 3, 0]]  # x1 = 2 C5, x2 = 2 C4, x3 = 2 C3


def test_the_first_of_the_last_three_blocks_is_p5_and_the_last_is_p3():
    fpn, body = pyramid(FPNGenotype.from_numbers(SKIPS))
    levels = fpn(body)
    for name, number in (("p5", 3), ("p4", 2), ("p3", 1)):
        torch.testing.assert_close(levels[name], 2 * fpn.adapters[number](body[number]))


def test_a_block_that_nobody_takes_is_added_to_all_levels_at_their_size():
    """Equation 7.1: x1 = 2 C5 is neither taken by a later block nor one of the last three."""
    fpn, body = pyramid(FPNGenotype.from_numbers([[3, 3, 3, 3, 0], *SKIPS]))
    levels = fpn(body)
    dangling = 2 * fpn.adapters[3](body[3])
    for name, number in (("p5", 3), ("p4", 2), ("p3", 1)):
        own = 2 * fpn.adapters[number](body[number])
        size = own.shape[-2:]
        added = torch.nn.functional.interpolate(dangling, size=size, mode="bilinear", align_corners=False)
        torch.testing.assert_close(levels[name], own + added)


def test_an_output_of_another_stride_is_brought_to_its_level():
    """P4 of the genotype that was found is made at stride 8."""
    fpn, body = pyramid(FPNGenotype.from_numbers([[3, 3, 3, 3, 0], [1, 1, 3, 3, 0], [1, 1, 3, 3, 0]]))
    made = 2 * fpn.adapters[1](body[1])
    expected = torch.nn.functional.interpolate(made, size=(4, 6), mode="bilinear", align_corners=False)
    torch.testing.assert_close(fpn(body)["p4"], expected)


def test_p7_is_made_of_the_rectified_p6():
    fpn, body = pyramid(FPNGenotype.from_numbers(SKIPS))
    levels = fpn(body)
    torch.testing.assert_close(levels["p6"], fpn.top_block.p6(levels["p5"]))
    torch.testing.assert_close(levels["p7"], fpn.top_block.p7(levels["p6"].relu()))


@pytest.mark.parametrize("name", ["nas_fcos_fpn", "sums"])
def test_levels_of_twice_the_width_come_without_a_convolution_that_mixes_channels(name, tmp_path):
    genotype = FPNGenotype.from_numbers(SKIPS) if name == "sums" else load_genotype(name)
    narrow, body = pyramid(genotype)
    wide, _ = pyramid(genotype, out_channels=16)
    assert [x.shape[1] for x in wide(body).values()] == [16] * 5
    extra = sum(p.numel() for p in wide.cells.parameters()) - sum(p.numel() for p in narrow.cells.parameters())
    assert extra == 2 * 8 * len(genotype.unsampled)  # two weights for each channel more
    assert [m.shape for m in wide.adapters.parameters()] == [m.shape for m in narrow.adapters.parameters()]


def test_in_several_processes_every_parameter_takes_part_with_the_same_values(monkeypatch):
    from nas_fcos import fpn as module

    fpn, body = pyramid(load_genotype("nas_fcos_fpn"))
    fpn.train()
    alone = fpn(body)
    monkeypatch.setattr(module.comm, "get_world_size", lambda: 2)
    together = fpn(body)
    for name in alone:
        torch.testing.assert_close(together[name], alone[name])
    sum(x.sum() for x in together.values()).backward()
    assert all(p.grad is not None for p in fpn.parameters())


def test_layers_before_the_share_index_are_each_level_s_own():
    tower = GenotypeTower(HeadGenotype(("conv_1x1", "conv_3x3", "skip"), share_from=1), 32, num_levels=5)
    assert len(tower.own) == 5 and len(tower.shared) == 2
    x = torch.randn(1, 32, 4, 4)
    assert not torch.equal(tower(x, 0), tower(x, 1))
    torch.testing.assert_close(tower(x, 2), tower.shared(tower.own[2](x)))
    shared = GenotypeTower(HeadGenotype(("conv_1x1", "conv_3x3", "skip")), 32, num_levels=5)
    assert len(shared.own) == 0
    torch.testing.assert_close(shared(x, 0), shared(x, 4))


def test_a_head_that_shares_nothing_costs_every_level_s_layers(small_model, tmp_path):
    counts = {}
    for share_from in (0, 1, 2):
        path = tmp_path / f"{share_from}.json"
        save_genotype(HeadGenotype(("conv_1x1", "conv_1x1"), share_from), path)
        model = small_model("NAS_FCOS_256_R_50_1x", "MODEL.NAS_FCOS.HEAD", str(path))
        counts[share_from] = sum(p.numel() for p in model.proposal_generator.fcos_head.cls_tower.parameters())
    layer = 32 * 32 + 64
    assert counts == {0: 2 * layer, 1: 6 * layer, 2: 10 * layer}


def test_f_only_has_fcos_head_and_h_only_has_fcos_fpn(small_model):
    f_only, h_only = small_model("NAS_FCOS_f_R_50_1x"), small_model("NAS_FCOS_h_R_50_1x")
    assert type(f_only.backbone).__name__ == "NASFPN" and len(f_only.proposal_generator.fcos_head.cls_tower) == 12
    assert type(h_only.backbone).__name__ == "FPN" and isinstance(
        h_only.proposal_generator.fcos_head.cls_tower, GenotypeTower
    )


@pytest.mark.parametrize(
    "overrides, message",
    [
        (("MODEL.NAS_FCOS.FPN", "nas_fcos_head"), "NAS_FCOS.FPN must name the genotype of an FPN; got nas_fcos_head"),
        (("MODEL.NAS_FCOS.HEAD", "nas_fcos_fpn"), "NAS_FCOS.HEAD must name the genotype of a head; got nas_fcos_fpn"),
        (("MODEL.NAS_FCOS.HEAD", "nobody"), "got 'nobody'"),
        (("MODEL.NAS_FCOS.WIDTH", "48"), "OUT_CHANNELS must be MODEL.NAS_FCOS.WIDTH or a multiple.*got 32 and 48"),
        (("MODEL.NAS_FCOS.WIDTH", "0"), "got 32 and 0"),
        (("MODEL.FPN.OUT_CHANNELS", "16", "MODEL.NAS_FCOS.WIDTH", "16"), "multiple of 32 .*; got 16"),
        (
            ("MODEL.FPN.IN_FEATURES", "['res3','res4','res5']"),
            "strides 4, 8, 16 and 32; got \\['res3', 'res4', 'res5'\\]",
        ),
        (("MODEL.RESNETS.OUT_FEATURES", "['res3','res4','res5']"), "the body gives res3 \\(stride 8\\)"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_by_one_sentence(small_model, overrides, message):
    with pytest.raises(UserError, match=message) as error:
        small_model("NAS_FCOS_256_R_50_1x", *overrides)
    assert "\n" not in str(error.value)


def test_a_genotype_with_two_outputs_is_refused_before_anything_is_built(small_model, tmp_path, monkeypatch):
    monkeypatch.setattr("nas_fcos.fpn.build_body", lambda *args: pytest.fail("the body was built"))
    path = tmp_path / "two.json"
    save_genotype(FPNGenotype.from_numbers([[3, 3, 0, 0, 0], [2, 4, 0, 0, 0], [3, 3, 0, 0, 0]]), path)
    with pytest.raises(UserError, match="3 blocks or more that no later block takes, for P3 to P5; got 2"):
        small_model("NAS_FCOS_256_R_50_1x", "MODEL.NAS_FCOS.FPN", str(path))


def test_deform_fpn_starts_as_an_fpn_of_plain_convolutions(small_model):
    """Two deformable convolutions for each of P3 to P5; P6 and P7 stay."""
    backbone = small_model("DeformFPN_FCOS_R_50_1x").backbone
    blocks = [backbone.fpn_output3, backbone.fpn_output4, backbone.fpn_output5]
    assert [len(b) for b in blocks] == [2, 2, 2]
    x = torch.randn(1, 32, 8, 8)
    expected = x
    for block in blocks[0]:
        expected = torch.nn.functional.conv2d(expected, block.conv.weight / 2, block.conv.bias, padding=1)
    torch.testing.assert_close(blocks[0](x), expected)
    with pytest.raises(UserError, match="DEFORM_REPEATS must be 1 or more; got 0"):
        small_model("DeformFPN_FCOS_R_50_1x", "MODEL.NAS_FCOS.DEFORM_REPEATS", "0")


@pytest.mark.parametrize("name", ["NAS_FCOS_256_R_50_1x", "RetinaNet_R_50_1x", "DeformFPN_FCOS_R_50_1x"])
def test_the_host_waits_for_nothing_before_the_results_leave(name, small_model, batch):
    from tests.modeling.host_waits import counted_waits, host_traffic

    model = small_model(name).eval()
    results, waits = counted_waits(model, batch)
    assert waits == []
    assert results.detections.boxes.shape == (2, 100, 4)
    assert host_traffic(model) == ([], [])
