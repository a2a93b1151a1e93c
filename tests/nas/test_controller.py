"""The controller: the gradient of a plain LSTM, the arithmetic of PPO, and rewards that grow."""

import copy
import math
import statistics

import pytest
import torch
from torch import nn

from adet_ext.errors import UserError
from adet_ext.nas.controller import Controller
from adet_ext.nas.policy import Policy
from adet_ext.nas.samplers import build_sampler
from adet_ext.nas.space import Decision, Space

from .spaces import PoolSpace, run, sum_of_scores

SPACE = PoolSpace(2)
LOCATION_ROWS = 2 * (3 + 4)  # a layer for each location of two blocks


def plain(policy: Policy, warmup: int) -> tuple[torch.Tensor, list[nn.Parameter]]:
    """The log-probabilities by torch's own LSTM, and its parameters in the order of the policy's vector."""
    views, h = policy.named_views(), policy.hidden
    lstm = nn.LSTM(h, h, policy.layers)
    order = [1, 2, 3, 0]  # torch has input, forget, cell, output; the policy output, input, forget, cell
    parameters = {"start": nn.Parameter(views["start"].clone())}
    for layer in range(policy.layers):
        weight = views[f"weight.{layer}"].view(4, h, 2 * h)[order].reshape(4 * h, 2 * h)
        parts = {"weight_ih": weight[:, :h], "weight_hh": weight[:, h:]}
        for name, bias in (("bias_ih", "bias_input"), ("bias_hh", "bias_hidden")):
            parts[name] = views[f"{bias}.{layer}"].view(4, h)[order].reshape(-1)
        for name, value in parts.items():
            getattr(lstm, f"{name}_l{layer}").data.copy_(value)
            parameters[f"{name}.{layer}"] = getattr(lstm, f"{name}_l{layer}")
    for name in ("linear", "linear_bias"):
        parameters[name] = nn.Parameter(views[name].clone())
    x, state, outputs = parameters["start"].view(1, 1, h), None, []
    for _ in range(warmup + len(policy.columns)):
        x, state = lstm(x, state)
        outputs.append(x.view(h))
    logits = torch.stack(outputs[warmup:]) @ parameters["linear"].t() + parameters["linear_bias"]
    table = torch.full(policy.columns.shape, -1e9)
    for index, (columns, missing) in enumerate(zip(policy.columns, policy.no_choice)):
        known = columns[~missing]
        table = table.index_put((torch.full_like(known, index), torch.arange(len(known))), logits[index, known])
    return table.log_softmax(1), parameters


@pytest.mark.parametrize("layers, warmup", [(1, 0), (2, 0), (2, 3), (3, 1)])
def test_the_policy_is_torchs_lstm_forward_and_backward(layers, warmup):
    policy = Policy(SPACE.decisions, hidden=7, layers=layers, init_range=0.8, warmup_steps=warmup, seed=1)
    want, parameters = plain(policy, warmup)
    torch.testing.assert_close(policy(), want)
    weights = torch.randn(want.shape, generator=torch.Generator().manual_seed(0)) * ~policy.no_choice
    (want * weights).sum().backward()
    (policy() * weights).sum().backward()
    into = policy._views(policy.weights.grad)
    order = [3, 0, 1, 2]
    for name in ("start", "linear", "linear_bias"):
        torch.testing.assert_close(into[name], parameters[name].grad)
    for layer in range(layers):
        gradients = [parameters[f"{name}.{layer}"].grad for name in ("weight_ih", "weight_hh")]
        wanted = torch.cat(gradients, 1).view(4, 7, 14)[order].reshape(28, 14)
        torch.testing.assert_close(into[f"weight.{layer}"], wanted)
        wanted = parameters[f"bias_hh.{layer}"].grad.view(4, 7)[order].reshape(-1)
        torch.testing.assert_close(into[f"bias_input.{layer}"], wanted)
        torch.testing.assert_close(into[f"bias_hidden.{layer}"], wanted)


def test_a_pass_that_was_overwritten_cannot_be_run_backward():
    policy = Policy(SPACE.decisions, hidden=4)
    first = policy()
    policy()
    with pytest.raises(RuntimeError, match="backward before"):
        first.sum().backward()


def test_locations_have_layers_of_their_own_and_the_other_kinds_share_one():
    policy = Policy(SPACE.decisions)
    assert policy.rows == LOCATION_ROWS + 5 + 2
    operations = [index for index, d in enumerate(SPACE.decisions) if d.kind == "operation"]
    assert all(torch.equal(policy.columns[index], policy.columns[2]) for index in operations)
    assert Policy(SPACE.decisions, own_layers=()).rows == 3 + 4 + 5 + 2
    assert Policy(SPACE.decisions, own_layers=("location", "operation")).rows == LOCATION_ROWS + 4 * 5 + 2


def test_a_kind_shares_where_its_numbers_of_choices_agree():
    decisions = [Decision(f"d{i}", "operation", tuple("abc"[:n])) for i, n in enumerate((2, 3, 2))]
    assert Policy(decisions).rows == 2 + 3


def test_all_weights_start_uniform_in_a_tenth():
    weights = Policy(SPACE.decisions, seed=5).weights.detach()
    assert weights.abs().max() <= 0.1
    assert abs(weights.std() - 0.2 / math.sqrt(12)) < 1e-3
    assert torch.equal(weights, Policy(SPACE.decisions, seed=5).weights)
    assert not torch.equal(weights, Policy(SPACE.decisions, seed=6).weights)


