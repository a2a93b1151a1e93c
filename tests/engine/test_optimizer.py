"""The optimizer: learning rates of the backbone's body, on top of what the engine does."""

import pytest
import torch

from adet_ext.config import get_cfg
from adet_ext.d2.modeling import build_model
from adet_ext.engine.optimizer import build_optimizer

from ..modeling.conftest import TINY


@pytest.mark.parametrize("kind", ["SGD", "ADAMW"])
def test_the_body_learns_at_a_rate_of_its_own(kind):
    cfg = get_cfg()
    options = ["SOLVER.OPTIMIZER", kind, "SOLVER.BASE_LR", 0.5, "SOLVER.BIAS_LR_FACTOR", 2.0]
    cfg.merge_from_list([*TINY, *options, "SOLVER.WEIGHT_DECAY_NORM", 0.25])
    model = build_model(cfg)
    plain = {id(p): group for group in build_optimizer(cfg, model).param_groups for p in group["params"]}
    cfg.SOLVER.BACKBONE_MULTIPLIER = 0.1
    optimizer = build_optimizer(cfg, model)
    assert isinstance(optimizer, torch.optim.SGD if kind == "SGD" else torch.optim.AdamW)
    found = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert found.keys() == plain.keys() == {id(p) for p in model.parameters() if p.requires_grad}
    for name, parameter in model.named_parameters():
        group, before = found[id(parameter)], plain[id(parameter)]
        assert group["lr"] == pytest.approx(before["lr"] * (0.1 if ".bottom_up." in name else 1)), name
        assert {**group, "lr": 0, "params": 0, "foreach": 0} == {**before, "lr": 0, "params": 0, "foreach": 0}
