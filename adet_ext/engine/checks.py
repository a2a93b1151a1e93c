"""What a run checks before it builds anything: the solver's values, the device, the number of classes."""

import math
from collections.abc import Callable
from typing import Any

import torch

from ..d2.config import CfgNode
from ..d2.data import MetadataCatalog
from ..data.register import check_registered, num_classes_of
from ..errors import UserError
from .evaluators import check_evaluator_type

__all__ = ["check_classes", "check_datasets", "check_device", "check_training"]


def check_device(cfg: CfgNode) -> None:
    """Refuse a device that torch does not know or a GPU that is not there; torch would not name the key.

    Raises:
        UserError: naming ``MODEL.DEVICE``.
    """
    name = cfg.MODEL.DEVICE
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"MODEL.DEVICE must be cpu, cuda or cuda:N; got {name!r}") from error
    if device.type != "cuda":
        return
    if not torch.cuda.is_available():
        why = "this torch is built without CUDA" if torch.version.cuda is None else "torch finds no GPU here"
        raise UserError(f"MODEL.DEVICE is {name}, but {why}; add MODEL.DEVICE cpu to run on the CPU")
    if (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"MODEL.DEVICE is {name}, but the GPUs here are cuda:0 to cuda:{torch.cuda.device_count() - 1}")


def _number(least: float, *, above: bool = False, none: bool = False) -> tuple[Callable[[Any], bool], str]:
    """A rule for finite numbers from ``least`` on, or above it; ``none`` allows None too."""

    def holds(value: Any) -> bool:
        if value is None:
            return none
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        return number and (value > least if above else value >= least)

    return holds, f"a finite number, {'above ' if above else ''}{least:g}{'' if above else ' or more'}"