def test_probabilities_sum_to_one_and_are_sampled():
    controller = Controller(SPACE, 0, init_range=1.0, hidden=20)
    probabilities = controller.probabilities()
    assert [len(row) for row in probabilities] == [len(d.choices) for d in SPACE.decisions]
    assert all(abs(sum(row) - 1) < 1e-5 for row in probabilities)
    proposals = controller.ask(4000)
    for index, row in enumerate(probabilities):
        for choice, probability in enumerate(row):
            share = sum(tokens[index] == choice for tokens in proposals) / 4000
            assert abs(share - probability) < 4 * (0.25 / 4000) ** 0.5


def mean_gain(controller, told):
    """The objective of PPO over all told architectures, by plain arithmetic."""
    table, baseline = controller.policy(), controller.baseline.value
    total = 0
    for tokens, before, reward in told:
        ratio = (sum(table[d, token] for d, token in enumerate(tokens)) - before).exp()
        advantage = reward - baseline
        total = total + min(ratio * advantage, ratio.clamp(0.9, 1.1) * advantage)
    return total / len(told)


def test_a_step_ascends_the_clipped_objective_of_the_whole_batch():
    controller = Controller(SPACE, 0, batch_size=100, hidden=12, init_range=0.5, max_grad_norm=1e9)
    run(controller, sum_of_scores(SPACE), 5)
    witness = copy.deepcopy(controller)
    tokens = controller.ask(1)[0]
    witness.ask(1)
    controller.tell([(tokens, 0.7)])

    witness.baseline.update(0.7)
    table = witness._table()
    told = [*witness.buffer, (tokens, sum(table[d][token] for d, token in enumerate(tokens)), 0.7)]
    witness.policy.weights.grad = None
    (-mean_gain(witness, told)).backward()
    witness.optimizer.step()
    assert witness.policy.weights.grad.abs().max() > 0
    torch.testing.assert_close(controller.policy.weights, witness.policy.weights, rtol=0, atol=1e-7)


@pytest.mark.parametrize("advantage, sign", [(1.0, 1), (-1.0, -1)])
def test_a_clipped_architecture_has_the_gradient_zero_that_the_pass_would_find(advantage, sign):
    controller = Controller(SPACE, 0, hidden=12, init_range=0.5)
    tokens = torch.zeros(1, 10, dtype=torch.long)
    now = controller.policy().gather(1, tokens.t()).sum().detach()
    controller._step(tokens, (now - sign * 0.5).view(1), torch.tensor([advantage]))
    assert not controller.policy.weights.grad.any()
    controller._step(tokens, (now + sign * 0.5).view(1), torch.tensor([advantage]))  # on the other side it is not
    assert controller.policy.weights.grad.any()


def test_the_entropy_coefficient_keeps_the_policy_wide():
    def entropy(coefficient):
        controller = Controller(
            SPACE, 0, hidden=12, init_range=1.0, entropy_coefficient=coefficient, learning_rate=0.01
        )
        run(controller, lambda tokens: 0.0, 3)
        return -sum(p * math.log(p) for row in controller.probabilities() for p in row)

    assert entropy(0.1) > entropy(0) + 0.1


def test_failures_lower_the_probability_of_what_failed():
    controller = Controller(SPACE, 0, hidden=20, learning_rate=2e-3, batch_size=4)
    run(controller, lambda tokens: None if tokens[4] else sum_of_scores(SPACE)(tokens), 40)
    assert controller.probabilities()[4][1] < 0.2
    assert min(reward for *_, reward in controller.buffer) >= -1


def test_failures_can_be_passed_over():
    controller = Controller(SPACE, 0, hidden=8, learn_failures=False)
    run(controller, lambda tokens: 1.0, 1)
    before = controller.policy.weights.detach().clone()
    run(controller, lambda tokens: None, 2)
    assert torch.equal(controller.policy.weights, before)
    assert len(controller.buffer) == 4


def test_the_buffer_keeps_the_last_samples_and_can_begin_with_zeros():
    controller = Controller(SPACE, 0, hidden=8, buffer_size=6)
    told = run(controller, sum_of_scores(SPACE), 2)
    assert [(tokens, reward) for tokens, _, reward in controller.buffer] == told[-6:]
    zeros = Controller(SPACE, 0, hidden=8, buffer_size=6, zero_filled_buffer=True)
    run(zeros, sum_of_scores(SPACE), 1)
    assert zeros.buffer[:2] == [((0,) * 10, 0.0, 0.0)] * 2


def test_a_state_of_another_space_is_refused():
    state = Controller(PoolSpace(3), 0).state_dict()
    with pytest.raises(UserError, match="The controller's state must have .* weights"):
        Controller(SPACE, 0).load_state_dict(state)


def test_the_number_of_threads_changes_nothing():
    states, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            controller = Controller(SPACE, 0)
            run(controller, sum_of_scores(SPACE), 2)
            assert torch.get_num_threads() == count
            states.append(controller.policy.weights.detach())
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*states)


@pytest.mark.parametrize(
    "blocks, rounds, settings",
    [(1, 40, {}), (3, 75, {"batch_size": 10, "learning_rate": 1e-3})],
    ids=["published constants", "batches of ten"],
)
def test_the_last_rewards_exceed_the_first_by_more_than_the_spread(blocks, rounds, settings):
    space = PoolSpace(blocks)
    rewards = [r for _, r in run(build_sampler("controller", space, 1, **settings), sum_of_scores(space), rounds)]
    first, last = rewards[:50], rewards[-50:]
    spread = max(statistics.stdev(first), statistics.stdev(last))
    assert statistics.mean(last) - statistics.mean(first) > spread


def test_a_space_of_one_decision_is_learned():
    space = Space("bandit", [Decision("arm", "operation", tuple("abcd"))])
    controller = Controller(space, 0, learning_rate=1e-3)
    run(controller, lambda tokens: float(tokens[0] == 2), 15)
    assert controller.probabilities()[0][2] > 0.5
