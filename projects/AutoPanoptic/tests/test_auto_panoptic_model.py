"""The panoptic model and its parts: heads, attention, pooling, losses, predictions."""

from pathlib import Path

import pytest
import torch
from auto_panoptic.architecture import HEAD_LAYERS, REDUCTIONS
from auto_panoptic.attention import BranchAttention, change, joined_mean, upsampled_mean
from auto_panoptic.heads import DeformLayer, MaskHead, head_layer
from auto_panoptic.semantic import SemanticBranch
from auto_panoptic.two_stage import Pooler
from torch.nn import functional as F

from adet_ext import load_config
from adet_ext.d2.data import DatasetCatalog
from adet_ext.d2.modeling import build_model
from adet_ext.data.mapper import AdetDatasetMapper

PROJECT = Path(__file__).resolve().parents[1]
LOSSES = {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask", "loss_sem_seg"}


@pytest.mark.parametrize("name", HEAD_LAYERS)
def test_a_head_layer_keeps_the_size(name):
    torch.manual_seed(0)
    layer = head_layer(name, 32, 64)
    x = torch.randn(2, 32, 7, 9)
    assert layer(x).shape == (2, 64, 7, 9)
    kernel = int(name[2:])
    weights = {"DW": 32 * kernel**2 + 32 + 32 * 64 + 64, "AT": 32 * 64 * kernel**2 + 64}
    weights["DF"] = weights["AT"] + 3 * kernel**2 * (32 * kernel**2 + 1)
    assert sum(p.numel() for p in layer.parameters()) == weights[name[:2]] + 2 * 64


def test_a_deformable_layer_begins_as_half_a_plain_convolution():
    torch.manual_seed(0)
    layer, x = DeformLayer(4, 6, 5), torch.randn(1, 4, 8, 8)
    plain = F.conv2d(x, layer.conv.weight / 2, layer.conv.bias, padding=2)
    torch.testing.assert_close(layer(x), plain, atol=1e-5, rtol=1e-4)


def test_a_mask_head_without_boxes():
    head = MaskHead([("DF3",), ("AT3",)], 32, 32)
    assert head.train()(torch.zeros(0, 32, 6, 6)).shape == (1, 32, 6, 6)
    assert head.eval()(torch.zeros(0, 32, 6, 6)).shape == (0, 32, 6, 6)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (8, 6), (16, 12)])
def test_the_mean_of_an_upsampled_map_needs_no_upsampling(shape):
    torch.manual_seed(0)
    x = torch.randn(2, 3, *shape)
    big = F.interpolate(x, size=(16, 12), mode="bilinear", align_corners=True)
    torch.testing.assert_close(upsampled_mean(x, (16, 12)), big.mean(dim=(2, 3)))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_attention_is_one_minus_a_sigmoid_of_two_linear_layers(reduction):
    torch.manual_seed(0)
    attention, means = BranchAttention([(reduction,)], 24, 32), torch.randn(2, 24)
    first, _, second, _ = attention.levels[0].candidates[reduction]
    assert first.out_features == 32 // int(reduction)
    expected = 1 - second(first(means).relu()).sigmoid()
    assert torch.equal(attention(means)[0], expected)
    x = torch.randn(2, 32, 3, 3)
    torch.testing.assert_close(change(x, expected), x + expected[:, :, None, None] * x)


def test_semantic_logits_are_those_of_upsampled_and_changed_levels():
    torch.manual_seed(0)
    names = ["p2", "p3", "p4", "p5"]
    settings = {"in_features": names, "read": [*names[1:], "p6"], "channels": 32, "width": 32, "num_classes": 4}
    branch = SemanticBranch(layers=[("DW3",)] * 3, attention=[("4",)] * 4, **settings)
    features = {f"p{i}": torch.randn(2, 32, 64 >> i, 64 >> i) for i in range(2, 7)}
    levels = branch.levels(features)

    def up(x):
        return F.interpolate(x, size=(16, 16), mode="bilinear", align_corners=True)

    means = torch.cat([up(features[n]) for n in branch.read], dim=1).mean(dim=(2, 3))
    torch.testing.assert_close(joined_mean([features[n] for n in branch.read], (16, 16)), means)
    joined = [change(up(x), a) for x, a in zip(levels, branch.attention(means))]
    expected = branch.classify(torch.cat(joined, dim=1))
    torch.testing.assert_close(branch.logits(levels, features), expected, atol=1e-5, rtol=1e-4)


def test_boxes_are_pooled_from_the_level_of_their_size():
    pooler = Pooler(["p2", "p3", "p4"], [4, 8, 16], 2, 2, canonical=224)
    features = {f"p{i}": torch.full((1, 1, 256 >> i, 256 >> i), float(i)) for i in (2, 3, 4)}
    sides = torch.tensor([4.0, 55, 113, 223, 225, 250])
    boxes = torch.stack([torch.zeros(6), torch.zeros(6), sides, sides], dim=1)
    found = pooler(features, [boxes], [(256, 256)])
    assert found.shape == (6, 1, 2, 2) and found[:, 0, 0, 0].tolist() == [2, 2, 3, 3, 4, 4]
    assert pooler(features, [boxes[:0]], [(256, 256)]).shape == (0, 1, 2, 2)


