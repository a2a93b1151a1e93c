"""DR1Mask as a model: every row of Tables 5.1 to 5.9 and 4.10, and what must not depend on how it is evaluated."""

import copy
import re
import shlex
from pathlib import Path

import pytest
import torch

from adet_ext import load_config
from adet_ext.d2.modeling import build_model
from adet_ext.model_zoo import get_config_file
from adet_ext.modeling.mask import DR1Mask

from .dr1 import PANOPTIC, build_dr1, with_stuff
from .host_waits import counted_waits

README = (Path(get_config_file("DR1Mask/R_50_1x.yaml")).parent / "README.md").read_text(encoding="utf-8")
TABLES = {"4.10": 2, "5.1": 4, "5.2": 2, "5.3": 4, "5.4": 3, "5.5": 3, "5.6": 3, "5.7": 2, "5.8": 5, "5.9": 5}
# The row's model on a small body, so that it runs on inputs of the tests' size.
SMALL = [
    *("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.BACKBONE.FREEZE_AT", "0"),
    *("MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "MODEL.RESNETS.NORM", "BN"),
    *("MODEL.RESNETS.DEFORM_ON_PER_STAGE", "[False, False, False, False]", "MODEL.RESNETS.DEFORM_INTERVAL", "1"),
    *("MODEL.FPN.OUT_CHANNELS", "64", "MODEL.FCOS.NUM_CLASSES", "3", "MODEL.FCOS.INFERENCE_TH_TEST", "0.0"),
    *("MODEL.BASIS_MODULE.NORM", "GN", "MODEL.BASIS_MODULE.NUM_CLASSES", "3", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3"),
]


def rows(table: str = r"\d\.\d+") -> list[list[str]]:
    return [shlex.split(x) for x in re.findall(rf"^\| {table} \|.*`([^`]+)` \|$", README, re.MULTILINE)]


def distinct(found: list[list[str]]) -> list[list[str]]:
    return [list(x) for x in dict.fromkeys(map(tuple, found))]


DISTINCT = distinct(rows())
OWN = [row for row in DISTINCT if row[0].startswith("DR1Mask/")]


def idle(model) -> list[str]:
    return [k for k, p in model.named_parameters() if p.requires_grad and p.grad is None]


def test_the_tables_have_all_their_rows_and_those_of_a_table_differ():
    assert {table: len(rows(re.escape(table))) for table in TABLES} == TABLES and len(rows()) == sum(TABLES.values())
    for table, count in TABLES.items():
        assert len({load_config(x[0], x[1:]).dump() for x in rows(re.escape(table))}) == count


@pytest.mark.parametrize("row", DISTINCT, ids=" ".join)
def test_a_row_of_the_tables_builds(row):
    with torch.device("meta"):
        build_model(load_config(row[0], [*row[1:], "MODEL.DEVICE", "meta"]))


@pytest.mark.parametrize("row", OWN, ids=" ".join)
def test_a_row_of_the_tables_trains_every_parameter_and_evaluates(row, batch):
    torch.manual_seed(0)
    model = build_model(load_config(row[0], [*row[1:], *SMALL]))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        losses = model(with_stuff(batch))
        sum(losses.values()).backward()
        optimizer.step()
    panoptic = {"loss_panoptic"} if "Panoptic" in row[0] else set()
    assert set(losses) == {
        "loss_fcos_cls", "loss_fcos_ctr", "loss_fcos_loc", "loss_basis_sem", "loss_mask"
    } | panoptic  # fmt: skip
    assert torch.isfinite(sum(losses.values())) and losses["loss_mask"] > 0
    assert idle(model) == []
    model.eval()
    with torch.no_grad():
        results = model(batch)
    for result, size in zip(results, ((96, 128), (80, 90))):
        assert set(result) == {"instances"} | ({"panoptic_seg", "sem_seg"} if panoptic else set())
        assert len(result["instances"]) > 0 and result["instances"].pred_masks.shape[1:] == size
        assert not panoptic or result["panoptic_seg"][0].shape == size


@pytest.mark.parametrize("overrides", [(), ("MODEL.DR1MASK.ATTENTION", "full"), PANOPTIC], ids=str)
def test_without_objects_the_mask_loss_is_zero_and_reaches_every_parameter(batch, overrides):
    model = build_dr1(*overrides)
    empty = copy.deepcopy(with_stuff(batch))
    for x in empty:
        x["instances"] = x["instances"][[]]
        x["instances"].remove("gt_masks")  # data sets' images without objects come without
    for inputs in (empty, [with_stuff(batch)[0], empty[1]]):
        losses = model(inputs)
        assert all(torch.isfinite(v) for v in losses.values())
        assert (losses["loss_mask"] == 0) == (inputs is empty)
        model.zero_grad(set_to_none=True)
        sum(losses.values()).backward()
        assert idle(model) == []


@pytest.mark.parametrize("overrides", [(), PANOPTIC], ids=str)
def test_nothing_detected_gives_empty_masks_of_the_right_type(batch, overrides):
    model = build_dr1("MODEL.FCOS.INFERENCE_TH_TEST", 1.0, *overrides).eval()
    with torch.no_grad():
        masks = model(batch)[0]["instances"].pred_masks
    assert masks.shape == (0, 96, 128) and masks.dtype == torch.bool


@pytest.mark.parametrize("attention", ["vector", "full", "factored"])
def test_the_host_waits_for_nothing_before_the_results_leave(batch, attention):
    model = build_dr1("MODEL.DR1MASK.ATTENTION", attention).eval()
    found, waits = counted_waits(model, batch)
    assert found.fields["pred_masks"].shape == (2, 100, 1, 28, 28) and waits == []


def test_the_bases_and_embeddings_are_handed_out_on_request(batch):
    for overrides in ((), PANOPTIC):
        model = build_dr1("MODEL.BLENDMASK.VISUALIZE", True, *overrides).eval()
        with torch.no_grad():
            result = model(batch)[0]
        found = result["instances"]
        assert result["bases"].shape == (8, 24, 32)
        assert found.embeddings.shape == (len(found), model.prediction.embedding_length)


def test_half_a_panoptic_model_is_refused():
    model = build_dr1(*PANOPTIC)
    with pytest.raises(ValueError, match="come together"):
        DR1Mask(
            backbone=model.backbone, proposal_generator=model.proposal_generator, pixel_mean=[0.0], pixel_std=[1.0],
            basis_module=model.basis_module, top_layer=model.top_layer, prediction=model.prediction,
            panoptic=model.panoptic,
        )  # fmt: skip


@pytest.mark.parametrize(
    "overrides, message",
    [
        (("MODEL.BASIS_MODULE.NAME", "ProtoNet"), "NAME must be DR1Basis; got 'ProtoNet'"),
        (("MODEL.BASIS_MODULE.IN_FEATURES", ["p3", "p5"]), "must double the stride"),
        (("MODEL.DR1MASK.UPSAMPLING", "nearest"), "UPSAMPLING must be .*; got 'nearest'"),
        (("MODEL.DR1MASK.CONTEXT", "tower"), "CONTEXT must be .*; got 'tower'"),
        (("MODEL.DR1MASK.EMBEDDING", "none"), "EMBEDDING must be .*; got 'none'"),
        (("MODEL.DR1MASK.ATTENTION", "tensor"), "ATTENTION must be vector, full or factored; got 'tensor'"),
        (("MODEL.BLENDMASK.TOP_INTERP", "cubic"), "TOP_INTERP must be nearest or bilinear; got 'cubic'"),
        ((*PANOPTIC, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 1), "NUM_CLASSES must be 2 or more.*; got 1"),
        ((*PANOPTIC, "MODEL.DR1MASK.PANOPTIC.LOSS_BALANCE", "class"), "LOSS_BALANCE must be .*; got 'class'"),
    ],
)
def test_a_wrong_choice_is_named(overrides, message):
    with pytest.raises(ValueError, match=message):
        build_dr1(*overrides)
