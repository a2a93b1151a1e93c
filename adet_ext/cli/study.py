"""Train the rows of a study over several seeds and print the table: which change helps, and by how much."""

import argparse
import json
import os
from collections.abc import Sequence

from tqdm import tqdm

from ..errors import UserError
from ..experiments.study import load_study, render_study, run_study, summarise
from ..utils.files import written_beside

__all__ = ["build_parser", "main"]


def build_parser() -> argparse.ArgumentParser:
    """The command line of studies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", metavar="FILE", help="a study's YAML file; configs/studies holds some")
    parser.add_argument("--output", default="output/studies", metavar="DIR", help="a folder per study lies here")
    parser.add_argument("--seeds", type=int, nargs="+", help="instead of the file's")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time (1)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch in each (1)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a study, or go on with it; print its table and leave it beside the runs as results.json."""
    arguments = build_parser().parse_args(argv)
    if arguments.jobs < 1 or arguments.threads < 1:
        raise UserError("--jobs and --threads take 1 or more")
    study = load_study(arguments.study, arguments.seeds)
    output = os.path.join(arguments.output, os.path.splitext(os.path.basename(arguments.study))[0])
    with tqdm(total=len(study.runs), desc="trainings") as bar:
        results = run_study(
            study, output, jobs=arguments.jobs, threads=arguments.threads, tick=lambda run: bar.update()
        )
    rows = summarise(study, results)
    with written_beside(os.path.join(output, "results.json")) as path, open(path, "w", encoding="utf-8") as file:
        json.dump({"title": study.title, "rows": rows}, file, indent=2)
    print(render_study(study, rows))
    return 0
