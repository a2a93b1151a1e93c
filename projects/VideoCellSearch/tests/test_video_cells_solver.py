"""Optimizers and learning rates: poly at two rates; the cell alone, then everything."""

import copy

import pytest
import torch
from video_cells.solver import JointOptimizer, build_video_lr_scheduler, build_video_optimizer

from adet_ext.engine.resume import fit_optimizer, parameter_names
from adet_ext.errors import UserError


def rates(optimizer, scheduler, iterations):
    found = []
    for _ in range(iterations):
        found.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return found


def cell_and_static(optimizer, scheduler, iterations):
    """The rate of the first group, and that of all others."""
    found = rates(optimizer, scheduler, iterations)
    assert all(len(set(others)) == 1 for _, *others in found)
    return [first for first, *_ in found], [others[0] for _, *others in found]


def test_a_static_network_is_trained_at_two_rates_that_follow_poly(tiny_config, tiny_model):
    keys = ("SOLVER.BASE_LR", "0.01", "SOLVER.BACKBONE_MULTIPLIER", "5.0", "SOLVER.MAX_ITER", "10")
    cfg, model = tiny_config(*keys, "SOLVER.WARMUP_ITERS", "0"), tiny_model()
    optimizer = build_video_optimizer(cfg, model)
    encoder = {id(p) for p in model.backbone.parameters()}
    inside = [id(group["params"][0]) in encoder for group in optimizer.param_groups]
    first, *_, last = rates(optimizer, build_video_lr_scheduler(cfg, optimizer), 10)
    assert first == [0.05 if x else 0.01 for x in inside] and {True, False} == set(inside)
    torch.testing.assert_close(last, [rate * 0.1**0.9 for rate in first])


def joint(tiny_config, tiny_model, cell_file, *keys):
    named = ("MODEL.VIDEO.CELL", cell_file(), "SOLVER.BASE_LR", "0.0005", "SOLVER.MAX_ITER", "6")
    named += ("MODEL.VIDEO.SOLVER.CELL_ITERS", "2", "MODEL.VIDEO.SOLVER.POLY_POWER", "0.0", "SOLVER.WARMUP_ITERS", "0")
    cfg, model = tiny_config(*named, *keys), tiny_model(*named, *keys)
    return cfg, model, build_video_optimizer(cfg, model)


def test_the_cell_is_trained_by_adam_alone_then_at_half_the_rate_beside_sgd(tiny_config, tiny_model, cell_file):
    cfg, model, optimizer = joint(tiny_config, tiny_model, cell_file)
    cell, *static = optimizer.param_groups
    assert "betas" in cell and all(group["momentum"] == 0.9 for group in static)
    names = parameter_names(model, optimizer)
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    found = cell_and_static(optimizer, build_video_lr_scheduler(cfg, optimizer), 6)
    assert found == ([0.008] * 2 + [0.004] * 4, [0.0] * 2 + [0.0005] * 4)


def test_with_a_power_the_rates_fall_from_the_second_phase_on(tiny_config, tiny_model, cell_file):
    cfg, _, optimizer = joint(tiny_config, tiny_model, cell_file, "MODEL.VIDEO.SOLVER.POLY_POWER", "1.0")
    found = cell_and_static(optimizer, build_video_lr_scheduler(cfg, optimizer), 6)
    torch.testing.assert_close(found[0], [0.008, 0.008, 0.004, 0.003, 0.002, 0.001])
    torch.testing.assert_close(found[1], [0.0, 0.0, 5e-4, 3.75e-4, 2.5e-4, 1.25e-4])


def test_what_has_no_rate_waits_and_the_rest_is_torch_s_own():
    torch.manual_seed(0)
    a, b, c, d = (torch.nn.Parameter(torch.randn(3)) for _ in range(4))
    with torch.no_grad():
        c.copy_(a), d.copy_(b)
    parts = [torch.optim.Adam([a], lr=0.1), torch.optim.SGD([b], lr=0.0, momentum=0.9)]
    both = JointOptimizer(parts)
    adam, sgd = torch.optim.Adam([c], lr=0.1), torch.optim.SGD([d], lr=0.2, momentum=0.9)
    for step in range(4):
        if step == 2:
            both.param_groups[1]["lr"] = 0.2
        for optimizers, x, y in (([both], a, b), ([adam, *([sgd] if step >= 2 else [])], c, d)):
            for optimizer in optimizers:
                optimizer.zero_grad()
            y.grad = None
            (x.square().sum() + (x.detach() * y).sum() + y.pow(4).sum()).backward()
            for optimizer in optimizers:
                optimizer.step()
    torch.testing.assert_close(a, c)
    torch.testing.assert_close(b, d)


def test_a_joint_optimizer_goes_on_from_its_state(tiny_config, tiny_model, cell_file):
    runs = [joint(tiny_config, tiny_model, cell_file, "MODEL.VIDEO.SOLVER.CELL_ITERS", "0") for _ in range(2)]

    def step(run):
        torch.manual_seed(1)
        for parameter in run[1].parameters():
            parameter.grad = torch.randn_like(parameter)
        run[2].step()

    step(runs[0])
    names = parameter_names(runs[0][1], runs[0][2])
    runs[1][1].load_state_dict(runs[0][1].state_dict())
    saved = copy.deepcopy(runs[0][2].state_dict())
    runs[1][2].load_state_dict(fit_optimizer(saved, names, runs[1][2], parameter_names(runs[1][1], runs[1][2])))
    for run in runs:
        step(run)
    for x, y in zip(runs[0][1].parameters(), runs[1][1].parameters()):
        torch.testing.assert_close(x, y, rtol=0, atol=0)


def test_momenta_of_another_kind_are_refused(tiny_config, tiny_model, cell_file):
    _, model, optimizer = joint(tiny_config, tiny_model, cell_file)
    _, _, other = joint(tiny_config, tiny_model, cell_file, "SOLVER.OPTIMIZER", "ADAMW")
    names = parameter_names(model, optimizer)
    with pytest.raises(UserError, match="SOLVER.OPTIMIZER must be SGD"):
        fit_optimizer(optimizer.state_dict(), names, other, names)


@pytest.mark.parametrize(("key", "value"), [("CELL_ITERS", 7), ("POLY_POWER", -1.0), ("CELL_LR", -0.1)])
def test_values_that_do_not_fit_are_refused(key, value, tiny_config, tiny_model, cell_file):
    cfg, _, optimizer = joint(tiny_config, tiny_model, cell_file)
    cfg.MODEL.VIDEO.SOLVER[key] = value
    with pytest.raises(UserError, match=f"MODEL.VIDEO.SOLVER.{key} must be"):
        build_video_lr_scheduler(cfg, optimizer)
