"""Every sampler: deterministic, continued from a state or from a replay, and sparing with what is rejected."""

import io
import statistics

import pytest
import torch

from adet_ext.errors import UserError
from adet_ext.nas.samplers import NAMES, build_sampler, check_number, check_whole
from adet_ext.nas.space import Decision, Space

from .spaces import PoolSpace, run, sum_of_scores

SPACE = PoolSpace(3)
REWARD = sum_of_scores(SPACE)
SETTINGS = {
    "controller": {"batch_size": 4, "buffer_size": 8, "learning_rate": 1e-3, "hidden": 16},
    "evolution": {"population": 6, "tournament": 3},
    "genetic": {"population": 6, "parents": 3, "mutations": 2, "crossovers": 2},
    "path-priority": {"cycles": 1, "ranks": 2},
    "random": {},
}


def build(name: str, seed: int = 3, space: Space = SPACE, **settings):
    return build_sampler(name, space, seed, **{**SETTINGS[name], **settings})


def same(left, right) -> bool:
    """Equal bit for bit, through dicts and lists of tensors and numbers."""
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_and_rewards_give_the_same_proposals(name):
    first, again, other = (run(build(name, seed), REWARD, 6) for seed in (3, 3, 4))
    assert first == again
    assert first != other


@pytest.mark.parametrize("name", NAMES)
def test_proposals_do_not_depend_on_how_many_are_asked_for_at_once(name):
    one, many = build(name), build(name)
    for sampler in (one, many):
        run(sampler, REWARD, 2)
    assert [tokens for _ in range(5) for tokens in one.ask(1)] == many.ask(5)


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_state_goes_on_bit_for_bit(name):
    sampler = build(name)
    run(sampler, REWARD, 4)
    asked = sampler.ask(3)  # saved in the middle of a round
    file = io.BytesIO()
    torch.save(sampler.state_dict(), file)
    file.seek(0)
    again = build(name, seed=99)
    again.load_state_dict(torch.load(file, weights_only=True))
    assert same(again.state_dict(), sampler.state_dict())
    for one in (sampler, again):
        one.tell([(tokens, REWARD(tokens)) for tokens in asked])
    assert run(again, REWARD, 4) == run(sampler, REWARD, 4)
    assert same(again.state_dict(), sampler.state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_a_state_does_not_change_after_it_was_taken_or_given(name):
    sampler, again = build(name), build(name)
    run(sampler, REWARD, 3)
    state = sampler.state_dict()
    run(sampler, REWARD, 3)
    after = sampler.state_dict()
    again.load_state_dict(state)
    run(again, REWARD, 3)
    assert same(again.state_dict(), after)
    again.load_state_dict(state)  # would differ, had the run above gone on in the tensors of the state
    run(again, REWARD, 3)
    assert same(again.state_dict(), after)


@pytest.mark.parametrize("asking", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_replaying_what_was_told_gives_the_same_state(name, asking):
    sampler, replayed = build(name), build(name)
    told = run(sampler, REWARD, 6)
    for start in range(0, len(told), 4):
        if asking:
            assert replayed.ask(4) == [tokens for tokens, _ in told[start : start + 4]]
        replayed.tell(told[start : start + 4])
    assert same(replayed.state_dict(), sampler.state_dict())
    assert replayed.ask(4) == sampler.ask(4)


@pytest.mark.parametrize("name", NAMES)
def test_rejected_architectures_are_not_proposed_where_others_are(name):
    space = PoolSpace(3, rejected=4)
    told = run(build(name, space=space), sum_of_scores(space), 15)
    assert all(tokens[2] == 4 for tokens, _ in told)


@pytest.mark.parametrize("name", NAMES)
def test_a_space_that_rejects_everything_ends_no_sampler(name):
    space = PoolSpace(1, rejected=5)
    told = run(build(name, space=space), lambda tokens: None, 3)
    assert len(told) == 12 and all(space.check(tokens) for tokens, _ in told)


@pytest.mark.parametrize("name", NAMES)
def test_failures_are_survived_between_rewards(name):
    sampler = build(name)
    run(sampler, lambda tokens: None, 1)
    run(sampler, lambda tokens: float("nan") if tokens[4] else REWARD(tokens), 8)
    assert sampler.asked == 36
    assert len(sampler.ask(4)) == 4


@pytest.mark.parametrize("name", NAMES)
def test_a_decision_of_one_choice_is_no_obstacle(name):
    space = Space("narrow", [Decision("only", "operation", ("x",)), Decision("two", "location", ("a", "b"))])
    told = run(build(name, space=space), lambda tokens: tokens[1], 12)
    assert {tokens for tokens, _ in told} == {(0, 0), (0, 1)}


def test_random_search_draws_every_choice_about_equally_often():
    draws = build("random").ask(3000)
    for index, decision in enumerate(SPACE.decisions):
        count = len(decision.choices)
        shares = [sum(tokens[index] == choice for tokens in draws) / 3000 for choice in range(count)]
        assert max(abs(share - 1 / count) for share in shares) < 4 * (0.25 / 3000) ** 0.5


def test_evolution_beats_random_search():
    def last(name):
        told = run(build(name, population=20, tournament=5) if name == "evolution" else build(name), REWARD, 60)
        return [reward for _, reward in told[-50:]]

    evolution, random = last("evolution"), last("random")
    assert statistics.mean(evolution) - statistics.mean(random) > statistics.stdev(random)


def test_children_of_a_generation_come_from_its_parents():
    sampler = build("genetic", population=10, parents=2, mutations=4, crossovers=4, rate=0.0)
    told = run(sampler, REWARD, 5, 2)
    best = sorted(told, key=lambda one: -one[1])[:2]
    assert [tokens for tokens, _ in sampler.parents] == [tokens for tokens, _ in best]
    mutated, crossed = sampler.ask(4), sampler.ask(4)
    # Without mutation a child is its parent, which was proposed before: uniform draws take its place.
    assert not {tokens for tokens, _ in best} & set(mutated)
    for child in crossed:
        assert all(token in pair for token, pair in zip(child, zip(*(tokens for tokens, _ in best))))


def test_a_cycle_of_fair_paths_has_every_choice_equally_often():
    sampler = build("path-priority", cycles=2)
    for _ in range(2):
        paths = sampler.ask(sampler.period)
        assert sampler.period == 60
        for index, decision in enumerate(SPACE.decisions):
            counts = [sum(tokens[index] == choice for tokens in paths) for choice in range(len(decision.choices))]
            assert len(set(counts)) == 1


def test_points_go_to_the_choices_of_good_paths_and_the_best_are_proposed():
    sampler = build("path-priority", cycles=5, ranks=3)
    run(sampler, REWARD, 75)
    assert sum(sampler.points[0]) == 5 * sum(range(60))
    first, second, third = sampler.ask(3)
    assert first == sampler.ranked(0) and second == sampler.ranked(1)
    assert REWARD(first) > REWARD(second) > REWARD(third)
    found = [REWARD(tokens) for tokens in build("random").ask(300)]
    assert REWARD(first) > max(found)
    points = [list(p) for p in sampler.points]
    sampler.tell([(tokens, 0.0) for tokens in (first, second, third)])
    assert sampler.points == points and sampler._open == []


def test_evolution_changes_one_decision_of_a_member():
    sampler = build("evolution")
    run(sampler, REWARD, 2)
    members = [tokens for tokens, _ in sampler.members]
    for child in sampler.ask(20):
        assert min(sum(a != b for a, b in zip(child, member)) for member in members) == 1


def test_evolution_lets_the_oldest_die_however_good():
    sampler = build("evolution", population=3)
    sampler.tell([(SPACE.encode(SPACE.decode((0,) * 15)), 100.0)])
    run(sampler, REWARD, 1, 3)
    assert len(sampler.members) == 3 and max(reward for _, reward in sampler.members) < 100


def test_evolution_does_not_propose_its_parents_network_again():
    class Blind(PoolSpace):
        def canonical(self, tokens):
            return (*self.check(tokens)[:5], *[0] * 10)  # only block 0 is built

    sampler = build("evolution", space=Blind(3))
    run(sampler, REWARD, 2)
    members = {sampler.space.canonical(tokens) for tokens, _ in sampler.members}
    assert len(members) > 1
    for child in sampler.ask(20):  # a mutation of a block that is not built is drawn again
        assert min(sum(a != b for a, b in zip(child[:5], member)) for member in members) <= 1


@pytest.mark.parametrize(
    "name, settings, words",
    [
        ("annealing", {}, "must be one of controller, evolution, genetic, path-priority, random; got 'annealing'"),
        ("random", {"population": 3}, "random must be left out: it has none; got 'population'"),
        ("evolution", {"size": 3}, "one of population, tournament; got 'size'"),
        ("evolution", {"population": 0}, "population must be a whole number of at least 1; got 0"),
        ("evolution", {"tournament": 2.5}, "tournament must be a whole number"),
        ("genetic", {"population": 3}, "population must be a whole number of at least 40; got 3"),
        ("path-priority", {"cycles": 0}, "cycles must be a whole number of at least 1; got 0"),
        ("controller", {"clip": "0.1"}, "clip must be a number from 0 to 1; got '0.1'"),
        ("controller", {"learning_rate": float("nan")}, "learning_rate must be a number of at least 0"),
        ("controller", {"baseline_decay": 1.0}, "baseline_decay must be a number from 0 to"),
        ("controller", {"own_layers": "location"}, "own_layers must be a list of kinds"),
        ("controller", {"batch_size": True}, "batch_size must be a whole number"),
    ],
)
def test_a_name_or_setting_that_does_not_fit_is_refused(name, settings, words):
    with pytest.raises(UserError, match=words):
        build_sampler(name, SPACE, 0, **settings)


def test_a_seed_must_be_a_whole_number():
    for name in NAMES:
        with pytest.raises(UserError, match="seed must be a whole number"):
            build_sampler(name, SPACE, "1")


def test_settings_are_given_back_as_plain_numbers():
    assert check_whole("n", torch.tensor(3), 1) == 3
    assert check_number("x", 2, 0) == 2.0
