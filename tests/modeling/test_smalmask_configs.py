"""Every row of the thesis' Tables 3.1 to 3.8 is a config that builds, trains and evaluates."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from adet_ext import load_config
from adet_ext.d2.modeling import build_model
from adet_ext.d2.structures import BitMasks, Boxes, Instances
from adet_ext.d2.utils import EventStorage
from adet_ext.engine.trainer import Trainer
from adet_ext.model_zoo import get_config_file
from adet_ext.modeling.mask.teacher_forcing import TeacherForcing

README = (Path(get_config_file("SmalMask/R_50_1x.yaml")).parent / "README.md").read_text(encoding="utf-8")
TABLES = {"3.1": 7, "3.2": 3, "3.3": 4, "3.4": 6, "3.5": 4, "3.6": 5, "3.7": 2, "3.8": 1}
# The row's model on a small body, so that it runs on inputs of the tests' size.
SMALL = [
    *("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.BACKBONE.FREEZE_AT", "0"),
    *("MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "MODEL.RESNETS.NORM", "BN"),
    *("MODEL.FPN.OUT_CHANNELS", "64", "MODEL.FCOS.NUM_CLASSES", "3", "MODEL.FCOS.INFERENCE_TH_TEST", "0.0"),
]


def rows(table: str = r"\d\.\d") -> list[list[str]]:
    lines = re.findall(rf"^\| {table} \|.*`([^`]+)` \|$", README, re.MULTILINE)
    return [shlex.split(line) for line in lines]


def distinct(found: list[list[str]]) -> list[list[str]]:
    return [list(x) for x in dict.fromkeys(map(tuple, found))]


def test_the_tables_have_all_their_rows_and_those_of_a_table_differ():
    assert {table: len(rows(re.escape(table))) for table in TABLES} == TABLES and len(rows()) == sum(TABLES.values())
    for table, count in TABLES.items():
        assert len({load_config(x[0], x[1:]).dump() for x in rows(re.escape(table))}) == count


def test_the_detector_s_hyper_parameters_are_those_of_fcos():
    """Section 3.5: "all hyper-parameters are set to be the same with FCOS"; the demo's detector is BlendMask's."""
    assert load_config("SmalMask/R_50_1x.yaml").MODEL.FCOS == load_config("FCOS/R_50_1x.yaml").MODEL.FCOS
    assert load_config("demo/shapes_smalmask_R_18.yaml").MODEL.FCOS == load_config("demo/shapes_R_18.yaml").MODEL.FCOS


@pytest.mark.parametrize("row", distinct(rows()), ids=" ".join)
def test_a_row_of_the_tables_builds(row):
    with torch.device("meta"):
        build_model(load_config(row[0], [*row[1:], "MODEL.DEVICE", "meta"]))


@pytest.fixture
def small(batch) -> list[dict]:
    """One image with two objects, of 64 x 96 pixels."""
    x = batch[0]
    instances = Instances((64, 96))
    instances.gt_boxes = Boxes(x["instances"].gt_boxes.tensor * 0.7)
    instances.gt_classes = x["instances"].gt_classes
    instances.gt_masks = BitMasks(x["instances"].gt_masks.tensor[:, :64, :96])
    return [{"image": x["image"][:, :64, :96], "height": 64, "width": 96, "instances": instances}]


@pytest.mark.parametrize("row", distinct(rows()), ids=" ".join)
def test_a_row_of_the_tables_trains_and_evaluates(row, small):
    torch.manual_seed(0)
    model = build_model(load_config(row[0], [*row[1:], *SMALL]))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    with EventStorage(50_000):
        for _ in range(2):
            optimizer.zero_grad()
            loss = sum(model(small).values())
            loss.backward()
            optimizer.step()
    assert torch.isfinite(loss)
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert all(p.grad.any() for name, p in model.named_parameters() if re.search("^mask_.*weight$", name))
    model.eval()
    with torch.no_grad():
        instances = model(small)[0]["instances"]
    assert len(instances) > 0 and instances.pred_masks.shape[1:] == (64, 96)


def test_resumed_training_continues_the_schedule(tmp_path, monkeypatch):
    """The iteration that teacher forcing sees is the run's own, after a resumption too."""
    seen = []
    probability = TeacherForcing.probability
    monkeypatch.setattr(TeacherForcing, "probability", lambda self, i: seen.append(i) or probability(self, i))
    overrides = [
        *("MODEL.SMALMASK.TEACHER_FORCING", "random", "MODEL.SMALMASK.RANDOM_ITERS", "4"),
        *("MODEL.FPN.OUT_CHANNELS", "32", "SOLVER.IMS_PER_BATCH", "2"),
        *("DATASETS.TRAIN", "('shapes_val',)", "DATASETS.TEST", "()"),
        *("SOLVER.MAX_ITER", "4", "SOLVER.WARMUP_ITERS", "1", "OUTPUT_DIR", str(tmp_path)),
    ]
    for resume, end in ((False, 2), (True, 4)):
        cfg = load_config("demo/shapes_smalmask_R_18.yaml", overrides)
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=resume)
        trainer.max_iter = end
        trainer.train()
    assert seen == [0, 1, 2, 3]
