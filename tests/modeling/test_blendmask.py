"""BlendMask: its variants, and what must not depend on how it is evaluated."""

import copy

import pytest
import torch

from adet_ext.d2.structures import Boxes, Instances, PolygonMasks
from adet_ext.layers.sparse_conv import conv_at
from adet_ext.modeling.mask.mask_targets import thing_labels


def test_losses_are_those_of_the_detector_the_bases_and_the_masks(build, batch):
    losses = build("MODEL.BASIS_MODULE.LOSS_ON", True)(batch)
    assert sorted(losses) == ["loss_basis_sem", "loss_fcos_cls", "loss_fcos_ctr", "loss_fcos_loc", "loss_mask"]


@pytest.mark.parametrize(
    "overrides",
    [
        ("MODEL.BASIS_MODULE.NUM_BASES", 1),
        ("MODEL.BASIS_MODULE.NUM_BASES", 8, "MODEL.BLENDMASK.ATTN_SIZE", 2),
        ("MODEL.BLENDMASK.TOP_INTERP", "nearest", "MODEL.BLENDMASK.BOTTOM_RESOLUTION", 28),
        ("MODEL.BLENDMASK.POOLER_TYPE", "ROIPool"),
        ("MODEL.BLENDMASK.ATTN_SIZE", 1),
        ("MODEL.BLENDMASK.MERGE", "assembler", "MODEL.BLENDMASK.ATTN_SIZE", 4, "MODEL.BASIS_MODULE.NUM_BASES", 16),
        ("MODEL.BASIS_MODULE.NAME", "DeepLabV3Plus", "MODEL.BASIS_MODULE.IN_FEATURES", ["p3", "p5"]),
        ("MODEL.BASIS_MODULE.NAME", "DeepLabV3Plus", "MODEL.BASIS_MODULE.IN_FEATURES", ["res3", "res5"]),
        ("MODEL.BASIS_MODULE.NAME", "DeepLabV3Plus", "MODEL.BASIS_MODULE.IN_FEATURES", ["res2", "res5"]),
        ("MODEL.BASIS_MODULE.IN_FEATURES", ["p3"], "MODEL.BASIS_MODULE.NUM_CONVS", 2),
        ("MODEL.BASIS_MODULE.LOSS_ON", True, "MODEL.BASIS_MODULE.NORM", "GN", "MODEL.BASIS_MODULE.CONVS_DIM", 32),
        ("MODEL.FCOS.BOX_QUALITY", "iou"),
    ],
)
def test_every_choice_trains_every_parameter_and_predicts_masks(build, batch, overrides):
    model = build("MODEL.FCOS.INFERENCE_TH_TEST", 0.0, *overrides)
    total = sum(model(batch).values())
    assert torch.isfinite(total)
    total.backward()
    assert [k for k, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    model.eval()
    with torch.no_grad():
        results = model(batch)
    for result, (height, width) in zip(results, ((96, 128), (80, 90))):
        instances = result["instances"]
        assert len(instances) > 0
        assert instances.pred_masks.shape == (len(instances), height, width)
        assert instances.pred_masks.dtype == torch.bool


def test_the_top_layer_at_chosen_locations_is_the_dense_one(build):
    torch.manual_seed(0)
    maps = [torch.randn(2, 5, h, w, requires_grad=True) for h, w in ((7, 9), (4, 5), (1, 2))]
    layer = torch.nn.Conv2d(5, 11, 3, padding=1)
    dense = torch.cat([layer(x).flatten(2) for x in maps], dim=2)  # (2, 11, L)
    image = torch.arange(2).repeat_interleave(dense.shape[2])
    location = torch.arange(dense.shape[2]).repeat(2)
    sparse = conv_at(layer, maps, image, location)
    torch.testing.assert_close(sparse, dense.transpose(1, 2).flatten(0, 1))
    weights = torch.randn_like(sparse)
    parameters = [*maps, layer.weight, layer.bias]
    ours = torch.autograd.grad((sparse * weights).sum(), parameters)
    theirs = torch.autograd.grad((dense.transpose(1, 2).flatten(0, 1) * weights).sum(), parameters)
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_evaluation_ignores_ground_truth_and_the_rest_of_the_batch(build, batch):
    model = build("MODEL.FCOS.INFERENCE_TH_TEST", 0.0).eval()
    same_size = [batch[0], {**batch[0], "image": batch[0]["image"].flip(2)}]
    with torch.no_grad():
        together = model(same_size)
        alone = [model([{"image": x["image"], "height": 96, "width": 128}])[0] for x in same_size]
    for a, b in zip(together, alone):
        torch.testing.assert_close(a["instances"].scores, b["instances"].scores, rtol=1e-4, atol=1e-5)
        assert a["instances"].pred_masks.shape == b["instances"].pred_masks.shape


def test_without_objects_losses_are_finite_and_reach_every_parameter(build, batch):
    empty = copy.deepcopy(batch)
    for x in empty:
        x["instances"] = x["instances"][[]]
        x["basis_sem"].zero_()
    model = build("MODEL.BASIS_MODULE.LOSS_ON", True)
    losses = model(empty)
    assert all(torch.isfinite(v) for v in losses.values())
    assert losses["loss_mask"].item() == 0
    sum(losses.values()).backward()
    assert [k for k, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_nothing_detected_gives_empty_masks_of_the_right_type(build, batch):
    model = build("MODEL.FCOS.INFERENCE_TH_TEST", 1.0).eval()
    with torch.no_grad():
        result = model(batch)[0]["instances"]
    assert len(result) == 0
    assert result.pred_masks.shape == (0, 96, 128) and result.pred_masks.dtype == torch.bool


def test_the_bases_and_attentions_are_handed_out_on_request(build, batch):
    model = build("MODEL.BLENDMASK.VISUALIZE", True, "MODEL.FCOS.INFERENCE_TH_TEST", 0.0).eval()
    with torch.no_grad():
        result = model(batch)[0]
    assert result["bases"].shape == (4, 24, 32)
    assert result["instances"].top_feat.shape == (len(result["instances"]), 4 * 14 * 14)


def test_training_without_ground_truth_says_so(build, batch):
    model = build()
    with pytest.raises(ValueError, match="must have ground truth"):
        model([{"image": batch[0]["image"]}])
    del batch[0]["basis_sem"]
    batch[0]["instances"].remove("gt_masks")
    with pytest.raises(ValueError, match="must have instance masks.*LOSS_ON; got neither"):
        build("MODEL.BASIS_MODULE.LOSS_ON", True)(batch[:1])


@pytest.mark.parametrize("polygons", [False, True])
def test_missing_semantic_labels_are_drawn_from_instance_masks(batch, polygons):
    expected = thing_labels(batch, torch.device("cpu"), 32)
    for x in batch:
        del x["basis_sem"]
        if polygons:
            boxes = x["instances"].gt_boxes.tensor.double().tolist()
            x["instances"].gt_masks = PolygonMasks([[[a, b, c, b, c, d, a, d]] for a, b, c, d in boxes])
    assert torch.equal(thing_labels(batch, torch.device("cpu"), 32), expected) and expected.max() == 2


def test_an_image_without_instances_has_semantic_labels_too(batch):
    # Detectron2's mapper gives such instances no masks.
    empty = {"instances": Instances((64, 80), gt_boxes=Boxes(torch.zeros(0, 4)), gt_classes=torch.zeros(0).long())}
    labels = thing_labels([empty], torch.device("cpu"), 32)
    assert labels.shape == (1, 64, 96) and not labels.any()


@pytest.mark.parametrize(
    "overrides, message",
    [
        (("MODEL.BLENDMASK.MERGE", "sum"), "MERGE must be blender or assembler; got 'sum'"),
        (("MODEL.BLENDMASK.MERGE", "assembler"), "one basis per cell"),
        (("MODEL.BLENDMASK.TOP_INTERP", "cubic"), "TOP_INTERP must be .*; got 'cubic'"),
        (("MODEL.BLENDMASK.POOLER_SCALES", (0.25, 0.125)), "must have one scale"),
        (("MODEL.BASIS_MODULE.IN_FEATURES", ["p9"]), "IN_FEATURES must name features.*got \\['p9'\\]"),
        (
            ("MODEL.BASIS_MODULE.LOSS_ON", True, "MODEL.BASIS_MODULE.COMMON_STRIDE", 4),
            "COMMON_STRIDE must be the stride of p3, .* with LOSS_ON; got 4. Set it to 8",
        ),
        (("MODEL.BASIS_MODULE.NAME", "DeepLabV3Plus"), "a fine and a coarse feature"),
        (("MODEL.PANOPTIC_FPN.COMBINE.ENABLED", True), "SEM_SEG_HEAD.IN_FEATURES must name features.*got \\['p2'\\]"),
    ],
)
def test_a_wrong_choice_is_named(build, overrides, message):
    with pytest.raises(ValueError, match=message):
        build(*overrides)
