"""Rank correlation, and architectures at even steps of a ranking."""

import math

import pytest

from adet_ext.errors import UserError
from adet_ext.nas.journal import Recorded
from adet_ext.nas.ranks import rank_correlation, spread


def test_ranks_agree_where_the_order_does_and_ties_share_theirs():
    assert rank_correlation([1, 2, 3], [10, 100, 1000]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 1, 2], [1, 2, 3]) == pytest.approx(3**0.5 / 2)
    assert math.isnan(rank_correlation([1, 1, 1], [1, 2, 3]))


def test_the_spread_has_the_worst_and_the_best():
    rewards = [3.0, 1.0, 2.0, 5.0, 4.0]
    entries = [{"status": "done", "stopped": False, "reward": r} for r in rewards] + [{"status": "failed"}]
    assert [e["reward"] for e in spread(Recorded({}, entries), 3)] == [1, 3, 5]
    with pytest.raises(UserError, match="--count must be 2 to 5.*got 6"):
        spread(Recorded({}, entries), 6)
