"""Training: Detectron2's DefaultTrainer with what long runs need beside it.

Batches are a function of the seed and the iteration, so that a run which was killed and resumed goes on with the very
batches it would have seen; checkpoints survive a crash at any byte; a loss that is not finite names its images.
"""

import itertools
import logging
import os
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import yaml

from ..d2.config import CfgNode
from ..d2.data import MetadataCatalog
from ..d2.engine import DefaultTrainer, HookBase, TrainerBase, default_setup, hooks
from ..d2.evaluation import (
    DatasetEvaluator,
)
from ..d2.layers import NaiveSyncBatchNorm
from ..d2.solver import LRMultiplier
from ..d2.utils import EventWriter, comm, setup_logger
from ..data.catalog import model_classes_of
from ..data.loader import build_test_loader, build_train_loader
from ..errors import UserError, one_line
from ..utils.files import disk_problem, make_folder, remove_remains
from ..utils.stopping import StopRequest, held_back
from .checkpoint import HOW_TO_GO_ON, AdetCheckpointer, Diverged
from .checks import check_classes, check_datasets, check_device, check_training
from .evaluators import build_evaluator
from .optimizer import build_optimizer
from .resume import RunHistory, fit_optimizer, parameter_names

__all__ = ["Trainer", "setup"]

logger = logging.getLogger(__name__)


def setup(cfg: CfgNode, args: Any) -> CfgNode:
    """Prepare a run: a seed on record, the output folder, logging, the config beside it; then freeze ``cfg``.

    A seed below 0 asks for a random one; it is drawn here and written to the output folder's ``config.yaml``, from
    where a resumed run takes it.

    Raises:
        UserError: a value of the config does not fit, or the output folder cannot be written to.
    """
    if not getattr(args, "eval_only", False):
        check_training(cfg)
    check_device(cfg)
    check_datasets(cfg, training=not getattr(args, "eval_only", False))
    check_classes(cfg)
    if cfg.OUTPUT_DIR and comm.is_main_process():
        remove_remains(make_folder(cfg.OUTPUT_DIR, "OUTPUT_DIR"))
    if cfg.SEED < 0:
        cfg.SEED = _recorded_seed(cfg.OUTPUT_DIR) if getattr(args, "resume", False) else -1
        if cfg.SEED < 0:
            cfg.SEED = comm.shared_random_seed()
    cfg.freeze()
    try:
        default_setup(cfg, args)
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="adet_ext")
    except OSError as error:
        problem = disk_problem(cfg.OUTPUT_DIR, error)
        raise UserError(f"OUTPUT_DIR is {cfg.OUTPUT_DIR}, and {problem or error}") from error
    return cfg


def _recorded_seed(folder: str) -> int:
    """The seed that an earlier run drew, or -1."""
    try:
        with open(os.path.join(folder, "config.yaml"), encoding="utf-8") as file:
            return int(yaml.safe_load(file)["SEED"])
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):  # cut off by a crash, or not there
        return -1


class RecordFileNames:
    """A data loader that keeps the file names of the batch it gave last."""

    def __init__(self, loader):
        self.loader = loader
        self.file_names: list[str] = []

    def __iter__(self) -> Iterator[list[dict]]:
        batches = iter(self.loader)
        with held_back():  # the loader's workers start with the first batch
            first = next(batches)
        for batch in itertools.chain([first], batches):
            self.file_names = [str(x.get("file_name", "an image without a file name")) for x in batch]
            yield batch


class StopAtRequest(HookBase):
    """Answers a :class:`StopRequest` after the iteration: writes a checkpoint, then stops all processes together."""

    def __init__(self, request: StopRequest, checkpointer: AdetCheckpointer):
        self._request, self._checkpointer = request, checkpointer

    def after_step(self) -> None:
        number = max(comm.all_gather(self._request.requested))
        if not number or self.trainer.iter + 1 >= self.trainer.max_iter:  # the last iteration has its checkpoint
            return
        name = f"model_{self.trainer.iter:07d}"
        if comm.is_main_process():
            self._checkpointer.save(name, iteration=self.trainer.iter)
        comm.synchronize()  # a process that ends before would take the others with it
        self._request.stop(
            number, f"stopped after iteration {self.trainer.iter}, which {name}.pth holds; go on with --resume"
        )


