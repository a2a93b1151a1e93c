"""Train as the config describes, for scripts without special needs."""

import logging
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from fvcore.nn.precise_bn import get_bn_modules
from torch import nn

from ..checkpoint import DetectionCheckpointer
from ..config import CfgNode
from ..evaluation import DatasetEvaluator, inference_on_dataset, print_csv_format, verify_results
from ..modeling import build_model
from ..solver import build_lr_scheduler, build_optimizer
from ..utils import comm
from ..utils.events import EventWriter
from ..utils.logger import setup_logger
from . import hooks
from .setup import create_ddp_model, default_writers
from .train_loop import AMPTrainer, HookBase, SimpleTrainer, TrainerBase


def _of_inner_trainer(name: str) -> property:
    """A property that is an attribute of the trainer which runs the steps."""
    return property(lambda self: getattr(self._trainer, name), lambda self, value: setattr(self._trainer, name, value))


class DefaultTrainer(TrainerBase):
    """Build model, optimizer, schedule, data, checkpoints, evaluation and logs from ``cfg``::

        trainer = DefaultTrainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        trainer.train()

    A subclass may override the ``build_...`` methods and :meth:`test`. Evaluation during training
    needs its :meth:`build_evaluator`.
    """

    def __init__(self, cfg: CfgNode):
        super().__init__()
        if not logging.getLogger("adet_ext").isEnabledFor(logging.INFO):
            setup_logger()
        reference = cfg.SOLVER.REFERENCE_WORLD_SIZE
        if reference not in (0, comm.get_world_size()):
            raise ValueError(
                f"SOLVER.REFERENCE_WORLD_SIZE is {reference} and this run has {comm.get_world_size()} "
                "process(es); scaling a schedule by the number of processes needs Detectron2. Set the key "
                "to 0 and adapt IMS_PER_BATCH, BASE_LR, MAX_ITER and STEPS by hand"
            )
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        model = create_ddp_model(model, broadcast_buffers=False)
        trainer_class = AMPTrainer if cfg.SOLVER.AMP.ENABLED else SimpleTrainer
        self._trainer = trainer_class(model, data_loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = DetectionCheckpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    model = _of_inner_trainer("model")
    data_loader = _of_inner_trainer("data_loader")
    optimizer = _of_inner_trainer("optimizer")

    def resume_or_load(self, resume: bool = True) -> None:
        """Continue from the last checkpoint in ``cfg.OUTPUT_DIR`` (weights, optimizer, schedule, iteration).

        Without ``resume``, or without a checkpoint, load only the weights of ``cfg.MODEL.WEIGHTS`` and
        start from iteration 0.
        """
        self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if resume and self.checkpointer.has_checkpoint():
            self.start_iter = self.iter + 1  # the checkpoint has the last iteration that was finished

    def build_hooks(self) -> list[HookBase | None]:
        """Return timer, schedule, checkpoints, evaluation and writers, in the order of their dependencies."""
        cfg = self.cfg
        if cfg.TEST.PRECISE_BN.ENABLED and get_bn_modules(self.model):
            raise ValueError(
                "TEST.PRECISE_BN.ENABLED is not in the embedded engine; switch it off or install Detectron2"
            )

        def evaluate() -> Mapping[str, Any]:
            self._last_eval_results = self.test(self.cfg, self.model)
            return self._last_eval_results

        built: list[HookBase | None] = [hooks.IterationTimer(), hooks.LRScheduler()]
        # A checkpoint comes before the evaluation, which may fail.
        if comm.is_main_process():
            built.append(hooks.PeriodicCheckpointer(self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD))
        built.append(hooks.EvalHook(cfg.TEST.EVAL_PERIOD, evaluate))
        # Writers come last, so that they write the results of the evaluation.
        if comm.is_main_process():
            built.append(hooks.PeriodicWriter(self.build_writers(), period=20))
        return built

    def build_writers(self) -> list[EventWriter]:
        return default_writers(self.cfg.OUTPUT_DIR, self.max_iter)

    def train(self) -> Mapping[str, Any] | None:
        """Train to the end. Return the last results if ``cfg.TEST.EXPECTED_RESULTS`` were checked."""
        super().train(self.start_iter, self.max_iter)
        if len(self.cfg.TEST.EXPECTED_RESULTS) and comm.is_main_process():
            assert hasattr(self, "_last_eval_results"), "TEST.EXPECTED_RESULTS, but nothing was evaluated"
            verify_results(self.cfg, self._last_eval_results)
            return self._last_eval_results
        return None

    def run_step(self) -> None:
        self._trainer.iter = self.iter
        self._trainer.run_step()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        model = build_model(cfg)
        logging.getLogger(__name__).info("Model:\n%s", model)
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable:
        """Return the endless iterable of training batches. A subclass must define it."""
        raise NotImplementedError("define build_train_loader(cls, cfg) in a subclass of DefaultTrainer")

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable:
        """Return the batches of a test set. A subclass must define it."""
        raise NotImplementedError("define build_test_loader(cls, cfg, dataset_name) in a subclass of DefaultTrainer")

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """Return the evaluator of a test set. Without one, :meth:`test` logs that it evaluates nothing."""
        raise NotImplementedError(
            "to evaluate during training, define build_evaluator(cls, cfg, dataset_name) in a subclass of "
            "DefaultTrainer, or call DefaultTrainer.test(cfg, model, evaluators=...)"
        )

    @classmethod
    def test(
        cls, cfg: CfgNode, model: nn.Module, evaluators: DatasetEvaluator | Sequence[DatasetEvaluator] | None = None
    ) -> Mapping[str, Any]:
        """Evaluate the model on ``cfg.DATASETS.TEST``.

        Return the results of the data set, or of each name if there are several. They are empty in processes
        other than the first.
        """
        logger = logging.getLogger(__name__)
        if isinstance(evaluators, DatasetEvaluator):
            evaluators = [evaluators]
        names = cfg.DATASETS.TEST
        if evaluators is not None and len(evaluators) != len(names):
            raise ValueError(f"{len(evaluators)} evaluators for {len(names)} data sets in DATASETS.TEST")
        results: dict[str, Any] = OrderedDict()
        for index, name in enumerate(names):
            data_loader = cls.build_test_loader(cfg, name)
            try:
                evaluator = cls.build_evaluator(cfg, name) if evaluators is None else evaluators[index]
            except NotImplementedError as error:
                logger.warning("%s is not evaluated: %s", name, error)
                results[name] = {}
                continue
            results[name] = inference_on_dataset(model, data_loader, evaluator)
            if comm.is_main_process():
                assert isinstance(results[name], Mapping), (
                    f"an evaluator must return a dictionary in the first process; got {results[name]!r}"
                )
                logger.info("Evaluation results for %s in csv format:", name)
                print_csv_format(results[name])
        return next(iter(results.values())) if len(results) == 1 else results
