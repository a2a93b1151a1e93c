"""SmalMask as a model: its variants, and what must not depend on how it is evaluated."""

import copy
import functools

import pytest
import torch

from adet_ext.d2.structures import BitMasks, Instances
from adet_ext.d2.utils import EventStorage
from adet_ext.modeling.fcos.targets import all_locations
from adet_ext.modeling.mask.mask_targets import crop_masks

from .host_waits import counted_waits

LOWER = ("MODEL.SMALMASK.LEVELS", ["p3", "p3", "p4", "p5", "p6"])

BELOW = ("MODEL.SMALMASK.LEVELS", ["p2", "p3", "p4", "p5", "p6"])
FROM_RES2 = ("MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"])


@pytest.fixture
def build(build):
    return functools.partial(build, "MODEL.META_ARCHITECTURE", "SmalMask", "MODEL.SMALMASK.NUM_CONVS", 1)


def idle(model) -> list[str]:
    return [k for k, p in model.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize(
    "overrides",
    [
        ("MODEL.SMALMASK.PREDICTOR", "Conv"),
        ("MODEL.SMALMASK.PREDICTOR", "Conv", "MODEL.SMALMASK.TEACHER_FORCING", "w/o"),
        ("MODEL.SMALMASK.PREDICTOR", "DefConv", "MODEL.SMALMASK.TOWER", "shared"),
        ("MODEL.SMALMASK.PREDICTOR", "RoIConv", *LOWER),
        ("MODEL.SMALMASK.TOWER", "shared", "MODEL.SMALMASK.KERNEL", 3),
        (*LOWER, "MODEL.SMALMASK.NORM", "BN"),
        ("MODEL.SMALMASK.LEVELS", ["p3", "p4", "p5", "p6", "p6"], "MODEL.SMALMASK.TOWER", "shared"),
        (*BELOW, *FROM_RES2),
        ("MODEL.SMALMASK.TEACHER_FORCING", "random", "MODEL.SMALMASK.MASK_SIZE", 14),
        ("MODEL.SMALMASK.TEACHER_FORCING", "fix", "MODEL.SMALMASK.CANONICAL_LENGTH", 48),
    ],
    ids=lambda x: " ".join(str(v) for v in x[1::2]),
)
def test_every_choice_trains_every_parameter_and_predicts_masks(build, batch, overrides):
    model = build("MODEL.FCOS.INFERENCE_TH_TEST", 0.0, *overrides)
    with EventStorage(18_000):
        losses = model(batch)
    assert sorted(losses) == ["loss_fcos_cls", "loss_fcos_ctr", "loss_fcos_loc", "loss_mask"]
    total = sum(losses.values())
    assert torch.isfinite(total) and losses["loss_mask"] > 0
    total.backward()
    assert idle(model) == []
    model.eval()
    with torch.no_grad():
        results = model(batch)
    for result, (height, width) in zip(results, ((96, 128), (80, 90))):
        masks = result["instances"].pred_masks
        assert len(masks) > 0 and masks.shape[1:] == (height, width) and masks.dtype == torch.bool


@pytest.mark.parametrize("predictor", ["Conv", "DefConv", "RoIConv", "RoIPred"])
def test_masks_of_detections_are_those_of_the_dense_predictor(build, batch, predictor):
    """The whole model: predict everywhere (equation 3.1), then read where the detections come from."""
    model = build("MODEL.SMALMASK.PREDICTOR", predictor, "MODEL.FCOS.INFERENCE_TH_TEST", 0.0).eval()
    fcos = model.proposal_generator
    torch.nn.init.constant_(fcos.fcos_head.bbox_pred.bias, 1.5)  # boxes with an extent
    with torch.no_grad():
        features = model.backbone(model.preprocess_image(batch).tensor)
        output, locations = fcos.head_output(features)
        detections = fcos.detect(output, locations)
        sparse = model.branch_fields(features, output, detections)[0]["pred_masks"]
        maps = model.mask_maps(features, output)
        dense = torch.cat(
            [
                model.mask_predictor.dense(m, d * s, stride=s, feature_stride=s).flatten(2)
                for m, d, s in zip(maps, output.distances, fcos.strides)
            ],
            dim=2,
        ).transpose(1, 2)  # (N, L, M^2)
    assert detections.valid.all()
    expected = torch.stack([dense[i, detections.index[i]] for i in range(2)]).sigmoid()
    assert expected.std() > 1e-5
    torch.testing.assert_close(sparse.flatten(2), expected)


@pytest.mark.parametrize("overrides", [(), LOWER, ("MODEL.SMALMASK.PREDICTOR", "RoIConv")], ids=str)
def test_sharing_predictions_of_equal_boxes_keeps_the_loss(build, batch, overrides):
    model = build("MODEL.SMALMASK.KERNEL", 3, *overrides).double()
    for x in batch:
        x["instances"].gt_boxes.tensor = x["instances"].gt_boxes.tensor.double()
    gt = [x["instances"] for x in batch]
    features = model.backbone(model.preprocess_image(batch).tensor.double())
    output, locations = model.proposal_generator.head_output(features)
    _, positives = model.proposal_generator.losses(output, locations, gt)
    once = model._by_object(output, positives, gt, 1.0)
    everywhere = model._by_location(output, positives, gt, 1.0)
    assert len(once[2]) < len(everywhere[2]) == len(positives.location)
    assert {len(x) for x in (*once[0], *once[1:])} == {len(once[2])}
    losses = []
    for schedule in ("_by_object", "_by_location"):
        model._by_object = getattr(type(model), schedule).__get__(model)
        losses.append(model.branch_losses(features, output, positives, gt, batch)["loss_mask"])
    parameters = [*model.mask_predictor.parameters(), *model.mask_tower.parameters()]
    torch.testing.assert_close(*losses)
    for a, b in zip(*(torch.autograd.grad(x, parameters, retain_graph=True) for x in losses)):
        torch.testing.assert_close(a, b)


def test_without_teacher_forcing_predicted_boxes_guide_and_crop(build, batch):
    model = build("MODEL.SMALMASK.TEACHER_FORCING", "w/o")
    gt = [x["instances"] for x in batch]
    features = model.backbone(model.preprocess_image(batch).tensor)
    output, locations = model.proposal_generator.head_output(features)
    _, positives = model.proposal_generator.losses(output, locations, gt)
    # Boxes of 4 pixels around the location, whatever the level: all inside the objects, which are filled.
    for distances, stride in zip(output.distances, model.proposal_generator.strides):
        distances.data.fill_(2 / stride)
    places, targets, weight = model._by_location(output, positives, gt, 0.0)
    xy = locations.xy[positives.location]
    torch.testing.assert_close(places.boxes, torch.cat([xy - 2, xy + 2], dim=1))
    # Rectangles fill their boxes, so a crop around a location well inside is all object.
    assert targets.mean() > 0.9 and torch.equal(weight, positives.weight)


def test_without_objects_the_loss_is_zero_and_reaches_every_parameter(build, batch):
    empty = copy.deepcopy(batch)
    for x in empty:
        x["instances"] = x["instances"][[]]
    for overrides in ((), ("MODEL.SMALMASK.TEACHER_FORCING", "w/o"), ("MODEL.SMALMASK.PREDICTOR", "DefConv")):
        model = build(*overrides)
        losses = model(empty)
        assert losses["loss_mask"].item() == 0 and all(torch.isfinite(v) for v in losses.values())
        sum(losses.values()).backward()
        assert idle(model) == []


def test_nothing_detected_gives_empty_masks_of_the_right_type(build, batch):
    model = build("MODEL.FCOS.INFERENCE_TH_TEST", 1.0).eval()
    with torch.no_grad():
        masks = model(batch)[0]["instances"].pred_masks
    assert masks.shape == (0, 96, 128) and masks.dtype == torch.bool


@pytest.mark.parametrize("predictor", ["Conv", "DefConv", "RoIConv", "RoIPred"])
def test_the_host_waits_for_nothing_before_the_results_leave(build, batch, predictor):
    model = build("MODEL.SMALMASK.PREDICTOR", predictor).eval()
    found, waits = counted_waits(model, batch)
    assert found.fields["pred_masks"].shape == (2, 100, 1, 28, 28) and waits == []


def test_the_canonical_length_changes_the_detector_not_the_config(build):
    from adet_ext import get_cfg

    model = build("MODEL.SMALMASK.CANONICAL_LENGTH", 48)
    assert model.proposal_generator.sizes_of_interest == [48, 96, 192, 384]
    assert build().proposal_generator.sizes_of_interest == get_cfg().MODEL.FCOS.SIZES_OF_INTEREST


def test_unused_levels_are_not_computed(build, batch):
    model = build(*LOWER)
    seen = []
    model.mask_tower.register_forward_hook(lambda module, args, out: seen.append(out.shape[-1]))
    model(batch)
    assert seen == [16, 8, 4, 2]  # P3 to P6 of 128 pixels
    assert model.mask_level.tolist() == [0, 0, 1, 2, 3]


def test_a_place_reads_the_level_of_its_location(build, batch):
    model = build(*LOWER, "MODEL.SMALMASK.CANONICAL_LENGTH", 24)
    gt = [x["instances"] for x in batch]
    output, locations = model.proposal_generator.head_output(model.backbone(model.preprocess_image(batch).tensor))
    _, positives = model.proposal_generator.losses(output, locations, gt)
    places, *_ = model._by_location(output, positives, gt, 1.0)
    sizes = [x.shape[-2:] for x in output.logits]
    own = all_locations(sizes, model.proposal_generator.strides, torch.device("cpu")).level[positives.location]
    assert len(own.unique()) > 1
    assert torch.equal(places.level, torch.tensor([0, 0, 1, 2, 3])[own])


@pytest.mark.parametrize(
    "overrides, message",
    [
        (("MODEL.SMALMASK.PREDICTOR", "FC"), "PREDICTOR must be Conv, DefConv, RoIConv or RoIPred; got 'FC'"),
        (("MODEL.SMALMASK.TOWER", "none"), "TOWER must be .*; got 'none'"),
        (("MODEL.SMALMASK.NORM", "LN"), "SMALMASK.NORM must be .*; got 'LN'"),
        (("MODEL.SMALMASK.LEVELS", ["p3"]), "one level for each of MODEL.FCOS.IN_FEATURES"),
        (BELOW, "LEVELS must name features.*got \\['p2'\\]"),
        (("MODEL.SMALMASK.PREDICTOR", "Conv", *LOWER), "to RoIPred or RoIConv"),
        (("MODEL.SMALMASK.TEACHER_FORCING", "always"), "TEACHER_FORCING must be .*; got 'always'"),
        (("MODEL.SMALMASK.CANONICAL_LENGTH", -1), "canonical length"),
    ],
)
def test_a_wrong_choice_is_named(build, overrides, message):
    with pytest.raises(ValueError, match=message):
        build(*overrides)


def test_a_shared_tower_reads_the_detector_s_levels_alone(build):
    with pytest.raises(ValueError, match="must be among those of the shared box tower"):
        build("MODEL.SMALMASK.TOWER", "shared", *BELOW, *FROM_RES2)


def test_mask_targets_of_a_box_of_any_size_take_little_memory():
    found = Instances((40, 50))
    found.gt_masks = BitMasks(torch.ones(1, 40, 50))
    boxes = torch.tensor([[0.0, 0, 50, 40], [-1e6, -1e6, 1e6, 1e6]])
    crops = crop_masks([found], boxes, torch.zeros(2, dtype=torch.int64), 5)
    assert crops[0].all() and not crops[1].any()
