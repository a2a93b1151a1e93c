"""Spaces: token lists go in and out unchanged, and what does not fit is named."""

import json

import numpy as np
import pytest

from adet_ext.errors import UserError
from adet_ext.nas.space import Decision, Space


def pool_space(blocks: int = 3) -> Space:
    """Blocks that read from a pool that grows by one feature with each of them."""
    decisions, pool = [], ["C3", "C4"]
    for block in range(blocks):
        decisions.append(Decision(f"block{block}.location", "location", tuple(pool)))
        decisions.append(Decision(f"block{block}.op", "operation", ("conv", "pool", "skip")))
        pool.append(f"n{block}")
    return Space("pool", decisions)


SPACE = pool_space()
TOKENS = (1, 0, 2, 2, 3, 1)


def test_decode_inverts_encode():
    choices = ("C4", "conv", "n0", "skip", "n1", "pool")
    assert SPACE.encode(choices) == TOKENS
    assert SPACE.decode(TOKENS) == choices


def test_the_pool_grows_the_number_of_choices():
    assert [len(d.choices) for d in SPACE.decisions if d.kind == "location"] == [2, 3, 4]


def test_size_is_the_product_of_the_numbers_of_choices():
    assert SPACE.size() == (2 * 3) * (3 * 3) * (4 * 3)


def test_text_names_every_decision():
    assert SPACE.text(TOKENS).split()[:2] == ["block0.location=C4", "block0.op=conv"]


def test_numpy_and_lists_become_a_tuple_of_int():
    checked = SPACE.check(np.array(TOKENS))
    assert checked == TOKENS and all(type(token) is int for token in checked)
    assert SPACE.check(list(TOKENS)) == TOKENS


@pytest.mark.parametrize("token", [2, -1, 0.0, "0", None, True])
def test_a_token_that_does_not_fit_is_named_with_its_decision(token):
    with pytest.raises(UserError, match=r"block0\.location of an architecture of pool must be a whole number from 0"):
        SPACE.check((token, *TOKENS[1:]))


@pytest.mark.parametrize("tokens", [(), TOKENS[:-1], (*TOKENS, 0), "010101", 7, None])
def test_a_wrong_number_of_tokens_is_refused(tokens):
    with pytest.raises(UserError, match="must (have|be a list of) 6"):
        SPACE.check(tokens)


@pytest.mark.parametrize(
    "choices, words",
    [
        (("C5", "conv", "n0", "skip", "n1", "pool"), "block0.location.*one of C3, C4; got 'C5'"),
        (("C4",), "6 choices"),
        ("C4", "6 choices"),
    ],
)
def test_choices_that_do_not_fit_are_refused(choices, words):
    with pytest.raises(UserError, match=words):
        SPACE.encode(choices)


def test_a_space_survives_json():
    again = Space.from_json(json.loads(json.dumps(SPACE.to_json())))
    assert again.to_json() == SPACE.to_json()
    assert again.decode(TOKENS) == SPACE.decode(TOKENS)


@pytest.mark.parametrize("value", [{}, [], {"name": "x", "decisions": []}, {"name": "x", "decisions": [{"name": "a"}]}])
def test_json_that_is_no_space_is_refused(value):
    with pytest.raises(UserError, match="A space must be JSON"):
        Space.from_json(value)


def test_an_architecture_survives_json():
    text = SPACE.dumps(TOKENS)
    assert json.loads(text)["choices"]["block2.location"] == "n1"
    assert SPACE.loads(text) == TOKENS


def test_tokens_or_choices_alone_are_an_architecture():
    value = json.loads(SPACE.dumps(TOKENS))
    for missing in ("tokens", "choices", "space"):
        assert SPACE.loads(json.dumps({k: v for k, v in value.items() if k != missing})) == TOKENS


@pytest.mark.parametrize(
    "text, words",
    [
        ("{", "a.json must be JSON"),
        ("[1]", "must have tokens or choices"),
        ('{"space": "other", "tokens": [0, 0, 0, 0, 0, 0]}', "must be of space pool; got one of other"),
        ('{"space": "pool", "tokens": [9, 0, 0, 0, 0, 0]}', r"a.json: Token block0\.location"),
        ('{"choices": {"block0.op": "conv"}}', "a choice for each of block0.location"),
    ],
)
def test_a_file_that_is_no_architecture_of_the_space_is_refused(text, words):
    with pytest.raises(UserError, match=words):
        SPACE.loads(text, "a.json")


def test_tokens_and_choices_that_disagree_are_refused():
    value = json.loads(SPACE.dumps(TOKENS))
    value["tokens"][1] = 2
    with pytest.raises(UserError, match="agree"):
        SPACE.loads(json.dumps(value))


@pytest.mark.parametrize(
    "decisions",
    [
        [],
        [Decision("a", "op", ("x",)), Decision("a", "op", ("y",))],
        [Decision("a", "op", ())],
        [Decision("a", "op", ("x", "x"))],
    ],
)
def test_a_malformed_space_cannot_be_made(decisions):
    with pytest.raises(ValueError):
        Space("bad", decisions)
