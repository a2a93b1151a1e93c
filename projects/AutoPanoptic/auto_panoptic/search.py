"""The command of the search: ``search_net.py``."""

import os
from collections.abc import Sequence

from adet_ext.cli.project_search import ProjectSearch, run_search
from adet_ext.nas.journal import Recorded
from adet_ext.nas.samplers import build_sampler

from .architecture import save_architecture
from .space import AutoPanopticSpace, build_space

__all__ = ["leave_ranked", "main"]

_KEY = "MODEL.AUTO_PANOPTIC.ARCHITECTURE"


def main(argv: Sequence[str] | None = None) -> int:
    """Search, and leave journal, report, and the best architectures as files that a config can name."""
    project = ProjectSearch(
        description="Compare architectures by the shared weights of a trained supernet.",
        example="configs/search/shapes.yaml",
        output="output/auto_panoptic/search",
        node="MODEL.AUTO_PANOPTIC.SEARCH",
        build_space=build_space,
        factory="auto_panoptic.shared_weights:make_evaluate",
        save=_save,
        finish=leave_ranked,
    )
    return run_search(project, argv)


def _save(space: AutoPanopticSpace, tokens: Sequence[int], folder: str, place: int) -> dict[str, str]:
    path = os.path.join(folder, f"architecture_{place}.json")
    save_architecture(space.architecture(tokens), path)
    return {_KEY: path}


def leave_ranked(space: AutoPanopticSpace, found: Recorded, folder: str) -> None:
    """Write what the points of a path-priority search say: the choices with most points, second most, and so on."""
    settings = dict(found.header["sampler"])
    if settings.pop("name") != "path-priority":
        return
    sampler = build_sampler("path-priority", space, found.header["seed"], **settings)
    sampler.tell([(entry["tokens"], entry["reward"]) for entry in found.entries])
    if not any(map(any, sampler.points)):
        print(f"most points: none yet; a cycle has {sampler.period} architectures")
        return
    for rank in range(sampler.ranks):
        path = os.path.join(folder, "best", f"points_{rank + 1}.json")
        save_architecture(space.architecture(sampler.ranked(rank)), path)
    print(f"most points: {os.path.join(folder, 'best', 'points_1.json')}")
