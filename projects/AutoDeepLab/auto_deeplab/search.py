"""The search: weights learn from one half of the training set, alpha and beta from the other (first order)."""

import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from adet_ext.cli.train import configure, make_parser
from adet_ext.d2.config import CfgNode
from adet_ext.d2.data import DatasetCatalog
from adet_ext.d2.engine import HookBase
from adet_ext.d2.utils import comm
from adet_ext.data.loader import build_train_loader
from adet_ext.data.part import register_part
from adet_ext.engine.optimizer import build_optimizer
from adet_ext.engine.trainer import Trainer, setup
from adet_ext.errors import UserError

from .draw import draw_search
from .genotype import save_genotype
from .space import decode
from .supernet import AutoDeepLabSearch

__all__ = ["ArchitectureSteps", "SearchTrainer", "half_sets", "main"]

_SCALARS = ("entropy/alpha", "entropy/beta")


def half_sets(names: Sequence[str], seed: int) -> tuple[str, str]:
    """Register two halves of the images of data sets, drawn at random, and return their names.

    Raises:
        UserError: there are fewer than two images.
    """
    records = [record for name in names for record in DatasetCatalog.get(name)]
    if len(records) < 2:
        raise UserError(f"DATASETS.TRAIN must have two images or more to search on; {list(names)} have {len(records)}")
    order = np.random.default_rng(seed).permutation(len(records))
    middle = len(order) // 2
    halves = {"weights": sorted(order[:middle]), "architecture": sorted(order[middle:])}
    found = []
    for what, indices in halves.items():
        name = f"{'+'.join(names)}, seed {seed}, {what}"
        register_part(name, names[0], [records[i] for i in indices])
        found.append(name)
    return found[0], found[1]


def _with_training_set(cfg: CfgNode, name: str) -> CfgNode:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TRAIN = (name,)
    return cfg


class ArchitectureSteps(HookBase):
    """Before each step of the weights, from an iteration on: a step of alpha and beta on a batch of the other half.

    Its batches are a function of the iteration, and Adam's state goes with the trainer's checkpoints.
    """

    def __init__(self, model: AutoDeepLabSearch, cfg: CfgNode):
        """
        Args:
            cfg: the search's, with the other half as its training set.
        """
        node = cfg.MODEL.AUTO_DEEPLAB.SEARCH
        if not 0 <= node.START < 1:
            raise UserError(f"MODEL.AUTO_DEEPLAB.SEARCH.START must be 0 or more and below 1; got {node.START}")
        self.model, self.cfg = model, cfg
        self.start = int(node.START * cfg.SOLVER.MAX_ITER)
        self.optimizer = torch.optim.Adam(model.architecture(), lr=node.LR, weight_decay=node.WEIGHT_DECAY)
        self._batches = None

    def before_step(self) -> None:
        if self.trainer.iter < self.start:
            return
        if self._batches is None:
            self._batches = iter(build_train_loader(self.cfg, start_iter=self.trainer.iter - self.start))
        parameters = self.model.architecture()
        loss = sum(self.model(next(self._batches)).values())
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters)):
            if comm.get_world_size() > 1:
                dist.all_reduce(gradient)
                gradient /= comm.get_world_size()
            parameter.grad = gradient
        self.optimizer.step()
        for parameter in parameters:
            parameter.grad = None
        self.trainer.storage.put_scalars(loss_architecture=loss.item(), **dict(zip(_SCALARS, self.entropies())))

    def entropies(self) -> list[float]:
        """Return the mean entropy of alpha's rows and of beta's reachable ones, in nats."""
        return [
            torch.special.entr(p.detach()).sum(dim=-1)[p.detach().sum(dim=-1) > 0].mean().item()
            for p in self.model.probabilities()
        ]

    def state_dict(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state)


class LeaveGenotype(HookBase):
    """Writes the decoded architecture and its picture with each checkpoint and at the end."""

    def __init__(self, model: AutoDeepLabSearch, folder: str, period: int):
        self.model, self.folder, self.period = model, folder, period

    def after_step(self) -> None:
        due = self.period > 0 and (self.trainer.iter + 1) % self.period == 0
        if comm.is_main_process() and (due or self.trainer.iter + 1 == self.trainer.max_iter):
            alpha, beta = (p.detach().cpu() for p in self.model.probabilities())
            genotype = decode(alpha, beta)
            save_genotype(genotype, os.path.join(self.folder, "genotype.json"))
            draw_search(self.folder, genotype, beta, _entropies_of(os.path.join(self.folder, "metrics.json")))


def _entropies_of(path: str) -> dict[str, tuple[list[int], list[float]]]:
    """Return the series of a metrics file, for a chart; nothing where there is no file yet."""
    if not os.path.isfile(path):
        return {}
    with open(path, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file if line.endswith("\n")]
    found = {}
    for key in _SCALARS:
        points = [(row["iteration"], row[key]) for row in rows if key in row]
        if points:
            found[key.partition("/")[2]] = tuple(map(list, zip(*points)))
    return found


class SearchTrainer(Trainer):
    """Trains the relaxed network's weights; :class:`ArchitectureSteps` trains alpha and beta."""

    def __init__(self, cfg: CfgNode):
        weights, self._other = half_sets(cfg.DATASETS.TRAIN, max(cfg.SEED, 0))
        super().__init__(_with_training_set(cfg, weights))

    def build_hooks(self) -> list[HookBase | None]:
        model = getattr(self.model, "module", self.model)  # below DistributedDataParallel
        steps = ArchitectureSteps(model, _with_training_set(self.cfg, self._other))
        leave = LeaveGenotype(model, self.cfg.OUTPUT_DIR, self.cfg.SOLVER.CHECKPOINT_PERIOD)
        return [steps, *super().build_hooks(), leave]

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer of SOLVER for everything but alpha and beta."""
        return build_optimizer(cfg, nn.ModuleDict(dict(model.named_children())))


def main(argv: Sequence[str] | None = None) -> int:
    """Search, or go on with ``--resume``; leave ``genotype.json`` and ``search.html`` in OUTPUT_DIR."""
    args = make_parser().parse_args(argv)
    cfg = configure(args)
    cfg.MODEL.META_ARCHITECTURE = "AutoDeepLabSearch"
    if args.num_gpus > 1 or args.num_machines > 1:
        raise UserError("--num-gpus must be 1 for a search by this command; start more processes with torchrun")
    cfg = setup(cfg, args)
    trainer = SearchTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    trainer.train()
    genotype = os.path.join(cfg.OUTPUT_DIR, "genotype.json")
    print(f"\npicture: {os.path.join(cfg.OUTPUT_DIR, 'search.html')}")
    print(f"architecture: {genotype}; train it with train_net.py MODEL.AUTO_DEEPLAB.GENOTYPE {genotype}")
    return 0
