"""Run a model over a data set and pass its outputs to evaluators."""

import datetime
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from ..utils import comm

_LOG_PERIOD = 5.0  # seconds between two lines of progress


class DatasetEvaluator:
    """Collect data from each batch (``process``), then compute the results once (``evaluate``)."""

    def reset(self) -> None:
        """Forget everything collected. It is called before each evaluation."""

    def process(self, inputs: Sequence[dict], outputs: Sequence[dict]) -> None:
        """Collect from the inputs of one batch, of any size, and the model's outputs for each."""

    def evaluate(self) -> dict | None:
        """Return {task: {metric: value}}; None or empty in all processes but the first."""


class DatasetEvaluators(DatasetEvaluator):
    """Several evaluators as one. Each must report different tasks."""

    def __init__(self, evaluators: Sequence[DatasetEvaluator]):
        self._evaluators = evaluators

    def reset(self) -> None:
        for evaluator in self._evaluators:
            evaluator.reset()

    def process(self, inputs: Sequence[dict], outputs: Sequence[dict]) -> None:
        for evaluator in self._evaluators:
            evaluator.process(inputs, outputs)

    def evaluate(self) -> dict:
        results: OrderedDict = OrderedDict()
        for evaluator in self._evaluators:
            result = evaluator.evaluate()  # in every process: evaluators synchronize
            if comm.is_main_process() and result is not None:
                twice = results.keys() & result.keys()
                assert not twice, f"two evaluators report {sorted(twice)}; give them separate runs"
                results.update(result)
        return results


@contextmanager
def inference_context(model: nn.Module) -> Iterator[None]:
    """Put the model into evaluation mode, and at the end, also after an error, into its mode before."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def inference_on_dataset(
    model: Callable,
    data_loader,
    evaluator: "DatasetEvaluator | list[DatasetEvaluator] | None",
) -> dict:
    """Run ``model`` over ``data_loader`` without gradients, and evaluate.

    Args:
        model: an nn.Module is put into evaluation mode during the run.
        data_loader: has a length and yields the model's batches.
        evaluator: None only measures the speed.

    Returns:
        The evaluator's result, or {} if that is None.
    """
    logger = logging.getLogger(__name__)
    total = len(data_loader)
    logger.info("Start inference on %d batches", total)
    if evaluator is None or isinstance(evaluator, list):
        evaluator = DatasetEvaluators(evaluator or [])
    evaluator.reset()

    warmup = min(5, total - 1)  # the first batches are not timed, as they allocate and tune
    now = time.perf_counter
    start = last_log = now()
    compute = 0.0
    with ExitStack() as stack:
        if isinstance(model, nn.Module):
            stack.enter_context(inference_context(model))
        stack.enter_context(torch.no_grad())
        for index, inputs in enumerate(data_loader):
            if index == warmup:
                start, compute = now(), 0.0
            mark = now()
            outputs = model(inputs)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            compute += now() - mark
            evaluator.process(inputs, outputs)
            if index >= warmup * 2 and now() - last_log > _LOG_PERIOD:
                last_log, timed = now(), index + 1 - warmup
                rate, eta = (last_log - start) / timed, (last_log - start) / timed * (total - index - 1)
                logger.info(
                    "Inference done %d/%d. %.4f s/iter (%.4f of them the model). ETA=%s",
                    index + 1, total, rate, compute / timed, datetime.timedelta(seconds=int(eta)),
                )  # fmt: skip

    for name, seconds in (("time", now() - start), ("pure compute time", compute)):
        logger.info(
            "Total inference %s: %s (%.6f s / iter per device, on %d devices)",
            name, datetime.timedelta(seconds=int(seconds)), seconds / max(total - warmup, 1), comm.get_world_size(),
        )  # fmt: skip
    results = evaluator.evaluate()
    return {} if results is None else results
