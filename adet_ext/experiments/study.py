"""A study: the same training with one thing changed per row, over several seeds, and the table that comes of it.

A study is a YAML file:

    title: what the rows show
    config: demo/shapes_R_18.yaml        # of all rows, unless a row names its own
    opts: [SOLVER.MAX_ITER, 400]         # overrides of all rows
    seeds: [1, 2, 3]
    metrics: [segm/AP, bbox/AP]          # names in metrics.json; a row need not have all of them
    rows:
      first row: []                      # its own overrides
      second row: {config: demo/other.yaml, opts: [KEY, VALUE]}

Every run is a process of its own with a folder of its own; a finished one is not repeated.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

import yaml

from ..config import find_config, load_config
from ..errors import UserError, one_line
from ..model_zoo import config_digest
from ..report.metrics import Metrics
from ..utils.files import make_folder, written_beside
from .run import clear_run

__all__ = ["Run", "Study", "load_study", "render_study", "run_study", "summarise"]

_KEYS = {"title", "config", "opts", "seeds", "metrics", "rows"}


@dataclass(frozen=True)
class Run:
    """One training: which row, which seed, and the arguments that make it."""

    row: str
    seed: int
    arguments: tuple[str, ...]

    @property
    def folder(self) -> str:
        name = "".join(c if c.isalnum() or c in "-_." else "_" for c in self.row)
        return os.path.join(name, f"seed{self.seed}")

    def digest(self) -> str:
        """Return a fingerprint of the config files and overrides, since the files may change between two calls.

        Raises:
            UserError: the config does not load.
        """
        _, config, *opts = self.arguments
        load_config(config, opts)
        return config_digest(find_config(config), opts)


@dataclass(frozen=True)
class Study:
    """A study as its file describes it."""

    title: str
    metrics: tuple[str, ...]
    rows: tuple[str, ...]
    runs: tuple[Run, ...]


def load_study(path: str, seeds: Sequence[int] | None = None) -> Study:
    """Read a study file; ``seeds`` replaces the file's.

    Raises:
        UserError: it cannot be read, or says what it cannot say.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = yaml.safe_load(file)
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path} must be a study in YAML; got: {one_line(error)}") from error
    if not isinstance(text, dict) or not isinstance(text.get("rows"), dict) or not text["rows"]:
        raise UserError(f"{path}: a study is a mapping with 'rows', each a name and its overrides")
    if unknown := sorted(text.keys() - _KEYS):
        raise UserError(f"{path}: {unknown[0]!r} is not a key of a study; the keys are {', '.join(sorted(_KEYS))}")
    seeds = list(seeds or text.get("seeds") or [1])
    runs = []
    for seed in seeds:  # seed by seed, so that a study that is stopped early has all rows
        for name, row in text["rows"].items():
            row = {"opts": row} if isinstance(row, list) else row or {}
            config = row.get("config", text.get("config"))
            if not config:
                raise UserError(f"{path}: row {name!r} has no config, and the study has none for all rows")
            opts = [str(x) for x in [*text.get("opts", []), *row.get("opts", [])]]
            if len(opts) % 2:
                raise UserError(f"{path}: the overrides of row {name!r} are not pairs of a key and a value")
            runs.append(Run(str(name), int(seed), ("--config-file", config, *opts, "SEED", str(seed))))
    metrics = tuple(text.get("metrics") or ["segm/AP", "bbox/AP"])
    return Study(str(text.get("title", "")), metrics, tuple(str(r) for r in text["rows"]), tuple(runs))


def run_study(study: Study, output: str, *, jobs: int = 1, threads: int = 1, tick: Callable[[Run], None]) -> dict:
    """Do the runs that are not done yet, ``jobs`` at a time, and return {row: {seed: {metric: value}}}.

    A metric that a row's evaluation does not have is left out.

    Args:
        tick: is called after each run, finished before or now.

    Raises:
        UserError: a training failed; its log is named. What is finished stays.
    """
    make_folder(output)
    results: dict[str, dict[int, dict[str, float]]] = {row: {} for row in study.rows}
    with ThreadPoolExecutor(jobs) as pool:
        pending = {pool.submit(_do, run, study.metrics, output, threads): run for run in study.runs}
        try:
            for future in as_completed(pending):
                run = pending[future]
                results[run.row][run.seed] = future.result()
                tick(run)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return results


def _do(run: Run, metrics: Sequence[str], output: str, threads: int) -> dict[str, float]:
    folder = os.path.join(output, run.folder)
    record_path = os.path.join(folder, "run.json")
    record, asked = _read(record_path), {"arguments": list(run.arguments), "config": run.digest()}
    if {key: record.get(key) for key in asked} != asked:
        clear_run(folder)  # another row's or an older study's: going on with its checkpoint would mix the two
    elif found := _chosen(record.get("results", {}), metrics):
        return found
    make_folder(folder)
    _write(record_path, asked)
    log = os.path.join(folder, "terminal.txt")
    command = [sys.executable, "-m", "adet_ext", "train", "--resume", *run.arguments, "OUTPUT_DIR", folder]
    with open(log, "a", encoding="utf-8") as terminal:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        status = subprocess.run(command, stdout=terminal, stderr=subprocess.STDOUT, env=environment).returncode
    if status:
        raise UserError(f"row {run.row!r} with seed {run.seed} ended with status {status}; see {log}")
    found = {
        f"{task}/{name}": value
        for tasks in Metrics(os.path.join(folder, "metrics.json")).results().values()
        for task, values in tasks.items()
        for name, value in values.items()
    }
    chosen = _chosen(found, metrics)
    if not chosen:
        raise UserError(
            f"row {run.row!r}: its evaluation has none of {', '.join(metrics)}; it has {', '.join(sorted(found))}"
        )
    _write(record_path, {**asked, "results": found})
    return chosen


def _chosen(found: dict[str, float], metrics: Sequence[str]) -> dict[str, float]:
    return {name: found[name] for name in metrics if name in found}


def _read(path: str) -> dict:
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return {}


def _write(path: str, record: dict) -> None:
    with written_beside(path) as beside, open(beside, "w", encoding="utf-8") as file:
        json.dump(record, file)


def summarise(study: Study, results: dict) -> list[dict]:
    """Per row and metric it has: mean, least and greatest over the seeds, and the values themselves."""
    rows = []
    for row in study.rows:
        by_seed = [found for _, found in sorted(results[row].items())]
        summary: dict = {"row": row}
        for name in study.metrics:
            if values := [found[name] for found in by_seed if name in found]:
                summary[name] = {
                    "mean": statistics.fmean(values), "min": min(values), "max": max(values), "values": values
                }  # fmt: skip
        rows.append(summary)
    return rows


def render_study(study: Study, rows: list[dict]) -> str:
    """A Markdown table: mean (least to greatest) over the seeds."""
    seeds = sorted({run.seed for run in study.runs})
    lines = [f"{study.title}; mean (least to greatest) over seeds {', '.join(map(str, seeds))}", ""]
    lines.append("| row | " + " | ".join(study.metrics) + " |")
    lines.append("|---|" + "---|" * len(study.metrics))
    for row in rows:
        cells = [
            f"{row[m]['mean']:.1f} ({row[m]['min']:.1f} to {row[m]['max']:.1f})" if m in row else "–"
            for m in study.metrics
        ]
        lines.append(f"| {row['row']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
