"""Models whose features a search keeps: built once, with weights that training does not change."""

import contextlib
import logging
from collections.abc import Iterator

import torch
from torch import nn

from ..d2.config import CfgNode
from ..d2.modeling import build_model
from ..errors import UserError
from .checkpoint import AdetCheckpointer

__all__ = ["build_frozen"]

logger = logging.getLogger(__name__)


def build_frozen(cfg: CfgNode, seed: int, part: str = "", what: str = "model") -> nn.Module:
    """Build the model of a config with MODEL.WEIGHTS, in evaluation mode and without gradients.

    Without MODEL.WEIGHTS, its random weights are those of ``seed``, so that all workers of a search have the same.

    Args:
        part: the name of the submodule that gives the features, all of whose weights the file must hold; "" for the
            whole model.
        what: that part in words, for the error.

    Raises:
        UserError: the file cannot be read, or lacks weights of the part.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(cfg)
    if cfg.MODEL.WEIGHTS:
        _load(model, cfg.MODEL.WEIGHTS, f"{part}." if part else "", what)
    else:
        logger.warning("MODEL.WEIGHTS is empty: the features are those of random weights")
    return model.eval().requires_grad_(False)


def _load(model: nn.Module, path: str, prefix: str, what: str) -> None:
    checkpointer = AdetCheckpointer(model)
    with _quiet():  # a list of all weights outside the part, which nobody misses
        checkpointer.load(path, checkpointables=[])
    learned = {name for name, _ in model.named_parameters() if name.startswith(prefix)}
    missing = checkpointer.incompatible.missing_keys if checkpointer.incompatible else ()
    if lacking := sorted(learned.intersection(missing)):
        raise UserError(
            f"MODEL.WEIGHTS must hold the whole {what} whose features are kept; {path} lacks {len(lacking)} of its "
            f"{len(learned)} weights, such as {lacking[0]}. Give the config that the file was trained with"
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)
