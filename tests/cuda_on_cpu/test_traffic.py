"""The model of traffic: what it reads of the compiler's report, and its rates. Counting takes minutes: see README."""

import pytest

from . import registers
from .compiled import _ENTRY, Compiled, narrowed, short_name
from .counted import Counted, Requests
from .gpus import GPUS, occupancy, times

REPORT = """ptxas info    : Compiling entry function '_Z6kernelIfLi4EEvPT_' for 'sm_90'
ptxas info    : Function properties for _Z6kernelIfLi4EEvPT_
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 8 bytes cumulative stack size, 1536 bytes smem
"""


def test_the_compiler_s_report_is_read():
    assert _ENTRY.findall(REPORT) == [
        ("_Z6kernelIfLi4EEvPT_", "sm_90", "8", "4", "12", "40", REPORT.splitlines()[3].partition("registers")[2])
    ]


@pytest.mark.parametrize(
    "name",
    [
        "void adet_ext::(anonymous namespace)::blend<__half, (int)4, true>(adet_ext::S<__half>, float (*)[3])",
        "void adet_ext::(anonymous namespace)::blend<c10::Half, 4, true>(adet_ext::S<c10::Half>)",
    ],
)
def test_a_kernel_has_the_same_name_for_both_compilers(name):
    assert short_name(name) == "blend<half, 4, 1>"


def test_two_of_four_types_are_left():
    texts = narrowed()
    assert texts["common.h"].count("THO_DISPATCH_CASE(") == 3 and "ScalarType::Half," in texts["common.h"]
    assert "compute<__nv_bfloat16>" not in texts["cuda/dr1_conv.cu"]


@pytest.mark.parametrize(
    "registers, shared, threads, architecture, blocks, share",
    [
        (32, 0, 256, "sm_80", 8, 1.0),
        (33, 0, 256, "sm_80", 6, 0.75),  # registers come by the 8 a thread
        (64, 0, 256, "sm_90", 4, 0.5),
        (32, 48 * 1024, 128, "sm_80", 3, 0.1875),
        (32, 48 * 1024, 128, "sm_90", 4, 0.25),
    ],
)
def test_occupancy_is_that_of_nvidia_s_tables(registers, shared, threads, architecture, blocks, share):
    assert occupancy(Compiled(registers, 0, 0, 0), threads, shared, architecture) == (blocks, share)


def test_a_kernel_has_a_row_with_the_range_of_its_types():
    found = {("blend<float, 4>", "sm_80"): Compiled(33, 0, 0, 0), ("blend<half, 4>", "sm_80"): Compiled(32, 0, 4, 0)}
    found |= {(name, "sm_90"): Compiled(64, 8, 0, 100) for name, _ in found}
    assert registers.table(found)[2:] == [
        "| blend | 2 | 32 to 33 / 64 | 0 to 4 / 0 | 0 / 8 | 0 / 100 | 75 to 100 / 50 |"
    ]


def test_the_time_is_that_of_the_narrowest_limit():
    nothing = Requests(0, 0, 0, 0, 0, 0, 0, 0)
    sectors = 10**9 // 32
    reads = Requests(sectors // 16, 2 * sectors, 10**9, 10**9, sectors, sectors, sectors, sectors)
    kernel = Counted("k", 1, 10**5, 10**5, 256, 0, 0, 0, 0, 0, reads, nothing, nothing)
    limits = times(kernel, Compiled(32, 0, 0, 0), GPUS[0], 0, "float32")
    assert max(limits, key=limits.get) == "memory" and limits["memory"] == pytest.approx(1e9 / 3.35e12 * 1e6, rel=1e-6)
