"""The operators' benchmark: what it times, compares and prints. On tiny cases of its own."""

import json
import os

import pytest
import torch

from adet_ext.benchmark.ops import Case, Contest, all_cases, runner
from adet_ext.benchmark.ops.peaks import cpu_peaks
from adet_ext.benchmark.ops.runner import Row, agreement, copy_bandwidth, run_case
from adet_ext.benchmark.ops.table import render
from adet_ext.cli import bench, bench_ops
from adet_ext.errors import UserError
from adet_ext.layers.extension import ExtensionStatus

CPU = torch.device("cpu")


def case(operator="double", *, ours=None, theirs=None, target=None, same=True, **options):
    def make(device, dtype):
        x = torch.ones(1000, device=device, dtype=dtype)
        return Contest(ours or (lambda: x + x), theirs or (lambda: 2 * x), 2 * x.numel() * x.element_size(), same)

    return Case(operator, "1000", "two times x", make, target or {}, **options)


def memory_cases():
    """Read by the process that measures memory: ours makes 8 MiB, theirs 24 at once of which it keeps 8."""

    def make(device, dtype):
        x = torch.ones(2**21, dtype=dtype)
        return Contest(lambda: x + 1, lambda: (x + 1) * (x + 2), 0)

    return [case(ours=lambda: 1 / 0), Case("memory", "2M", "", make, {})]


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(runner, "SAMPLE_SECONDS", 1e-5)


@pytest.fixture
def fakes(monkeypatch, quick):
    """The command on fake cases, as if the operators were built."""
    found = [case(target={"cpu": 1e-9}), case("other", dtypes=(torch.float32, torch.float64)), case("far", devices=())]
    monkeypatch.setattr(bench_ops, "all_cases", lambda: found)
    monkeypatch.setattr(bench_ops, "copy_bandwidth", lambda device: 1e9)
    monkeypatch.setattr(bench_ops, "status", lambda: ExtensionStatus(True, "built", build={"cuda": "none"}))
    return found


def test_the_sides_take_turns_in_going_first(quick):
    calls = []
    measured = case(ours=lambda: calls.append("ours"), theirs=lambda: calls.append("theirs"), same=False)
    row = run_case(measured, CPU, torch.float32, 2, 1e9, lambda: calls.append("|"))
    firsts = "".join("|" if call == "|" else call[0] for call in calls).split("|")[-3:]
    assert firsts[1].startswith("t") and firsts[1].endswith("o") and calls.count("|") == 2
    assert row.error is None and row.ours > 0 and row.theirs > 0


def test_a_ratio_is_above_one_where_ours_is_faster(quick):
    x = torch.ones(300, 300)
    row = run_case(case(ours=lambda: None, theirs=lambda: x @ x, same=False), CPU, torch.float32, 5, 1e9, lambda: None)
    assert row.ratio["median"] > 1 and row.theirs > row.ours


def test_the_share_of_a_copy_is_traffic_by_time_by_bandwidth(quick):
    row = run_case(case(), CPU, torch.float32, 3, 2e9, lambda: None)
    assert row.bandwidth == pytest.approx(8000 / (row.ours / 1e3))
    assert row.copy_share == pytest.approx(row.bandwidth / 2e9)


@pytest.mark.parametrize(
    ("target", "ratio", "holds"), [(2.0, 2.5, True), (2.0, 1.5, False), (None, 1.5, None), (2.0, None, None)]
)
def test_a_target_holds_where_the_median_reaches_it(target, ratio, holds):
    row = Row("o", "s", "d", "cpu", "b", ratio=ratio and {"median": ratio}, target=target)
    assert row.holds is holds


def test_results_that_differ_are_told_from_rounding():
    a = torch.linspace(0, 1, 100)
    assert agreement(a, a + 1e-6, torch.float32) is True
    assert agreement(a, a + 1e-2, torch.float32) is False
    assert agreement((a, None), (a.clone(), None), torch.float32) is True
    assert agreement(a, a * float("nan"), torch.float32) is False
    assert agreement(a, a[:50], torch.float32) is None
    assert agreement(a[:0], a[:0], torch.float32) is True


