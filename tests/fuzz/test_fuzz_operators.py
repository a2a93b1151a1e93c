"""A short seeded run of the random operator calls."""

from .fuzz_operators import run


def test_random_calls_of_the_operators_are_right_or_refused():
    faults = []
    counts = run(300, 1, faults)
    assert not faults, "\n".join(faults)
    assert sum(counts.values()) == 300
