"""Model the time of each CUDA kernel without a GPU, and write the table into docs/operators.md.

``python -m tests.cuda_on_cpu.traffic [--only NAME] [--write]``. It needs nvcc, for what the compiler gives, and the
emulator, which counts what the kernels read and write. Nothing is measured on a GPU.
"""

import argparse
import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from adet_ext.layers import extension

from .build import HERE
from .compiled import ARCHITECTURES, Compiled, compiled_kernels
from .counted import SECTOR, Counted, Counter
from .emulation import tensors_of
from .gpus import GPUS, occupancy, times
from .traffic_cases import TrafficCase, traffic_cases

__all__ = ["Row", "put_table", "row_of", "table"]

PAGE = HERE.parents[1] / "docs" / "operators.md"
HEAD = (
    "operator | shape | type | launches | least, MB | memory | L2 | 128-bit, % | sectors | lanes, % | banks | "
    "registers | spills | warps 8.0 / 9.0, % | H100, us | H200, us | limit, %"
)


@dataclass
class Row:
    """A case's kernels, and the bytes that its inputs and results need at least."""

    case: TrafficCase
    kernels: list[Counted] = field(default_factory=list)
    least: int = 0


def row_of(case: TrafficCase, counter: Counter) -> Row:
    """Run a case on the emulated kernels, and return what they did."""
    call, row = case.make(), Row(case)
    with _counted(counter, row):
        call()
    return row


@contextlib.contextmanager
def _counted(counter: Counter, row: Row) -> Iterator[None]:
    """Have the emulated kernels serve, and add what each operator does to the row."""
    override = torch.library.Library("adet_ext", "IMPL", "CPU")

    def counting(name):
        kernel = counter.kernel(name)

        def call(*arguments):
            counter.take()
            result = kernel(*arguments)
            given = {t.untyped_storage().data_ptr(): t for t in tensors_of(arguments)}
            made = [t for t in tensors_of([result]) if t.untyped_storage().data_ptr() not in given]
            row.least += sum(counter.touched(t) for t in given.values())
            row.least += sum(t.numel() * t.element_size() for t in made)
            row.kernels += counter.take()
            return result

        return call

    try:
        for name in counter.operators():
            override.impl(name, counting(name), allow_override=True)
        yield
    finally:
        override._destroy()


def table(rows: list[Row], compiled: dict[tuple[str, str], Compiled]) -> list[str]:
    """Return the lines of a table in Markdown."""
    head = HEAD.split(" | ")
    lines = ["| " + " | ".join(head) + " |", "| --- | --- | --- |" + " ---: |" * (len(head) - 3)]
    return lines + ["| " + " | ".join(_cells(row, compiled)) + " |" for row in rows]


def _cells(row: Row, compiled: dict[tuple[str, str], Compiled]) -> Iterator[str]:
    kinds = [kind for kernel in row.kernels for kind in kernel.kinds()]
    total = {name: sum(getattr(kind, name) for kind in kinds) for name in vars(kinds[0])}
    made = [{a: compiled.get((kernel.name, a)) for a in ARCHITECTURES} for kernel in row.kernels]
    yield from (row.case.operator, row.case.shape, str(row.case.dtype).removeprefix("torch."))
    yield str(sum(kernel.launches for kernel in row.kernels))
    yield f"{row.least / 1e6:.2f}"
    yield f"{total['of_launches'] * SECTOR / row.least:.2f}"
    yield f"{total['of_blocks'] * SECTOR / row.least:.2f}"
    yield f"{100 * total['widest'] / total['bytes']:.0f}"
    yield f"{total['sectors'] / total['requests']:.1f} ({total['least'] / total['requests']:.1f})"
    yield " / ".join(f"{100 * kernel.lanes:.0f}" for kernel in row.kernels)
    yield " / ".join(f"{k.passes / k.least_passes:.2f}" if k.passes else "-" for k in row.kernels)
    if all(kernel is not None for m in made for kernel in m.values()):
        yield " / ".join(str(m["sm_90"].registers) for m in made)
        yield str(max(kernel.spills for m in made for kernel in m.values()))
        warps = [
            [occupancy(m[a], kernel.threads, kernel.dynamic, a)[1] for a in ARCHITECTURES]
            for m, kernel in zip(made, row.kernels)
        ]
        yield ", ".join(f"{100 * low:.0f} / {100 * high:.0f}" for low, high in warps)
    else:
        yield from ("-", "-", "-")
    for gpu in GPUS:
        time, limit = _time(row, made, gpu)
        yield f"{time:.2f} {limit}"
    gpu = GPUS[0]
    ideal = max(row.least / gpu.memory, row.case.flops / gpu.flops[row.case.arithmetic]) * row.case.scale * 1e-6
    yield f"{100 * ideal / _time(row, made, gpu)[0]:.0f}"


def _time(row: Row, made: list[dict[str, Compiled]], gpu) -> tuple[float, str]:
    """The microseconds of all kernels, each at its narrowest limit, and the limit of the longest."""
    sums, longest = 0.0, (0.0, "")
    for kernel, m in zip(row.kernels, made):
        flops = row.case.flops / len(row.kernels)
        limits = times(kernel, m["sm_90"], gpu, flops, row.case.arithmetic, row.case.scale)
        name = max(limits, key=limits.get)
        sums += limits[name]
        longest = max(longest, (limits[name], name))
    return sums, longest[1]


def put_table(name: str, lines: list[str]) -> None:
    """Put the lines into docs/operators.md, between the marks that have this name."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    text, middle = PAGE.read_text(encoding="utf-8"), "\n".join([begin, *lines, end])
    PAGE.write_text(re.sub(f"{begin}.*?{end}", lambda _: middle, text, flags=re.DOTALL), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="operators whose name contains this")
    parser.add_argument("--no-compile", action="store_true", help="leave out what nvcc has not compiled before")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    arguments = parser.parse_args()
    extension.status()
    compiled, counter, rows = compiled_kernels(compile_all=not arguments.no_compile), Counter(), []
    for case in traffic_cases():
        if arguments.only in case.operator:
            rows.append(row_of(case, counter))
            print(table(rows[-1:], compiled)[-1], flush=True)
    if arguments.write:
        put_table("traffic", table(rows, compiled))


if __name__ == "__main__":
    main()
