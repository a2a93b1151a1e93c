"""Polyak averaging: the formula, and a module that gets its own weights back."""

import copy
import io

import pytest
import torch
from torch import nn

from adet_ext.errors import UserError
from adet_ext.utils.polyak import PolyakAverage


def network() -> nn.Module:
    torch.manual_seed(0)
    # Without a bias before the batch norm: its gradient is rounding alone, and whether it moves depends on the machine.
    return nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 1))


def train(module: nn.Module, steps: int, average: PolyakAverage | None = None, seed: int = 1) -> None:
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.3)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        module(torch.randn(2, 1, 5, 5, generator=generator)).square().mean().backward()
        optimizer.step()
        if average is not None:
            average.update()


def values(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def equal(left: dict, right: dict) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_the_average_is_that_of_the_formula():
    module = network()
    average, wanted = PolyakAverage(module, 0.9), {name: p.detach().clone() for name, p in module.named_parameters()}
    for step in range(5):
        train(module, 1, average, seed=step)
        wanted = {name: 0.9 * wanted[name] + 0.1 * p.detach() for name, p in module.named_parameters()}
    for name, tensor in wanted.items():
        torch.testing.assert_close(average.average[name], tensor)


def test_a_decay_of_zero_is_the_last_weights():
    module = network()
    average = PolyakAverage(module, 0)
    train(module, 3, average)
    assert all(torch.equal(average.average[name], p) for name, p in module.named_parameters())


@pytest.mark.parametrize("buffers", ["keep", "average"])
def test_the_module_holds_the_average_within_and_its_own_weights_after(buffers):
    module = network()
    average = PolyakAverage(module, buffers=buffers)
    train(module, 4, average)
    own = values(module)
    with average.applied() as inside:
        assert inside is module
        held = values(module)
        for name in average.average:
            assert torch.equal(held[name], average.average[name]) and not torch.equal(held[name], own[name])
        statistics = torch.equal(held["1.running_mean"], own["1.running_mean"])
        assert statistics == (buffers == "keep")
        assert torch.equal(held["1.num_batches_tracked"], own["1.num_batches_tracked"])
    assert equal(values(module), own)


def test_the_own_weights_come_back_after_an_error():
    module = network()
    average = PolyakAverage(module)
    train(module, 2, average)
    own = values(module)
    with pytest.raises(ZeroDivisionError), average.applied():
        raise ZeroDivisionError
    assert equal(values(module), own)


def test_training_is_not_changed_by_swapping_in_between():
    plain, swapped = network(), network()
    train(plain, 6)
    average = PolyakAverage(swapped)
    optimizer = torch.optim.SGD(swapped.parameters(), lr=0.3)
    generator = torch.Generator().manual_seed(1)
    for _ in range(6):
        optimizer.zero_grad()
        swapped(torch.randn(2, 1, 5, 5, generator=generator)).square().mean().backward()
        optimizer.step()
        average.update()
        with average.applied():
            pass
    assert equal(values(plain), values(swapped))


def test_frozen_parameters_are_not_copied():
    module = network()
    module[0].requires_grad_(False)
    assert list(PolyakAverage(module).average) == ["1.weight", "1.bias", "2.weight", "2.bias"]


def test_a_saved_state_goes_on_bit_for_bit():
    module = network()
    average = PolyakAverage(module, 0.8, "average")
    train(module, 3, average)
    file = io.BytesIO()
    torch.save(average.state_dict(), file)
    file.seek(0)
    other = copy.deepcopy(module)
    again = PolyakAverage(other, 0.5, "average")
    again.load_state_dict(torch.load(file, weights_only=True))
    for one, two in ((module, average), (other, again)):
        train(one, 3, two, seed=5)
    assert equal(average.average, again.average) and again.updates == 6 and again.decay == 0.8


def test_a_state_does_not_change_after_it_was_taken():
    module = network()
    average = PolyakAverage(module)
    state = average.state_dict()
    before = copy.deepcopy(state["average"])
    train(module, 2, average)
    assert equal(state["average"], before)


def test_calls_out_of_order_are_refused():
    average = PolyakAverage(network())
    with pytest.raises(RuntimeError, match="own weights already"):
        average.restore()
    average.swap_in()
    with pytest.raises(RuntimeError, match="in the module already"):
        average.swap_in()
    with pytest.raises(RuntimeError, match="restore"):
        average.update()


def test_what_does_not_fit_is_refused():
    for decay in (1, -0.1, "0.9"):
        with pytest.raises(UserError, match="decay must be a number from 0 to below 1"):
            PolyakAverage(network(), decay)
    with pytest.raises(UserError, match="buffers must be keep or average"):
        PolyakAverage(network(), buffers="copy")
    with pytest.raises(UserError, match="1.running_mean differs"):
        PolyakAverage(network()).load_state_dict(PolyakAverage(network(), buffers="average").state_dict())
