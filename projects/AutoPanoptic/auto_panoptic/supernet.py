"""Training of the supernet: fair paths, and gradients that are means over the passes that a part computed in.

Source: the supplement and the released code of Auto-Panoptic; strict fairness is FairNAS' (Chu et al. 2019).
"""

import itertools
import time
from collections import Counter
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import nn

from adet_ext.d2.config import CfgNode
from adet_ext.d2.engine import SimpleTrainer
from adet_ext.d2.utils import comm
from adet_ext.engine.trainer import Trainer
from adet_ext.engine.trainers import add_project_trainer
from adet_ext.errors import UserError
from adet_ext.nas.evaluation import task_seed
from adet_ext.nas.fair_paths import fair_paths, fair_period
from adet_ext.nas.samplers import draws

from .model import AutoPanopticSupernet
from .space import AutoPanopticSpace, build_space
from .split import split_sets, with_training_set

__all__ = ["FairSteps", "SupernetTrainer", "passes_of"]


def passes_of(model: AutoPanopticSupernet, period: int) -> list[tuple[nn.Parameter, int]]:
    """Return each parameter with the number of passes, of ``period``, that it computes in.

    Of 12 passes, a block of the backbone computes in 3, a layer of a head in 2, an attention module in 4, the rest
    in all.
    """
    counts = {}
    for layer in itertools.chain.from_iterable(model.searched().values()):
        for parameter in layer.parameters():
            counts[id(parameter)] = period // len(layer.candidates)
    return [(parameter, counts.get(id(parameter), period)) for parameter in model.parameters()]


class FairSteps(SimpleTrainer):
    """One iteration is a super-step: a pass for each of 12 fair paths, each on a part of the batch, then one step.

    The paths of an iteration, and the anchors and boxes that its losses are taken at, follow from the seed and its
    number, as the batches do: a training that was stopped goes on with the same ones.
    """

    def __init__(self, inner: SimpleTrainer, space: AutoPanopticSpace, seed: int):
        """
        Args:
            inner: the trainer whose model, loader and optimizer are used.
        """
        super().__init__(inner.model, inner.data_loader, inner.optimizer)
        self.space, self.seed = space, seed
        # Not the model in DistributedDataParallel, which waits for the gradients of each pass.
        self.supernet: AutoPanopticSupernet = getattr(inner.model, "module", inner.model)
        self.passes = passes_of(self.supernet, fair_period(space))

    def paths(self, iteration: int) -> list[tuple[int, ...]]:
        """Return the paths of an iteration as tokens."""
        return fair_paths(self.space, draws("supernet", self.seed, iteration))

    def seed_sampling(self, iteration: int) -> None:
        """Seed the generator that anchors and boxes are sampled by, in each process for itself."""
        torch.manual_seed(task_seed(self.seed, iteration) + comm.get_rank())

    def run_step(self) -> None:
        """Run the passes, log their mean losses and update the weights.

        Raises:
            FloatingPointError: the sum of the losses is not finite; the weights are not changed.
        """
        start = time.perf_counter()
        batch = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        self.optimizer.zero_grad()
        self.seed_sampling(self.iter)
        paths, means = self.paths(self.iter), Counter()
        for path, part in zip(paths, _parts(batch, len(paths))):
            self.supernet.choose(self.space.architecture(path))
            losses = self.supernet(part)
            sum(losses.values()).backward()
            means.update({name: loss.detach() / len(paths) for name, loss in losses.items()})
        self.average_gradients()
        self.after_backward()
        self.write_metrics(dict(means), data_time, self.iter)
        self.optimizer.step()

    def average_gradients(self) -> None:
        """Divide each gradient by the passes of its parameter, and average over the processes."""
        world = comm.get_world_size()
        for parameter, count in self.passes:
            if parameter.grad is None:
                if world == 1:
                    continue
                parameter.grad = torch.zeros_like(parameter)  # the other processes may have one
            parameter.grad /= count * world
            if world > 1:
                dist.all_reduce(parameter.grad)


def _parts(batch: Sequence[dict], count: int) -> Iterator[list[dict]]:
    size = len(batch) // count
    return (list(batch[i * size : (i + 1) * size]) for i in range(count))


class SupernetTrainer(Trainer):
    """Trains a supernet on the training images but those that candidates are compared on."""

    def __init__(self, cfg: CfgNode):
        space = build_space(cfg)
        period, images = fair_period(space), cfg.SOLVER.IMS_PER_BATCH
        if images % (period * comm.get_world_size()):
            raise UserError(
                f"SOLVER.IMS_PER_BATCH must be a multiple of {period * comm.get_world_size()}, the {period} passes of "
                f"each process; got {images}"
            )
        if cfg.SOLVER.AMP.ENABLED:
            raise UserError("SOLVER.AMP.ENABLED must be False for a supernet; got True")
        training, _ = split_sets(cfg)
        super().__init__(with_training_set(cfg, training))
        self._trainer = FairSteps(self._trainer, space, max(cfg.SEED, 0))


add_project_trainer("AutoPanopticSupernet", SupernetTrainer)