@pytest.fixture
def batch(few_shapes, small_config):
    mapper = AdetDatasetMapper(small_config(), is_train=True)
    return [mapper(x) for x in DatasetCatalog.get(few_shapes)[:2]]


def test_the_model_learns_and_predicts(small_model, batch):
    model = small_model().train()
    losses = model(batch)
    assert set(losses) == LOSSES and all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())
    model.eval()
    with torch.no_grad():
        results = model([{"image": batch[0]["image"], "height": 100, "width": 80}, {"image": batch[1]["image"]}])
    assert results[0]["sem_seg"].shape == (4, 100, 80) and results[1]["sem_seg"].shape == (4, 64, 64)
    ids, segments = results[0]["panoptic_seg"]
    assert ids.shape == (100, 80) and {s["id"] for s in segments} == set(ids.unique().tolist()) - {0}
    assert results[0]["instances"].pred_masks.shape[1:] == (100, 80)


def test_an_image_without_objects_has_losses_and_gradients_too(small_model, batch):
    model = small_model().train()
    empty = [{**x, "instances": x["instances"][:0]} for x in batch]
    losses = model(empty)
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert losses["loss_mask"] == 0 and losses["loss_box_reg"] == 0


def test_a_discrete_network_is_the_supernet_with_its_choices(small_config, small_architecture, batch):
    supernet = ["MODEL.META_ARCHITECTURE", "AutoPanopticSupernet", "MODEL.AUTO_PANOPTIC.ARCHITECTURE", "supernet"]
    torch.manual_seed(0)
    large, small = build_model(small_config("shapes", *supernet)).eval(), build_model(small_config()).eval()
    weights, names = large.state_dict(), small.state_dict().keys()
    assert names <= weights.keys()
    small.load_state_dict({name: weights[name] for name in names})
    large.choose(small_architecture)
    with torch.no_grad():
        one, other = large(batch)[0], small(batch)[0]
    assert torch.equal(one["sem_seg"], other["sem_seg"])
    assert torch.equal(one["instances"].scores, other["instances"].scores)


@pytest.mark.parametrize(
    "overrides, message",
    [
        (("MODEL.AUTO_PANOPTIC.MERGE", "both"), "MERGE must be supplement or code; got 'both'"),
        (("MODEL.AUTO_PANOPTIC.REPEATS", "[1, 1, 1, 1]"), "each of the 4 blocks.*got 5"),
        (("MODEL.RPN.IN_FEATURES", "['p2', 'p3', 'p4', 'p5']"), "SIZES for each of the 4 levels"),
        (("MODEL.RPN.IN_FEATURES", "['p2', 'p3', 'p4', 'p5', 'p7']"), "must be of p2.*got p7"),
        (("MODEL.ROI_MASK_HEAD.CONV_DIM", "40"), "multiple of 32.*got 40"),
        (("MODEL.META_ARCHITECTURE", "AutoPanopticSupernet"), "ARCHITECTURE must be supernet"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(small_config, overrides, message):
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        build_model(small_config("shapes", *overrides))


def test_the_published_architecture_builds_at_its_final_width():
    cfg = load_config(str(PROJECT / "configs" / "AutoPanoptic_COCO.yaml"), ["MODEL.DEVICE", "meta"])
    with torch.device("meta"):
        model = build_model(cfg)
    body = sum(p.numel() for p in model.backbone.bottom_up.parameters())
    assert body == 21_627_126
    assert model.semantic.classify.in_channels == 512 and model.semantic.classify.out_channels == 54
    assert model.semantic.attention.levels[0].candidates["16"][0].in_features == 1024
    assert model.attention.levels[0].candidates["8"][0].in_features == 512


@pytest.mark.parametrize("name", sorted(str(p.relative_to(PROJECT / "configs")) for p in PROJECT.rglob("*.yaml")))
def test_a_config_loads_and_has_a_folder_of_its_own(name):
    cfg = load_config(str(PROJECT / "configs" / name))
    assert cfg.OUTPUT_DIR.startswith("output/auto_panoptic/")
    assert cfg.MODEL.META_ARCHITECTURE in ("AutoPanoptic", "AutoPanopticSupernet")
    is_supernet = cfg.MODEL.META_ARCHITECTURE == "AutoPanopticSupernet"
    assert (cfg.MODEL.AUTO_PANOPTIC.ARCHITECTURE == "supernet") == is_supernet
    assert not is_supernet or cfg.SOLVER.IMS_PER_BATCH % 12 == 0