def _whole(least: int, most: float = math.inf) -> tuple[Callable[[Any], bool], str]:
    def holds(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most

    return holds, f"a whole number, {least} or more" if most == math.inf else f"a whole number from {least} to {most}"


def _one_of(*names: str) -> tuple[Callable[[Any], bool], str]:
    return (lambda value: value in names), " or ".join(repr(name) for name in names)


_RULES = {
    "SOLVER.OPTIMIZER": ((lambda value: str(value).upper() in ("SGD", "ADAMW")), "SGD or ADAMW"),
    "SOLVER.MAX_ITER": _whole(1),
    "SOLVER.BASE_LR": _number(0),
    "SOLVER.BASE_LR_END": _number(0),
    "SOLVER.BACKBONE_MULTIPLIER": _number(0),
    "SOLVER.MOMENTUM": _number(0),
    "SOLVER.WEIGHT_DECAY": _number(0),
    "SOLVER.WEIGHT_DECAY_NORM": _number(0, none=True),
    "SOLVER.WEIGHT_DECAY_BIAS": _number(0, none=True),
    "SOLVER.BIAS_LR_FACTOR": _number(0, none=True),
    "SOLVER.GAMMA": _number(0, above=True),
    "SOLVER.NUM_DECAYS": _whole(1),
    "SOLVER.WARMUP_FACTOR": _number(0),
    "SOLVER.WARMUP_ITERS": _whole(0),
    "SOLVER.WARMUP_METHOD": _one_of("linear", "constant"),
    "SOLVER.CHECKPOINT_PERIOD": _whole(1),
    "SOLVER.IMS_PER_BATCH": _whole(1),
    "SOLVER.REFERENCE_WORLD_SIZE": _whole(0),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": _one_of("value", "norm"),
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": _number(0, above=True),
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": (lambda x: x == math.inf or _number(0, above=True)[0](x), "a number above 0"),
    "DATALOADER.NUM_WORKERS": _whole(0),
    "DATALOADER.REPEAT_THRESHOLD": _number(0),
    "TEST.EVAL_PERIOD": _whole(0),
    "TEST.TRIMAP_WIDTH": _whole(1),
    "INPUT.VIDEO.FRAMES": _whole(1),
    "INPUT.VIDEO.FRAMES_TEST": _whole(0),
    "TEST.PRECISE_BN.NUM_ITER": _whole(1),
    "SEED": (lambda value: isinstance(value, int) and value < 2**31, "a whole number below 2147483648"),
    "FLOAT32_PRECISION": _one_of("", "highest", "high", "medium"),
}


def check_training(cfg: CfgNode) -> None:
    """Refuse values of the solver, the loader and the evaluation that torch or fvcore would refuse without a key.

    Raises:
        UserError: naming the key, what it must be and what it is.
    """
    for key, (holds, words) in _RULES.items():
        node = cfg
        for part in key.split("."):
            node = node.get(part) if part in node else _ABSENT
            if node is _ABSENT:
                break
        if node is not _ABSENT and not holds(node):
            raise UserError(f"{key} must be {words}; got {node}")
    _check_schedule(cfg.SOLVER)
    for item in cfg.TEST.EXPECTED_RESULTS:
        if not (isinstance(item, (list, tuple)) and len(item) == 4 and all(map(_number(-math.inf)[0], item[2:]))):
            raise UserError(f"TEST.EXPECTED_RESULTS must be a list of [task, metric, value, tolerance]; got {item}")
    if cfg.SOLVER.AMP.ENABLED and not cfg.MODEL.DEVICE.startswith("cuda"):
        raise UserError(
            f"SOLVER.AMP.ENABLED is True, but MODEL.DEVICE is {cfg.MODEL.DEVICE}, and mixed precision needs a GPU. "
            "Set SOLVER.AMP.ENABLED to False"
        )


_ABSENT = object()


def _check_schedule(solver: CfgNode) -> None:
    """The values that must fit one another."""
    steps = list(solver.STEPS)
    if solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR" and (
        not all(map(_whole(1)[0], steps)) or any(a >= b for a, b in zip(steps, steps[1:])) or solver.MAX_ITER in steps
    ):
        raise UserError(
            "SOLVER.STEPS must be whole numbers from 1 on, each larger than the one before, and none equal to "
            f"SOLVER.MAX_ITER, {solver.MAX_ITER}; got {tuple(steps)}"
        )
    if solver.LR_SCHEDULER_NAME == "WarmupCosineLR" and not 0 < solver.BASE_LR >= solver.BASE_LR_END:
        raise UserError(
            "SOLVER.BASE_LR must be above 0 and not below SOLVER.BASE_LR_END with WarmupCosineLR; got "
            f"{solver.BASE_LR} and {solver.BASE_LR_END}"
        )
    if solver.NESTEROV and not solver.MOMENTUM and solver.OPTIMIZER.upper() == "SGD":
        raise UserError("SOLVER.MOMENTUM must be above 0 with SOLVER.NESTEROV; got 0")
    if solver.RESCALE_INTERVAL and solver.WARMUP_ITERS >= solver.MAX_ITER:
        raise UserError(
            f"SOLVER.WARMUP_ITERS must be below SOLVER.MAX_ITER, {solver.MAX_ITER}, with SOLVER.RESCALE_INTERVAL; got "
            f"{solver.WARMUP_ITERS}"
        )
    reference = solver.REFERENCE_WORLD_SIZE
    if reference and solver.IMS_PER_BATCH % reference:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH must be a multiple of SOLVER.REFERENCE_WORLD_SIZE, {reference}; got "
            f"{solver.IMS_PER_BATCH}"
        )


def check_datasets(cfg: CfgNode, training: bool) -> None:
    """Refuse data sets that cannot be used, before the hours of a training.

    Args:
        training: whether the run trains, so that the training sets need what the model learns from.

    Raises:
        UserError: a name is not registered, a test set has no evaluator or other classes than the training sets, or
            the model needs masks that the training sets or the config do not give.
    """
    for key in ("TRAIN", "TEST"):
        names = cfg.DATASETS[key]
        if isinstance(names, str):
            raise UserError(f"DATASETS.{key} must be a tuple of names; got {names!r}. Write ({names!r},)")
        for name in names:
            check_registered(name)
    if training and cfg.MODEL.META_ARCHITECTURE in _WITH_MASKS:
        _check_masks(cfg)
    for name in cfg.DATASETS.TEST:
        kind = check_evaluator_type(name)
        if kind != "sem_seg" and cfg.DATASETS.TRAIN:
            kind_of_classes = "stuff_classes" if kind == "video_sem_seg" else "thing_classes"
            _check_same_classes(cfg.DATASETS.TRAIN[0], name, kind_of_classes)