class Trainer(DefaultTrainer):
    """Trains what a config describes; made and used as Detectron2's DefaultTrainer is."""

    def __init__(self, cfg: CfgNode):
        check_training(cfg)
        self._stop_request = StopRequest()
        super().__init__(cfg)

    def build_hooks(self) -> list[HookBase | None]:
        # Before the hooks are made, because one of them holds the checkpointer.
        self.checkpointer = AdetCheckpointer(self.checkpointer.model, self.cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.checkpointer.classes = self._classes()
        self._event_writers: list[EventWriter] = []
        built = super().build_hooks()
        self._history = RunHistory(self._event_writers, os.path.join(self.cfg.OUTPUT_DIR, "metrics.json"))
        # What comes from here on is done again by a run that resumes from a checkpoint of this iteration.
        first = next(i for i, hook in enumerate(built) if isinstance(hook, hooks.EvalHook))
        built.insert(first, StopAtRequest(self._stop_request, self.checkpointer))
        return [self._history, *built]

    def _classes(self) -> list[str] | None:
        train = self.cfg.DATASETS.TRAIN
        return (model_classes_of(MetadataCatalog.get(train[0])) if train else None) or None

    def build_writers(self) -> list[EventWriter]:
        self._event_writers[:] = super().build_writers()
        return self._event_writers

    def resume_or_load(self, resume: bool = True) -> None:
        """Load the last checkpoint of the output folder if ``resume``, else ``MODEL.WEIGHTS``.

        The data, the learning rates and ``metrics.json`` go on where the checkpoint was written, under the config's
        values.

        Raises:
            UserError: the checkpoint cannot be loaded, or is not one of the run that the config describes, or the run
                had other classes.
        """
        super().resume_or_load(resume=resume)
        classes, loaded = self.checkpointer.classes, self.checkpointer.loaded_classes
        if self.start_iter > 0:
            self.checkpointer.check_classes(", ".join(self.cfg.DATASETS.TRAIN), classes)
        elif classes and loaded and classes != loaded and len(classes) == len(loaded):
            logger.warning("The classifier starts from weights for other classes: %s", ", ".join(loaded))
        if resume and comm.is_main_process():
            self._history.cut_back(self.start_iter - 1)
        if self.start_iter > 0:
            start = self.start_iter
            self._trainer.reset_data_loader(lambda: RecordFileNames(build_train_loader(self.cfg, start_iter=start)))

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "parameter_names": parameter_names(self.checkpointer.model, self.optimizer)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a checkpoint with the hyperparameters of the config."""
        iteration, solver = state_dict["iteration"], self.cfg.SOLVER
        if not isinstance(iteration, int) or iteration < 0:
            raise UserError(f"the checkpoint's iteration must be a whole number; got {iteration!r:.80}")
        if iteration >= solver.MAX_ITER:
            raise UserError(
                f"SOLVER.MAX_ITER must be {iteration + 1} or more to go on with this checkpoint, which is of iteration "
                f"{iteration}; got {solver.MAX_ITER}"
            )
        inner = dict(state_dict["_trainer"])
        names = parameter_names(self.checkpointer.model, self.optimizer)
        inner["optimizer"] = fit_optimizer(inner["optimizer"], state_dict.get("parameter_names"), self.optimizer, names)
        if hasattr(self._trainer, "grad_scaler"):  # mixed precision may have been switched on since
            inner.setdefault("grad_scaler", self._trainer.grad_scaler.state_dict())
        states = dict(state_dict.get("hooks", {}))
        if isinstance(self.scheduler, LRMultiplier) and "LRScheduler" in states:
            if list(states["LRScheduler"]["base_lrs"]) != self.scheduler.base_lrs:
                logger.warning("The learning rate goes on from SOLVER.BASE_LR %g, not the checkpoint's", solver.BASE_LR)
            states["LRScheduler"] = {"base_lrs": self.scheduler.base_lrs, "last_epoch": iteration + 1}
        super().load_state_dict({**state_dict, "_trainer": inner, "hooks": states})
        if isinstance(self.scheduler, LRMultiplier):
            for group, rate in zip(self.optimizer.param_groups, self.scheduler.get_lr()):
                group["lr"] = rate

    def train(self) -> Any:
        """Train to the end. SIGTERM or Ctrl-C stops after the iteration, with a checkpoint.

        Raises:
            UserError: the loss is not finite, or the output folder cannot be written to any more.
        """
        quiet = logging.getLogger(TrainerBase.__module__)  # logs whatever stops a training with its traceback
        quiet.addFilter(_without_traceback)
        try:
            with self._stop_request:
                return super().train()
        except OSError as error:
            problem = disk_problem(self.cfg.OUTPUT_DIR, error)
            if not problem:
                raise
            raise UserError(f"OUTPUT_DIR is {self.cfg.OUTPUT_DIR}, and {problem}; then go on with --resume") from error
        finally:
            quiet.removeFilter(_without_traceback)

    def before_train(self) -> None:
        if self._history.is_loaded:
            for hook in self._hooks:
                if isinstance(hook, hooks.IterationTimer):
                    hook._warmup_iter = 0  # every iteration has a time, or the last one's would get a line of its own
        super().before_train()
        if self._history.is_loaded:
            # The checkpoint was written before these hooks of its iteration.
            self.iter = self.storage.iter = self.start_iter - 1
            for hook in self._hooks:
                if isinstance(hook, (hooks.EvalHook, hooks.PeriodicWriter)):
                    hook.after_step()

    def run_step(self) -> None:
        try:
            super().run_step()
        except FloatingPointError as error:
            names = ", ".join(self._trainer.data_loader.file_names)
            last = self.checkpointer.step_back(self.iter - 1) if comm.is_main_process() else ""
            raise Diverged(
                f"{one_line(error)} The batch of iteration {self.iter}: {names}. The weights were not updated with it "
                f"and the checkpoints in {self.cfg.OUTPUT_DIR} are as they were; {HOW_TO_GO_ON}"
                + (f" from {last}" if last else "")
            ) from error

    @classmethod
    def build_model(cls, cfg: CfgNode) -> torch.nn.Module:
        try:
            model = super().build_model(cfg)
        except (ValueError, KeyError, AssertionError) as error:  # constructors, of what does not fit together
            raise UserError(one_line(error)) from error
        if comm.get_world_size() > 1 and next(model.parameters()).device.type == "cpu":
            # torch's own synchronised norm runs on GPUs alone.
            model = _with_naive_sync_norm(model)
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> RecordFileNames:
        return RecordFileNames(build_train_loader(cfg))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str):
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None) -> DatasetEvaluator:
        return build_evaluator(cfg, dataset_name, output_folder)


def _without_traceback(record: logging.LogRecord) -> bool:
    """Keep the traceback of what a user can put right out of the log."""
    if record.exc_info and isinstance(record.exc_info[1], (UserError, OSError)):
        record.msg, record.args, record.exc_info = f"{record.msg} {record.exc_info[1]}", (), None
    return True


def _with_naive_sync_norm(module: torch.nn.Module) -> torch.nn.Module:
    if isinstance(module, torch.nn.SyncBatchNorm):
        new = NaiveSyncBatchNorm(module.num_features, eps=module.eps, momentum=module.momentum)
        new.load_state_dict(module.state_dict())
        return new
    for name, child in module.named_children():
        setattr(module, name, _with_naive_sync_norm(child))
    return module
