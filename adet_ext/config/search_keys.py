"""Config keys that the searches of all projects share; :func:`adet_ext.cli.project_search.run_search` reads them."""

from ..d2.config import CfgNode as CN

__all__ = ["add_search_keys"]


def add_search_keys(node: CN, *, early_stopping: bool, cache: str, cache_limit_gb: float) -> None:
    """Add the keys to a project's search node, in place, with these defaults."""
    # Whether architectures that are poor after half of their training are not trained further.
    node.EARLY_STOPPING = early_stopping
    # The controller, whose other constants are those of adet_ext.nas.controller, and the baseline by evolution.
    # Mini-batches of more than one architecture are cheaper; the learning rate rises with them. EPOCHS is how often the
    # buffer is gone over after each architecture.
    node.CONTROLLER = CN({"LEARNING_RATE": 1e-4, "BATCH_SIZE": 1, "EPOCHS": 1, "CLIP": 0.1, "WARMUP_STEPS": 4})
    node.EVOLUTION = CN({"POPULATION": 100, "TOURNAMENT": 25})
    # Where frozen features are kept: a folder, which searches with the same data and weights share; "memory"; or "" to
    # compute them for every batch again.
    node.CACHE = cache
    # The most that they may take.
    node.CACHE_LIMIT_GB = cache_limit_gb
