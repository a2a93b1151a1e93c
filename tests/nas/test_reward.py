"""Rewards: the baseline follows its formula, the geometric mean its definition."""

import pytest

from adet_ext.nas.reward import MovingBaseline, geometric_mean


def test_the_baseline_takes_the_first_reward_whole_and_then_a_twentieth_of_each():
    baseline = MovingBaseline()
    assert baseline.update(-2) == -2
    assert baseline.update(0) == pytest.approx(-1.9)
    assert baseline.update(1) == pytest.approx(0.95 * -1.9 + 0.05)


def test_a_baseline_goes_on_from_its_state():
    baseline, again = MovingBaseline(0.5), MovingBaseline(0.5)
    baseline.update(4)
    again.load_state_dict(baseline.state_dict())
    assert again.update(2) == baseline.update(2) == 3


def test_a_baseline_that_forgets_nothing_is_refused():
    with pytest.raises(ValueError, match="decay"):
        MovingBaseline(1.0)


def test_the_geometric_mean_of_three_metrics():
    assert geometric_mean([0.2, 0.4, 0.8]) == pytest.approx(0.4)
    assert geometric_mean([0.3]) == pytest.approx(0.3)
    assert geometric_mean([0.5, 0.0]) == 0


def test_the_geometric_mean_of_many_small_values_does_not_underflow():
    assert geometric_mean([1e-200, 1e-200, 1e-200]) == pytest.approx(1e-200, rel=1e-9)


@pytest.mark.parametrize("values", [[], [0.1, -0.1]])
def test_what_has_no_geometric_mean_is_refused(values):
    with pytest.raises(ValueError, match="values must be"):
        geometric_mean(values)
