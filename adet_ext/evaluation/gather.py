"""Bring the predictions of all processes together."""

import itertools
import logging

from ..d2.utils import comm

__all__ = ["gather_predictions"]

logger = logging.getLogger(__name__)


def gather_predictions(predictions: list, distributed: bool) -> list:
    """Return the predictions of all processes in the first one, and an empty list in the others.

    Args:
        distributed: whether to gather; else each process keeps its own.
    """
    if distributed:
        comm.synchronize()
        predictions = list(itertools.chain(*comm.gather(predictions, dst=0)))
        if not comm.is_main_process():
            return []
    if not predictions:
        logger.warning("No predictions with instances arrived; nothing is evaluated")
    return predictions
