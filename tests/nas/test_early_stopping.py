"""Early stopping: the published rule for positive scores, its mirror for negative ones, no state in a worker."""

import json
import math
import random

import pytest

from adet_ext.errors import UserError
from adet_ext.nas.early_stopping import EarlyStopping
from adet_ext.nas.samplers import draws


def test_a_score_passes_exactly_where_the_published_rule_lets_it_pass():
    stopping, source, reference = EarlyStopping(1), random.Random(0), 0.01
    delta, outcomes = 0.9, []
    for task in range(450):
        score = source.random() * 0.6
        u = draws("early stopping", task, 0).uniform(0, delta)
        passes = score > reference or score > reference * (1 - u)
        (threshold,) = stopping.thresholds(task)
        if task:  # before the first score there is no threshold
            assert (score > threshold) == passes
        outcomes.append(passes)
        stopping.tell([score])
        reference = 0.99 * reference + 0.01 * score
        delta *= {100: 0.9, 200: 0.8, 300: 0.7, 400: 0.6}.get(task + 1, 1)
    assert 20 < outcomes.count(False) < 250


def test_nothing_stops_before_the_first_score():
    assert EarlyStopping(2).thresholds(7) == (-math.inf, -math.inf)


def test_thresholds_are_the_same_for_the_same_task_and_differ_between_tasks_and_points():
    stopping = EarlyStopping(2)
    stopping.tell([0.5, 0.5])
    first = stopping.thresholds(3)
    assert first == stopping.thresholds(3)
    assert first[0] != first[1] and first != stopping.thresholds(4)


def test_thresholds_lie_from_the_reference_to_delta_below_it():
    for sign in (1, -1):
        stopping = EarlyStopping(1, decay=0)
        stopping.tell([sign * 2.0])
        thresholds = [stopping.thresholds(task)[0] for task in range(500)]
        low, high = sign * 2 - 0.9 * 2, sign * 2
        assert low <= min(thresholds) < low + 0.05 and high - 0.05 < max(thresholds) <= high


def test_negative_scores_are_judged_from_the_second_on_by_their_own_size():
    stopping, source, stopped = EarlyStopping(1), random.Random(0), []
    for task in range(300):
        score = -3 + source.gauss(0, 0.1) - 6 * (task % 10 == 9)  # each tenth candidate is hopeless
        stopped.append(not score > stopping.thresholds(task)[0])
        stopping.tell([score])
    hopeless = stopped[9::10]
    others = [stop for task, stop in enumerate(stopped) if task % 10 != 9]
    assert all(hopeless)
    assert sum(others) < 0.1 * len(others)


def test_delta_shrinks_after_so_many_scores_of_a_point():
    stopping = EarlyStopping(1, decay=0, steps=(2, 4), factors=(0.5, 0.1))
    widths = []
    for _ in range(5):
        stopping.tell([1.0])
        widths.append(1 - min(stopping.thresholds(task)[0] for task in range(2000)))
    assert widths == pytest.approx([0.9, 0.45, 0.45, 0.045, 0.045], rel=0.02)


def test_a_candidate_that_stopped_early_leaves_the_later_points_alone():
    stopping = EarlyStopping(3)
    stopping.tell([0.5, 0.5, 0.5])
    later = stopping.thresholds(0)[1:]
    stopping.tell([0.1])
    assert stopping.thresholds(0)[1:] == later
    assert stopping.counts == [2, 1, 1]


def test_scores_that_are_not_finite_are_passed_over():
    stopping = EarlyStopping(1)
    stopping.tell([float("nan")])
    stopping.tell([float("inf")])
    assert stopping.state_dict() == EarlyStopping(1).state_dict()


def test_a_state_through_json_goes_on_the_same():
    stopping, again = EarlyStopping(2), EarlyStopping(2)
    for score in (0.3, 0.1, 0.4):
        stopping.tell([score, -score])
    again.load_state_dict(json.loads(json.dumps(stopping.state_dict())))
    for one in (stopping, again):
        one.tell([0.2])
    assert again.thresholds(5) == stopping.thresholds(5)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"points": -1}, "points must be a whole number of at least 0"),
        ({"points": 1, "decay": 2}, "decay must be a number from 0 to 1"),
        ({"points": 1, "steps": (1,)}, "steps and factors must be equally many"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        EarlyStopping(**settings)


def test_more_scores_than_points_and_a_state_of_other_points_are_refused():
    with pytest.raises(ValueError, match="at most 1"):
        EarlyStopping(1).tell([0.1, 0.2])
    with pytest.raises(UserError, match="must have 1 points; got 2"):
        EarlyStopping(1).load_state_dict(EarlyStopping(2).state_dict())
