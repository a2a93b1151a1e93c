"""From a config to a report in one call: train with a progress bar, evaluate, draw, report; resumable."""

import argparse
import os
import shutil
import time
from collections.abc import Callable, Sequence

import yaml

from ..d2.config import CfgNode
from ..engine.predictor import Predictor
from ..engine.progress import ProgressBar, forget_terminal, quiet_console
from ..engine.trainer import setup
from ..engine.trainers import trainer_of
from ..errors import UserError
from ..report.gallery import make_gallery
from ..report.metrics import Metrics, overall
from ..report.page import duration
from ..report.training import make_report
from ..utils.files import make_folder

__all__ = ["clear_run", "run_to_report"]

PICTURES = "pictures"
# What a run leaves in its output folder, besides model_*.pth.
_LEFT = ("metrics.json", "last_checkpoint", "config.yaml", "log.txt", "report.html", PICTURES, "inference")


def run_to_report(
    cfg: CfgNode,
    *,
    title: str = "",
    command: Sequence[str] = (),
    images: int = 12,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[str, dict[str, float]]:
    """Train what ``cfg`` describes in its OUTPUT_DIR, or go on with what is there, and leave a report.

    Args:
        cfg: not frozen. Pictures and the AP are those of the first data set in DATASETS.TEST.
        title, command: for the report.
        images: how many test images to draw.
        say: is told, in a line each, what begins and what was found.

    Returns:
        the report's path, and the last AP of each task: {"bbox": ..., "segm": ...}; without those of which nothing
        was detected.

    Raises:
        UserError: the folder holds a run with other settings, or cannot be written to.
    """
    begin, output = time.perf_counter(), cfg.OUTPUT_DIR
    make_folder(output)
    _check_same_run(cfg)
    with quiet_console(os.path.join(output, "log.txt")) as log:
        cfg = setup(cfg, argparse.Namespace(config_file="", eval_only=False, resume=True, opts=[]))
        forget_terminal(log)
        trainer = trainer_of(cfg)(cfg)
        trainer.resume_or_load(resume=True)
        if trainer.start_iter >= trainer.max_iter:
            say(f"{output} holds a finished training; evaluating it again")
        elif trainer.start_iter:
            say(f"going on after iteration {trainer.start_iter}; --fresh starts anew")
        trainer.register_hooks([ProgressBar()])
        trainer.train()
        say("evaluated; drawing")
        make_gallery(Predictor(cfg, trainer.model), cfg.DATASETS.TEST[0], os.path.join(output, PICTURES), count=images)
        facts = {"Altogether": f"{duration(time.perf_counter() - begin)}, with evaluation and pictures"}
        if trainer.start_iter:
            facts["Altogether"] += f", since iteration {trainer.start_iter}"
        report = make_report(output, title=title, command=command, facts=facts, pictures=PICTURES)
    results = Metrics(os.path.join(output, "metrics.json")).results()
    results = next(iter(results.values()), {})
    found = {task: overall(values, ("AP",))[0] for task, values in results.items()}
    return report, {task: value for task, value in found.items() if value is not None}


def clear_run(output: str) -> None:
    """Remove what a run left in ``output``, and nothing else that may lie there."""
    if not os.path.isdir(output):
        return
    checkpoints = [n for n in os.listdir(output) if n.startswith("model_") and n.endswith(".pth")]
    events = [n for n in os.listdir(output) if n.startswith("events.out.tfevents")]
    for name in (*_LEFT, *checkpoints, *events):
        path = os.path.join(output, name)
        if os.path.isdir(path):
            shutil.rmtree(path)
        elif os.path.exists(path):
            os.remove(path)


def _check_same_run(cfg: CfgNode) -> None:
    """Refuse to go on with a run whose recorded config differs: the weights or the schedule would not fit."""
    path = os.path.join(cfg.OUTPUT_DIR, "config.yaml")
    if not os.path.isfile(path) or not os.path.isfile(os.path.join(cfg.OUTPUT_DIR, "last_checkpoint")):
        return
    with open(path, encoding="utf-8") as file:
        before = _flat(yaml.safe_load(file) or {})
    now = _flat(yaml.safe_load(cfg.dump()))
    if now.get("SEED", 0) < 0:
        before.pop("SEED", None), now.pop("SEED", None)  # a random seed was drawn then
    for ignored in ("OUTPUT_DIR", "VERSION"):
        before.pop(ignored, None), now.pop(ignored, None)
    other = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if other:
        more = f" and {len(other) - 3} more" if len(other) > 3 else ""
        raise UserError(
            f"{cfg.OUTPUT_DIR} holds a run with another {', '.join(other[:3])}{more}; start anew with --fresh or name "
            "another folder with --output"
        )


def _flat(node: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in node.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
