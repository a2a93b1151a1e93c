"""A short seeded run of the fuzz of annotation files."""

from tests.fuzz import fuzz_annotations, fuzz_other_annotations


def test_no_annotation_file_ends_in_a_fault():
    counts, faults = fuzz_annotations.run(80, seed=7)
    assert not faults, faults[0]
    # All ways must be walked for the run to say anything.
    assert counts["refused"] > 10 and counts["accepted, AP 100"] > 10 and counts["accepted, AP 100 with a warning"] > 1
    assert sum(counts.values()) == 80


def test_no_lvis_and_no_panoptic_file_ends_in_a_fault():
    counts, faults = fuzz_other_annotations.run(60, seed=7)
    assert not faults, faults[0]
    assert min(counts[f"{name}: {end}"] for name in ("lvis", "panoptic") for end in ("accepted", "refused")) > 5


def test_a_crash_and_a_hang_are_counted():
    import os
    import time

    from tests.fuzz.harness import run_samples

    def check(sample):
        if sample == 1:
            os.kill(os.getpid(), 9)
        if sample == 2:
            time.sleep(5)
        if sample == 3:
            bytearray(2**33)
        return "fine", ""

    counts, faults = run_samples(check, range(6), seconds=0.5, megabytes=500)
    assert counts == {"fine": 3, "FAULT: crash": 1, "FAULT: hang": 1, "FAULT: memory": 1}
    assert [f[0] for f in faults] == [1, 2, 3]
