"""SmalMask2, and the conversion between the two forms."""

import copy
import functools

import pytest
import torch

from adet_ext.cli import convert
from adet_ext.errors import UserError
from adet_ext.modeling.mask.convert import convert_smalmask
from adet_ext.modeling.mask.mask_predictors import Places

from .host_waits import counted_waits


@pytest.fixture
def build2(build):
    return functools.partial(build, "MODEL.META_ARCHITECTURE", "SmalMask2")


@pytest.fixture
def build1(build):
    return functools.partial(build, "MODEL.META_ARCHITECTURE", "SmalMask", "MODEL.SMALMASK.TOWER", "shared")


MERGED = ("MODEL.FCOS.NUM_SHARE_CONVS", 3, "MODEL.FCOS.NUM_CLS_CONVS", 0, "MODEL.FCOS.NUM_BOX_CONVS", 0)


@pytest.mark.parametrize(
    "overrides", [(), MERGED, ("MODEL.SMALMASK.POOLER_LENGTHS", [96], "MODEL.SMALMASK.KERNEL", 7)], ids=str
)
def test_every_choice_trains_every_parameter_and_predicts_masks(build2, batch, overrides):
    model = build2("MODEL.FCOS.INFERENCE_TH_TEST", 0.0, *overrides)
    losses = model(batch)
    assert losses["loss_mask"] > 0
    sum(losses.values()).backward()
    assert [k for k, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    model.eval()
    with torch.no_grad():
        masks = model(batch)[0]["instances"].pred_masks
    assert len(masks) > 0 and masks.shape[1:] == (96, 128) and masks.dtype == torch.bool


def test_two_poolers_learn_the_mean_of_what_each_learns(build2, batch):
    # Objects of 50 to 75 pixels: with L = 32 they lie one level above where L = 64 puts them.
    losses = {}
    for lengths in ([32], [64], [32, 64]):
        model = build2("MODEL.SMALMASK.POOLER_LENGTHS", lengths)
        losses[len(lengths), lengths[0]] = model(batch)["loss_mask"].item()
    assert losses[1, 32] != losses[1, 64]
    assert losses[2, 32] == pytest.approx((losses[1, 32] + losses[1, 64]) / 2, rel=1e-5)


def test_inference_uses_the_largest_length_alone(build2, batch):
    both, largest = (build2("MODEL.SMALMASK.POOLER_LENGTHS", x).eval() for x in ([16, 64, 32], [64]))
    for model in (both, largest):  # boxes of 32 pixels and more
        torch.nn.init.constant_(model.proposal_generator.fcos_head.bbox_pred.bias, 2.0)
    images = both.preprocess_image(batch).tensor
    with torch.no_grad():
        a, b = (model.predict_tensors(images).fields["pred_masks"] for model in (both, largest))
        both.largest = 0  # 16
        other = both.predict_tensors(images).fields["pred_masks"]
    assert torch.equal(a, b) and not torch.equal(a, other)


def test_without_objects_the_loss_is_zero_and_reaches_every_parameter(build2, batch):
    empty = copy.deepcopy(batch)
    for x in empty:
        x["instances"] = x["instances"][[]]
    model = build2()
    losses = model(empty)
    assert losses["loss_mask"].item() == 0
    sum(losses.values()).backward()
    assert [k for k, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_the_host_waits_for_nothing_before_the_results_leave(build2, batch):
    model = build2().eval()
    found, waits = counted_waits(model, batch)
    assert found.fields["pred_masks"].shape == (2, 100, 1, 28, 28) and waits == []


@pytest.mark.parametrize(
    "lengths, message", [([], "POOLER_LENGTHS must have at least one"), ([64, 0], "positive number")]
)
def test_a_wrong_choice_is_named(build2, lengths, message):
    with pytest.raises(ValueError, match=message):
        build2("MODEL.SMALMASK.POOLER_LENGTHS", lengths)


def test_converted_forms_predict_the_same_masks(build1, build2, batch):
    dense, two_stage = build1().eval(), build2().eval()
    state, name = convert_smalmask(dense.state_dict())
    assert name == "SmalMask2"
    two_stage.load_state_dict(state, strict=True)
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        features = dense.backbone(dense.preprocess_image(batch).tensor)
        output, locations = dense.proposal_generator.head_output(features)
        index = torch.randint(0, len(locations.level), (30,), generator=g)
        corner = torch.rand(30, 2, generator=g) * 100
        boxes = torch.cat([corner, corner + torch.rand(30, 2, generator=g) * 60], dim=1)
        image, level = torch.arange(30) % 2, locations.level[index]
        ours = dense.mask_predictor(dense.mask_maps(features, output), Places(image, index, level, boxes))
        theirs = two_stage.mask_head(output.box_tower, boxes, image, level)
    assert ours.std() > 0 and torch.equal(ours, theirs)


def test_conversion_there_and_back_changes_nothing(build1):
    state = build1("MODEL.SMALMASK.KERNEL", 3).state_dict()
    back, name = convert_smalmask(convert_smalmask(state)[0])
    assert name == "SmalMask" and back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)


def test_checkpoints_are_converted_on_the_command_line(build1, build2, tmp_path, capsys):
    source, target = tmp_path / "dense.pth", tmp_path / "deep" / "head.pth"
    model = build1()
    torch.save({"model": model.state_dict(), "iteration": 7}, source)
    assert convert.main([str(source), str(target)]) == 0
    assert "META_ARCHITECTURE SmalMask2" in capsys.readouterr().out
    saved = torch.load(target, weights_only=True)
    assert list(saved) == ["model"]
    build2().load_state_dict(saved["model"], strict=True)
    with pytest.raises(UserError, match="exists; --overwrite"):
        convert.main([str(source), str(target)])
    assert convert.main([str(target), str(tmp_path / "again.pth")]) == 0
    again = torch.load(tmp_path / "again.pth", weights_only=True)["model"]
    assert torch.equal(again["mask_predictor.pred.weight"], model.mask_predictor.pred.weight)


@pytest.mark.parametrize(
    "overrides, message",
    [
        (("MODEL.SMALMASK.TOWER", "separate"), "TOWER must be shared"),
        (("MODEL.SMALMASK.PREDICTOR", "RoIConv"), "whose predictor has align, predict"),
        (("MODEL.META_ARCHITECTURE", "OneStageDetector"), "no mask branch"),
    ],
)
def test_what_cannot_be_converted_raises(build1, tmp_path, overrides, message):
    source = tmp_path / "model.pth"
    torch.save({"model": build1(*overrides).state_dict()}, source)
    with pytest.raises(UserError, match=message):
        convert.main([str(source), str(tmp_path / "out.pth")])
    assert not (tmp_path / "out.pth").exists()


def test_missing_files_and_non_checkpoints_are_named(tmp_path):
    with pytest.raises(UserError, match="there is no checkpoint"):
        convert.main([str(tmp_path / "none.pth"), str(tmp_path / "out.pth")])
    (tmp_path / "bad.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match="cannot be converted"):
        convert.main([str(tmp_path / "bad.pth"), str(tmp_path / "out.pth")])
