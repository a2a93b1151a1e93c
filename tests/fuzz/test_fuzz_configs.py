"""A short seeded run of the fuzz of configs."""

from .fuzz_configs import run


def test_every_config_loads_or_is_refused_by_one_sentence():
    counts, faults = run(120, seed=7_000)
    assert not faults, faults[:3]
    assert counts["refused"] > 20 and sum(n for kind, n in counts.items() if kind.startswith("accepted")) > 20
