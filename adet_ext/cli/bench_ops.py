"""Time the compiled operators next to compositions of PyTorch and torchvision that compute the same."""

import argparse
import json
import os
from dataclasses import asdict

import torch
from tqdm import tqdm

from ..benchmark.ops import all_cases
from ..benchmark.ops.case import Case
from ..benchmark.ops.peaks import cpu_peaks
from ..benchmark.ops.runner import copy_bandwidth, run_case
from ..benchmark.ops.table import render
from ..errors import UserError
from ..layers.extension import status
from ..utils.files import make_folder
from ..utils.machine import processor_name

__all__ = ["add_parser", "run"]

DTYPES = ("float32", "float64", "float16", "bfloat16")


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the verb ``ops`` and its options."""
    ops = verbs.add_parser("ops", help="time the compiled operators", description=__doc__)
    ops.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    ops.add_argument("--threads", type=int, help="threads of torch")
    ops.add_argument("--only", nargs="+", default=[], metavar="OPERATOR", help="those whose names have this in them")
    ops.add_argument("--rounds", type=int, default=15, help="paired rounds that count (15)")
    ops.add_argument("--dtype", nargs="+", choices=DTYPES, help="the types that each case has, if left out")
    ops.add_argument("--no-memory", action="store_true", help="leave the peak memory out, on the CPU a process more")
    ops.add_argument("--json", metavar="FILE", help="write all the numbers here as well")


def run(arguments: argparse.Namespace) -> int:
    """Run the cases and print the table; 1 where a case failed or its results differ."""
    device = _device(arguments)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    wanted = _choose(all_cases(), arguments, device)
    copy = copy_bandwidth(device)
    rows = []
    with tqdm(total=len(wanted) * arguments.rounds, desc="rounds") as bar:
        for _, case, dtype in wanted:
            bar.set_postfix_str(f"{case.operator} {case.shape}")
            rows.append(run_case(case, device, dtype, arguments.rounds, copy, bar.update))
            bar.update(len(rows) * arguments.rounds - bar.n)  # a case that failed has rounds left
    if device.type == "cpu" and not arguments.no_memory:
        names = [(index, str(dtype).removeprefix("torch.")) for index, _, dtype in wanted]
        with tqdm(total=len(names), desc="memory") as bar:
            for row, peaks in zip(rows, cpu_peaks(names, torch.get_num_threads(), bar.update)):
                row.our_peak, row.their_peak = peaks or (None, None)
    machine = processor_name() if device.type == "cpu" else torch.cuda.get_device_name(device)
    footer = (
        f"{arguments.rounds} paired rounds; {machine}, {torch.get_num_threads()} threads, torch {torch.__version__}; "
        f"a large copy reads and writes {copy / 1e9:.1f} GB/s"
    )
    print(render(rows, footer))
    if arguments.json:
        _write(arguments, rows, machine, copy)
    return int(any(row.error or row.agrees is False for row in rows))


def _device(arguments: argparse.Namespace) -> torch.device:
    if arguments.rounds < 1:
        raise UserError(f"--rounds must be 1 or more; got {arguments.rounds}")
    if arguments.threads is not None and arguments.threads < 1:
        raise UserError(f"--threads must be 1 or more; got {arguments.threads}")
    try:
        device = torch.device(arguments.device)
    except RuntimeError as error:
        raise UserError(f"--device must be cpu or cuda; got {arguments.device}") from error
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device must be cpu or cuda; got {arguments.device}")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here")
    found = status()
    if not found.loaded:
        raise UserError(
            f"there are no compiled operators to time ({found.reason}); build them with "
            "'ADET_EXT_REQUIRE_EXT=1 pip install --no-build-isolation .'"
        )
    if device.type == "cuda" and found.build.get("cuda") == "none":
        raise UserError("the compiled operators are built without CUDA; build them where nvcc is, or with FORCE_CUDA=1")
    return device


def _choose(
    cases: list[Case], arguments: argparse.Namespace, device: torch.device
) -> list[tuple[int, Case, torch.dtype]]:
    """Return the cases to run, each with its index among all cases and a type."""
    names = sorted({case.operator for case in cases})
    for part in arguments.only:
        if not any(part in name for name in names):
            raise UserError(f"--only must be part of an operator's name, {', '.join(names)}; got {part}")
    chosen = [
        (index, case, dtype)
        for index, case in enumerate(cases)
        if device.type in case.devices and (not arguments.only or any(part in case.operator for part in arguments.only))
        for dtype in case.dtypes
        if not arguments.dtype or str(dtype).removeprefix("torch.") in arguments.dtype
    ]
    if not chosen:
        raise UserError(f"no case is left for {device.type} with these options; leave --only or --dtype out")
    return chosen


def _write(arguments: argparse.Namespace, rows: list, machine: str, copy: float) -> None:
    report = {
        "machine": machine,
        "device": arguments.device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "build": status().build,
        "rounds": arguments.rounds,
        "copy_bandwidth": copy,
        "rows": [{**asdict(row), "holds": row.holds} for row in rows],
    }
    make_folder(os.path.dirname(os.path.abspath(arguments.json)))
    with open(arguments.json, "w", encoding="utf-8") as file:
        json.dump(report, file, indent=2)
