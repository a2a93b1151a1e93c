"""What nvcc makes of each kernel, as a table in docs/operators.md: registers, spills, shared memory, occupancy.

``python -m tests.cuda_on_cpu.registers [--no-compile] [--write]``

It needs nvcc, and compiles float32 and float16 only.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterable

from .compiled import ARCHITECTURES, Compiled, compiled_kernels
from .gpus import occupancy
from .traffic import put_table

__all__ = ["table"]

_THREADS = 256  # of a block, but for these
_OTHERS = {"compare": 64, "convolve": 128}
HEAD = "kernel | types | registers | spills, bytes | stack, bytes | shared, bytes | warps, %"


def table(compiled: dict[tuple[str, str], Compiled]) -> list[str]:
    """Return the lines of a table in Markdown: a row for all types of a kernel, from the least to the most."""
    kernels = defaultdict(lambda: defaultdict(list))
    for (name, architecture), kernel in compiled.items():
        kernels[name.partition("<")[0]][architecture].append(kernel)
    head = HEAD.split(" | ")
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    for name, made in sorted(kernels.items()):
        if name == "probe":  # of build_info, which nothing launches
            continue

        def of_both(value: Callable[[Compiled, str], int], made=made) -> str:
            return " / ".join(_range(value(kernel, a) for kernel in made[a]) for a in ARCHITECTURES)

        def warps(kernel: Compiled, architecture: str, name=name) -> int:
            return round(100 * occupancy(kernel, _OTHERS.get(name, _THREADS), 0, architecture)[1])

        count = str(len(made[ARCHITECTURES[0]]))
        cells = [of_both(lambda kernel, _, what=what: getattr(kernel, what)) for what in vars(Compiled(0, 0, 0, 0))]
        registers, stack, spills, shared = cells
        lines.append("| " + " | ".join([name, count, registers, spills, stack, shared, of_both(warps)]) + " |")
    return lines


def _range(values: Iterable[int]) -> str:
    values = sorted(values)
    return str(values[0]) if values[0] == values[-1] else f"{values[0]} to {values[-1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no-compile", action="store_true", help="leave out what nvcc has not compiled before")
    parser.add_argument("--write", action="store_true", help="put the table into docs/operators.md")
    arguments = parser.parse_args()
    lines = table(compiled_kernels(compile_all=not arguments.no_compile))
    print("\n".join(lines))
    if arguments.write:
        put_table("registers", lines)


if __name__ == "__main__":
    main()