def test_a_failing_case_is_a_row_with_its_reason(quick):
    def fail():
        raise RuntimeError("out of memory\nand much more")

    row = run_case(case(ours=fail), CPU, torch.float32, 1, 1e9, lambda: None)
    assert row.error == "RuntimeError: out of memory" and row.holds is None
    assert "failed: double 1000 float32: RuntimeError: out of memory" in render([row], "")


def test_a_copy_reads_and_writes(monkeypatch):
    monkeypatch.setattr(runner, "_Cpu", lambda: lambda side, repeats: 0.5)
    assert copy_bandwidth(CPU, size=2**20, rounds=2) == 2 * 2**20 / 0.5


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="only Linux has the high-water mark")
def test_peak_memory_counts_intermediates_and_results():
    source = "tests.benchmark.test_ops:memory_cases"
    ticks = []
    (ours, theirs), failed = cpu_peaks([(1, "float32"), (0, "nothing")], 1, lambda: ticks.append(1), source)
    megabytes = 2**20
    assert 7 * megabytes < ours < 12 * megabytes and 22 * megabytes < theirs < 28 * megabytes
    assert failed is None and len(ticks) == 2


def test_the_command_prints_a_table_and_writes_the_numbers(fakes, tmp_path, capsys):
    path = tmp_path / "deep" / "ops.json"
    assert bench.main(["ops", "--rounds", "2", "--no-memory", "--json", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "double: against two times x" in printed and "yes" in printed and "far" not in printed
    report = json.loads(path.read_text())
    assert [(row["operator"], row["dtype"]) for row in report["rows"]] == [
        ("double", "float32"),
        ("other", "float32"),
        ("other", "float64"),
    ]
    assert report["rows"][0]["holds"] is True and report["rows"][1]["holds"] is None
    assert set(report["rows"][0]["ratio"]) == {"median", "lower", "upper", "least", "p90", "p99"}


def test_cases_are_chosen_by_name_and_type(fakes, capsys):
    assert bench.main(["ops", "--rounds", "1", "--no-memory", "--only", "oth", "--dtype", "float64"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if " cpu " in line]
    assert len(lines) == 1 and lines[0].split()[:3] == ["other", "1000", "float64"]


def test_results_that_differ_fail_the_command(fakes, monkeypatch, capsys):
    monkeypatch.setattr(bench_ops, "all_cases", lambda: [case(ours=lambda: torch.zeros(1000))])
    assert bench.main(["ops", "--rounds", "1", "--no-memory"]) == 1
    assert "results differ: double 1000 float32" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--only", "nothing"], "must be part of an operator's name, double, far, other; got nothing"),
        (["--only", "far"], "no case is left for cpu"),
        (["--rounds", "0"], "--rounds must be 1 or more; got 0"),
        (["--threads", "0"], "--threads must be 1 or more; got 0"),
        (["--device", "gpu"], "--device must be cpu or cuda; got gpu"),
        (["--device", "meta"], "--device must be cpu or cuda; got meta"),
    ],
)
def test_wrong_options_are_sentences(fakes, arguments, text):
    with pytest.raises(UserError, match=text):
        bench.main(["ops", *arguments])


def test_a_missing_extension_is_a_sentence(fakes, monkeypatch):
    monkeypatch.setattr(bench_ops, "status", lambda: ExtensionStatus(False, "there is no C++ compiler"))
    with pytest.raises(UserError, match=r"no compiled operators to time \(there is no C\+\+ compiler\); build them"):
        bench.main(["ops"])


def test_every_case_is_complete():
    """Of the real cases: they are made and run elsewhere; what is printed of them is checked here."""
    for found in all_cases():
        assert found.operator and found.shape and found.baseline and found.dtypes
        assert set(found.target) <= {"cpu", "cuda"} and set(found.devices) <= {"cpu", "cuda"}
        assert all(ratio > 0 for ratio in found.target.values())
