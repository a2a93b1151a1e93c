"""What a run refuses before it builds anything, by the key."""

import json

import pytest
import torch

from adet_ext.d2.data import MetadataCatalog
from adet_ext.engine.checkpoint import AdetCheckpointer
from adet_ext.engine.checks import check_datasets, check_training
from adet_ext.engine.trainer import Trainer, setup
from adet_ext.errors import UserError

from .. import runs


@pytest.mark.parametrize(
    "key, value",
    [
        ("SOLVER.STEPS", (4, 2)),
        ("SOLVER.STEPS", (2, 2)),
        ("SOLVER.STEPS", (0,)),
        ("SOLVER.MAX_ITER", 0),
        ("SOLVER.BASE_LR", float("nan")),
        ("SOLVER.WEIGHT_DECAY", -0.1),
        ("SOLVER.GAMMA", 0.0),
        ("SOLVER.WARMUP_METHOD", "slow"),
        ("SOLVER.CHECKPOINT_PERIOD", 0),
        ("SOLVER.IMS_PER_BATCH", 0),
        ("DATALOADER.NUM_WORKERS", -1),
        ("TEST.EVAL_PERIOD", -5),
        ("SOLVER.AMP.ENABLED", True),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_its_key(tmp_path, key, value):
    cfg = runs.config(tmp_path, "SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR", "SOLVER.STEPS", "()")
    cfg.merge_from_list([key, value])
    with pytest.raises(UserError, match=key):
        check_training(cfg)


def test_data_sets_are_checked_before_training(tmp_path):
    cfg = runs.config(tmp_path)
    cfg.DATASETS.TEST = ("shapes_vla",)
    with pytest.raises(UserError, match="there is no data set 'shapes_vla'"):
        check_datasets(cfg, training=True)
    cfg.DATASETS["TEST"] = "shapes_val"
    with pytest.raises(UserError, match="must be a tuple"):
        check_datasets(cfg, training=True)
    cfg.DATASETS["TEST"] = ("shapes_val",)
    check_datasets(cfg, training=True)
    cfg.MODEL.MASK_ON = False
    with pytest.raises(UserError, match="MODEL.MASK_ON must be True for BlendMask"):
        check_datasets(cfg, training=True)


def test_a_test_set_with_other_classes_is_refused(tmp_path, monkeypatch):
    cfg = runs.config(tmp_path)
    cfg.DATASETS.TEST = ("shapes_val",)
    names = list(MetadataCatalog.get("shapes_val").thing_classes)
    monkeypatch.setitem(MetadataCatalog.get("shapes_val").__dict__, "thing_classes", names[::-1])
    with pytest.raises(UserError, match="different classes or another order"):
        check_datasets(cfg, training=True)


def test_a_resumed_run_takes_the_rate_of_its_config(tmp_path):
    def train(*overrides):
        from types import SimpleNamespace

        cfg = setup(runs.config(tmp_path, "SOLVER.WARMUP_ITERS", 0, *overrides), SimpleNamespace(resume=True))
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=True)
        trainer.train()
        return trainer.optimizer.param_groups[0]["lr"]

    steady = ("SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR", "SOLVER.STEPS", "()")
    assert train(*steady, "SOLVER.MAX_ITER", 2, "SOLVER.BASE_LR", 0.002) == pytest.approx(0.002)
    assert train(*steady, "SOLVER.MAX_ITER", 4, "SOLVER.BASE_LR", 0.0001) == pytest.approx(0.0001)
    rows = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == sorted({row["iteration"] for row in rows})


def test_predictions_need_weights_that_fit(tmp_path):
    cfg = runs.config(tmp_path, "MODEL.WEIGHTS", "")
    model = Trainer.build_model(cfg)
    state = {f"_orig_mod.{name}": value for name, value in model.state_dict().items()}
    torch.save({"model": state}, tmp_path / "compiled.pth")
    AdetCheckpointer(model).load_to_predict(str(tmp_path / "compiled.pth"))  # the prefix of torch.compile is taken off
    lacking = {name: value for name, value in model.state_dict().items() if "cls_logits" not in name}
    torch.save({"model": lacking}, tmp_path / "lacking.pth")
    with pytest.raises(UserError, match="cls_logits.* would be random"):
        AdetCheckpointer(model).load_to_predict(str(tmp_path / "lacking.pth"))
    AdetCheckpointer(model).load(str(tmp_path / "lacking.pth"))  # to train from
