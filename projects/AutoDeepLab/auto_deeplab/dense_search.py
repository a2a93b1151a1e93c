"""The command of the search for a dense prediction cell: ``search_dense.py``."""

import os
from collections.abc import Sequence

from adet_ext.cli.project_search import ProjectSearch, run_search

from .dense_proxy import build_dense_space
from .dpc import DenseSpace

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Search, and leave journal, report, and the best cells as files that a config can name."""
    project = ProjectSearch(
        description="Search for a dense prediction cell on the features of a frozen backbone.",
        example="configs/search/dpc_shapes.yaml",
        output="output/auto_deeplab/dpc",
        node="MODEL.ATROUS_HEAD.SEARCH",
        build_space=build_dense_space,
        factory="auto_deeplab.dense_proxy:make_evaluate",
        save=_save,
    )
    return run_search(project, argv)


def _save(space: DenseSpace, tokens: Sequence[int], folder: str, place: int) -> dict[str, str]:
    path = os.path.join(folder, f"cell_{place}.json")
    space.genotype(tokens).save(path)
    return {"MODEL.ATROUS_HEAD.PYRAMID": path}
