"""The command of the search: ``search_net.py``."""

import os
from collections.abc import Sequence

from adet_ext.cli.project_search import ProjectSearch, run_search

from .genotype import save_genotype
from .space import MaskSpace, build_space

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Search, and leave journal, report, and the best modules as files that a config can name."""
    project = ProjectSearch(
        description="Search for a module that makes bases, on the features of a frozen BlendMask.",
        example="configs/search/pennfudan.yaml",
        output="output/mask_modules/search",
        node="MODEL.MASK_MODULES.SEARCH",
        build_space=build_space,
        factory="mask_modules.proxy:make_evaluate",
        save=_save,
    )
    return run_search(project, argv)


def _save(space: MaskSpace, tokens: Sequence[int], folder: str, place: int) -> dict[str, str]:
    path = os.path.join(folder, f"module_{place}.json")
    save_genotype(space.genotype(tokens), path)
    return {"MODEL.MASK_MODULES.GENOTYPE": path}
