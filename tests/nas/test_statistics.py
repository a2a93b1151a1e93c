import math

from adet_ext.nas.space import Decision, Space
from adet_ext.nas.statistics import describe, moving_mean, shares

SPACE = Space("toy", [Decision("a", "operation", ("x", "y")), Decision("b", "location", ("p", "q", "r"))])


def entry(index, tokens, reward=None, status="done", seconds=2.0, **more):
    cost = {"seconds": seconds, "finished": 100.0 + 3 * index, "worker": 0, "peak_memory_mb": 10.0 * index}
    filled = {"index": index, "tokens": list(tokens), "reward": reward, "status": status, "error": "", "metrics": {}}
    return {**filled, "scores": [], "stopped": False, "graph": {}, "cost": cost, **more}


HEADER = {"space": SPACE.to_json(), "sampler": {"name": "random"}, "settings": {}, "seed": 3}


def test_the_best_are_ranked_by_reward_each_once():
    entries = [entry(0, (0, 0), 1.0), entry(1, (1, 2), 5.0), entry(2, (1, 2), 5.0, "repeated"), entry(3, (0, 1), 3.0)]
    assert [found["index"] for found in describe(HEADER, entries)["best"]] == [1, 3, 0]


def test_a_repeated_architecture_counts_in_the_curve_and_a_failed_one_does_not():
    entries = [entry(0, (0, 0), 1.0), entry(1, (1, 1), None, "failed"), entry(2, (0, 0), 1.0, "repeated")]
    found = describe(HEADER, entries)
    assert found["reward"] == [(0, 1.0), (2, 1.0)]
    assert (found["done"], found["failed"], found["repeated"], found["asked"]) == (1, 1, 1, 3)


def test_the_moving_mean_is_the_mean_of_the_last_period():
    curve = [(i, float(i * i)) for i in range(10)]
    xs, ys = moving_mean(curve, 4)
    assert xs == list(range(3, 10))
    assert all(math.isclose(y, sum(j * j for j in range(x - 3, x + 1)) / 4) for x, y in zip(xs, ys))


def test_a_short_curve_is_averaged_over_half_of_it():
    assert moving_mean([(0, 1.0), (1, 3.0)], 50) == ([0, 1], [1.0, 3.0])
    assert moving_mean([], 50) == ([], [])


def test_the_shares_of_a_kind_sum_to_one_in_every_period():
    entries = [entry(i, (i % 2, i % 3), 0.0) for i in range(25)]
    found = shares(SPACE, entries, 10)
    for kind in ("operation", "location"):
        columns = [values for name, values in found[kind].items() if name != "index"]
        assert all(math.isclose(sum(column), 1) for column in zip(*columns))
    assert found["operation"]["index"] == [9, 19, 24]


def test_a_rest_of_less_than_half_a_period_joins_the_one_before():
    entries = [entry(i, (0, 0), 0.0) for i in range(13)]
    assert shares(SPACE, entries, 10)["operation"] == {"index": [12], "x": [1.0], "y": [0.0]}


def test_rejected_architectures_have_no_share():
    entries = [entry(0, (0, 0), 0.0), entry(1, (1, 1), None, "rejected")]
    assert shares(SPACE, entries, 10)["operation"]["x"] == [1.0]


def test_the_clock_leaves_out_the_pause_of_a_stopped_search():
    entries = [entry(i, (0, 0), 0.0) for i in range(4)]
    running = describe(HEADER, entries)["cost"]["clock_hours"]
    entries[2]["cost"]["finished"] += 86400
    entries[3]["cost"]["finished"] += 86400
    assert math.isclose(running * 3600, 3 * 3 + 2)
    assert math.isclose(describe(HEADER, entries)["cost"]["clock_hours"] * 3600, 2 * 3 + 2)


def test_a_journal_without_architectures_has_a_summary():
    found = describe(HEADER, [])
    assert found["best"] == [] and found["reward"] == [] and found["asked"] == 0


def test_the_sampler_and_the_parts_of_evaluations_share_the_time():
    entries = [entry(i, (0, 0), 0.0) for i in range(2)]
    for one in entries:
        one["cost"] |= {"ask_seconds": 0.25, "tell_seconds": 0.5, "cpu_seconds": 9.0, "phases": {"training": 1.5}}
    assert describe(HEADER, entries)["cost"]["phases"] == {"sampler": 1.5, "training": 3.0}