_WITH_MASKS = ("SmalMask", "SmalMask2", "BlendMask", "DR1Mask")


def _check_masks(cfg: CfgNode) -> None:
    model, advice = cfg.MODEL.META_ARCHITECTURE, "To train boxes only, use a config of FCOS, such as FCOS/R_50_1x.yaml"
    if not cfg.MODEL.MASK_ON:
        raise UserError(f"MODEL.MASK_ON must be True for {model}; got False. {advice}")
    for name in cfg.DATASETS.TRAIN:
        if MetadataCatalog.get(name).get("has_masks") is False:
            raise UserError(f"the training set {name} has no masks, and {model} learns from masks. {advice}")


def _check_same_classes(train: str, test: str, kind: str) -> None:
    classes, others = (MetadataCatalog.get(name).get(kind) for name in (train, test))
    if classes and others and list(classes) != list(others):
        advice = (
            "register the second with the classes of the first: "
            f"register_dataset({test!r}, images, annotations, classes=MetadataCatalog.get({train!r}).thing_classes)"
        )
        if kind == "stuff_classes":
            advice = "evaluate on a set with the classes of the first"
        raise UserError(
            f"data sets {train} ({', '.join(classes)}) and {test} ({', '.join(others)}) have different classes or "
            f"another order of them; {advice}"
        )


def check_classes(cfg: CfgNode) -> None:
    """Refuse a model whose number of classes is not the training sets'.

    Raises:
        UserError: naming both numbers and the keys to set.
    """
    for name in dict.fromkeys((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)):
        kind = MetadataCatalog.get(name).get("evaluator_type")
        if kind == "video_sem_seg" or (kind == "sem_seg" and cfg.INPUT.SEMANTIC.ENABLED):
            _check_stuff(cfg, name)
    if not cfg.DATASETS.TRAIN:
        return
    found = num_classes_of(cfg.DATASETS.TRAIN)
    wrong = {}
    if cfg.MODEL.FCOS.NUM_CLASSES != found:
        wrong["MODEL.FCOS.NUM_CLASSES"] = cfg.MODEL.FCOS.NUM_CLASSES
    if cfg.MODEL.BASIS_MODULE.LOSS_ON and cfg.MODEL.BASIS_MODULE.NUM_CLASSES != found:
        wrong["MODEL.BASIS_MODULE.NUM_CLASSES"] = cfg.MODEL.BASIS_MODULE.NUM_CLASSES
    if found and wrong:
        keys = " and ".join(f"{key} is {value}" for key, value in wrong.items())
        raise UserError(f"the training data {', '.join(cfg.DATASETS.TRAIN)} has {found} classes, but {keys}")
    # The key is on by default in Detectron2, where other architectures do not look at it.
    if cfg.MODEL.META_ARCHITECTURE == "BlendMask" and cfg.MODEL.PANOPTIC_FPN.COMBINE.ENABLED:
        for name in cfg.DATASETS.TRAIN:
            _check_stuff(cfg, name)


def _check_stuff(cfg: CfgNode, name: str) -> None:
    stuff = MetadataCatalog.get(name).get("stuff_classes")
    if stuff is None:
        raise UserError(
            f"the training data {name} has no stuff to learn panoptic segmentation from; name a panoptic data set "
            "such as coco_2017_train_panoptic_separated, or set MODEL.PANOPTIC_FPN.COMBINE.ENABLED to False"
        )
    if len(stuff) != cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES:
        raise UserError(
            f"data set {name} has {len(stuff)} semantic classes ({', '.join(stuff)}), but "
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES}"
        )
