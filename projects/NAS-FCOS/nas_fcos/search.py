"""The command of the search: ``search_net.py``."""

import os
from collections.abc import Sequence

from adet_ext.cli.project_search import ProjectSearch, run_search

from .genotype import save_genotype
from .search_space import SearchSpace, build_space

__all__ = ["main"]

_KEYS = {"fpn": "MODEL.NAS_FCOS.FPN", "head": "MODEL.NAS_FCOS.HEAD"}


def main(argv: Sequence[str] | None = None) -> int:
    """Search, and leave journal, report, and the best architectures as files that a config can name."""
    project = ProjectSearch(
        description="Search for the FPN or the head of FCOS on a proxy task (thesis chapter 7).",
        example="configs/search/fpn_shapes.yaml",
        output="output/nas_fcos/search",
        node="MODEL.NAS_FCOS.SEARCH",
        build_space=build_space,
        factory="nas_fcos.proxy:make_evaluate",
        save=_save,
    )
    return run_search(project, argv)


def _save(space: SearchSpace, tokens: Sequence[int], folder: str, place: int) -> dict[str, str]:
    saved = {}
    for genotype in filter(None, space.genotypes(tokens)):
        kind = genotype.to_json()["kind"]
        saved[_KEYS[kind]] = os.path.join(folder, f"{kind}_{place}.json")
        save_genotype(genotype, saved[_KEYS[kind]])
    return saved
