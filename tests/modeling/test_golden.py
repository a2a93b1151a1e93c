"""FCOS and BlendMask give the numbers of the public reference implementation."""

import pytest

from . import golden

NAMES = list(golden.CONFIGS)


@pytest.mark.parametrize("name", NAMES)
def test_state_dict_matches_the_published_names_shapes_and_sums(name):
    info, _ = golden.record(name)
    model = golden.build(name)
    state, trained = model.state_dict(), {k for k, p in model.named_parameters() if p.requires_grad}
    assert {x["key"] for x in info["state_dict"]} == set(state)
    for entry in info["state_dict"]:
        tensor = state[entry["key"]]
        assert list(tensor.shape) == entry["shape"], entry["key"]
        assert (entry["key"] in trained) == entry["trained"], entry["key"]
        if tensor.is_floating_point():
            assert tensor.double().abs().sum().item() == pytest.approx(entry["abs_sum"], rel=1e-6), entry["key"]
            assert tensor.double().sum().item() == pytest.approx(entry["sum"], rel=1e-4, abs=1e-3), entry["key"]


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_agrees_with_the_reference(name):
    model = golden.build(name)
    errors = golden.Errors()
    for case in ("eval_a", "eval_b"):
        golden.evaluate(name, case, errors, model)
    for quantity in errors.absolute:
        if quantity == "pasted pixels":
            assert errors.absolute[quantity] <= 2
        else:
            assert errors.within(quantity), (quantity, errors.absolute[quantity], errors.relative[quantity])


@pytest.mark.parametrize("case", ["train_a", "train_b", "train_c", "train_empty"])
@pytest.mark.parametrize("name", NAMES)
def test_training_agrees_with_the_reference(name, case):
    errors = golden.train(name, case)
    for quantity in errors.absolute:
        assert errors.within(quantity), (quantity, errors.absolute[quantity], errors.relative[quantity])
