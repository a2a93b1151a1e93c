"""Values of the config that torch or fvcore would refuse without naming the key."""

import math

import pytest

from adet_ext import get_cfg
from adet_ext.engine.checks import check_device, check_training
from adet_ext.errors import UserError


def refused(**values):
    """Check a config with ``values``, whose keys have "__" for dots."""
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    for key, value in values.items():
        *path, last = key.split("__")
        node = cfg
        for part in path:
            node = node[part]
        node[last] = value
    check_training(cfg)


def test_the_defaults_and_what_is_allowed_pass():
    refused()
    refused(SOLVER__STEPS=(), SOLVER__WEIGHT_DECAY_NORM=None, SOLVER__WARMUP_ITERS=0, DATALOADER__NUM_WORKERS=0)
    refused(SOLVER__STEPS=(3, 7, 10**9), SOLVER__CLIP_GRADIENTS__NORM_TYPE=math.inf, SEED=-1)
    refused(SOLVER__LR_SCHEDULER_NAME="WarmupCosineLR", SOLVER__STEPS=(3, 1))


NUMBERS = (
    "BASE_LR BASE_LR_END MOMENTUM WEIGHT_DECAY WEIGHT_DECAY_NORM WEIGHT_DECAY_BIAS BIAS_LR_FACTOR GAMMA WARMUP_FACTOR"
)


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, "x", True])
@pytest.mark.parametrize("key", [*NUMBERS.split(), "CLIP_GRADIENTS__CLIP_VALUE"])
def test_numbers_are_finite_and_not_negative(key, value):
    with pytest.raises(UserError, match=f"^SOLVER.{key.replace('__', '.')} must be a finite number.*; got {value}$"):
        refused(**{f"SOLVER__{key}": value})


@pytest.mark.parametrize("value", [-1, 0, 1.5, "1"])
@pytest.mark.parametrize("key", ["MAX_ITER", "CHECKPOINT_PERIOD", "IMS_PER_BATCH"])
def test_counts_are_whole_and_positive(key, value):
    with pytest.raises(UserError, match=f"^SOLVER.{key} must be a whole number, 1 or more; got {value}$"):
        refused(**{f"SOLVER__{key}": value})


@pytest.mark.parametrize("steps", [(5, 3), (4, 4), (0,), (-2,), (2.5,), (3, 20), ("3",)])
def test_steps_increase_and_none_is_the_end(steps):
    with pytest.raises(UserError, match="^SOLVER.STEPS must be whole numbers .* SOLVER.MAX_ITER, 20; got"):
        refused(SOLVER__MAX_ITER=20, SOLVER__STEPS=steps)


@pytest.mark.parametrize(
    "values, words",
    [
        ({"SOLVER__WARMUP_ITERS": -1}, "SOLVER.WARMUP_ITERS must be a whole number, 0 or more; got -1"),
        ({"SOLVER__WARMUP_METHOD": "cubic"}, "SOLVER.WARMUP_METHOD must be 'linear' or 'constant'; got cubic"),
        ({"SOLVER__OPTIMIZER": "LION"}, "SOLVER.OPTIMIZER must be SGD or ADAMW; got LION"),
        ({"SOLVER__NESTEROV": True, "SOLVER__MOMENTUM": 0.0}, "SOLVER.MOMENTUM must be above 0 with SOLVER.NESTEROV"),
        ({"SOLVER__CLIP_GRADIENTS__CLIP_TYPE": "x"}, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE must be 'value' or 'norm'"),
        ({"SOLVER__CLIP_GRADIENTS__NORM_TYPE": 0}, "SOLVER.CLIP_GRADIENTS.NORM_TYPE must be a number above 0; got 0"),
        ({"SOLVER__LR_SCHEDULER_NAME": "WarmupCosineLR", "SOLVER__BASE_LR": 0.0}, "SOLVER.BASE_LR must be above 0"),
        ({"SOLVER__LR_SCHEDULER_NAME": "WarmupCosineLR", "SOLVER__BASE_LR_END": 1.0}, "below SOLVER.BASE_LR_END"),
        ({"SOLVER__RESCALE_INTERVAL": True, "SOLVER__WARMUP_ITERS": 10**6}, "SOLVER.WARMUP_ITERS must be below"),
        ({"SOLVER__REFERENCE_WORLD_SIZE": 3}, "SOLVER.IMS_PER_BATCH must be a multiple of SOLVER.REFERENCE_WORLD_SIZE"),
        ({"DATALOADER__NUM_WORKERS": -2}, "DATALOADER.NUM_WORKERS must be a whole number, 0 or more; got -2"),
        ({"DATALOADER__REPEAT_THRESHOLD": math.nan}, "DATALOADER.REPEAT_THRESHOLD must be a finite number"),
        ({"TEST__EVAL_PERIOD": -5}, "TEST.EVAL_PERIOD must be a whole number, 0 or more; got -5"),
        ({"TEST__EXPECTED_RESULTS": [["bbox", "AP", 1]]}, "TEST.EXPECTED_RESULTS must be a list of"),
        ({"TEST__EXPECTED_RESULTS": [["bbox", "AP", "1", 2]]}, "TEST.EXPECTED_RESULTS must be a list of"),
        ({"SEED": 2**40}, "SEED must be a whole number below"),
        ({"FLOAT32_PRECISION": "best"}, "FLOAT32_PRECISION must be '' or 'highest'"),
        ({"SOLVER__AMP__ENABLED": True}, "SOLVER.AMP.ENABLED is True, but MODEL.DEVICE is cpu"),
    ],
)
def test_other_values_are_refused_by_key(values, words):
    with pytest.raises(UserError, match=words):
        refused(**values)


def test_a_device_that_torch_does_not_know_is_refused():
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "gpu0"
    with pytest.raises(UserError, match="MODEL.DEVICE must be cpu, cuda or cuda:N; got 'gpu0'"):
        check_device(cfg)
