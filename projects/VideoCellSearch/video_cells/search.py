"""The command of the search: ``search_net.py``."""

import os
from collections.abc import Sequence

from adet_ext.cli.project_search import ProjectSearch, run_search

from .genotype import save_genotype
from .search_space import CellSpace, build_space

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Search, and leave journal, report, and the best cells as files that a config can name."""
    project = ProjectSearch(
        description="Search for a dynamic cell on what a frozen static network gives (thesis chapter 6).",
        example="configs/search/camvid_small.yaml",
        output="output/video_cells/search",
        node="MODEL.VIDEO.SEARCH",
        build_space=build_space,
        factory="video_cells.proxy:make_evaluate",
        save=_save,
    )
    return run_search(project, argv)


def _save(space: CellSpace, tokens: Sequence[int], folder: str, place: int) -> dict[str, str]:
    path = os.path.join(folder, f"cell_{place}.json")
    save_genotype(space.genotype(tokens), path)
    return {"MODEL.VIDEO.CELL": path}
