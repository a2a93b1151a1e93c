"""Searches that are killed end with the journal of one never killed. ``tests/fuzz/fuzz_searches.py`` kills more."""

from pathlib import Path

import pytest

from ..fuzz import fuzz_searches


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux")
@pytest.mark.parametrize("kills, workers", [(5, 0), (4, 2)])
def test_a_search_killed_at_random_moments_ends_with_the_same_journal(kills, workers):
    counts = fuzz_searches.run(kills, seed=1, workers=workers)
    assert counts["kills"] == kills and counts["equal"] == counts["searches"] >= 1
    assert counts["torn"] or workers
