"""The moving average of the weights: what it is, what a training ends with, and that a resumed one ends the same."""

import pytest
import torch
from torch import nn

from adet_ext.engine.average import WeightAverage
from adet_ext.engine.checkpoint import AdetCheckpointer
from adet_ext.engine.trainer import Trainer
from adet_ext.errors import UserError

from .. import runs


class _Steps:
    iter = 0


def _run(model: nn.Module, hook: WeightAverage, values: list[float], first: int = 0) -> None:
    hook.trainer = _Steps()
    hook.before_train()
    for i, value in enumerate(values, start=first):
        nn.init.constant_(model.weight, value)
        hook.trainer.iter = i
        hook.after_step()


def test_the_average_is_the_recursion_with_its_warm_up():
    model, values = nn.Linear(1, 1, bias=False), [1.0, 4.0, 2.0, 8.0]
    hook = WeightAverage(model, 0.25, len(values))
    nn.init.constant_(model.weight, 16.0)  # loaded after the hook was made
    _run(model, hook, values)
    expected = 16.0
    for step, value in enumerate(values):
        decay = min(0.25, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert model.weight.item() == pytest.approx(expected, rel=1e-6)


def test_a_state_that_is_loaded_goes_on():
    values = [1.0, 4.0, 2.0, 8.0]
    models = [nn.Linear(1, 1, bias=False) for _ in range(3)]
    hooks = [WeightAverage(model, 0.5, len(values)) for model in models]
    for model in models[:2]:
        nn.init.zeros_(model.weight)
    _run(models[0], hooks[0], values)
    _run(models[1], hooks[1], values[:2])
    hooks[2].load_state_dict(hooks[1].state_dict())
    _run(models[2], hooks[2], values[2:], first=2)
    assert torch.equal(models[0].weight, models[2].weight)


def test_a_training_ends_with_the_average_and_a_resumed_one_too(tmp_path):
    options = ("SOLVER.EMA_DECAY", 0.5, "SOLVER.MAX_ITER", 2, "SOLVER.CHECKPOINT_PERIOD", 1)
    options += ("SOLVER.IMS_PER_BATCH", 2)
    trainer = Trainer(runs.config(tmp_path, *options))
    trainer.resume_or_load(resume=False)
    trainer.train()
    weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    (tmp_path / "last_checkpoint").write_text("model_0000000.pth")
    again = Trainer(runs.config(tmp_path, *options))
    again.resume_or_load(resume=True)
    again.train()
    for name, value in again.model.state_dict().items():
        assert torch.equal(value, weights[name]), name
    other = Trainer.build_model(trainer.cfg)
    AdetCheckpointer(other).load(str(tmp_path / "model_final.pth"))
    assert all(torch.equal(value, weights[name]) for name, value in other.state_dict().items())


@pytest.mark.parametrize("key, value", [("SOLVER.EMA_DECAY", 1.0), ("INPUT.COPY_PASTE", 1.5)])
def test_values_out_of_range_are_refused(key, value, tmp_path):
    with pytest.raises(UserError, match=f"{key} must be a .* from 0 to .*; got {value}"):
        Trainer(runs.config(tmp_path, key, value))
