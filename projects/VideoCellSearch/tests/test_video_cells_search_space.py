"""The space of cells: its size, tokens and genotypes, what builds the same network, drawings, and the samplers."""

import random

import pytest
import torch
from video_cells.cell import DynamicCell
from video_cells.genotype import CELL_INPUTS, CellGenotype
from video_cells.search_space import CellSpace, build_space, draw_cell

from adet_ext.errors import UserError
from adet_ext.nas.samplers import build_sampler
from adet_ext.report.graphs import draw_graph

CHANNELS = (320, 8, 32, 96, 320)
SIZES = (2, 8, 8, 4, 2)


def random_tokens(space, source):
    return tuple(source.randrange(len(d.choices)) for d in space.decisions)


@pytest.mark.parametrize(("layers", "count", "tokens"), [(5, 1.08e20, 25), (4, 6.1e15, 20)])
def test_the_spaces_of_both_data_sets_have_the_published_sizes(layers, count, tokens):
    space = CellSpace(layers)
    assert len(space) == tokens and space.size() == pytest.approx(count, rel=0.01)
    names = [d.name.split(".")[1] for d in space.decisions[:5]]
    assert names == ["input1", "input2", "operation1", "operation2", "aggregation"]
    assert [len(d.choices) for d in space.decisions[-5:]] == [4 + layers, 4 + layers, 6, 6, 6]
    assert space.decisions[0].choices == CELL_INPUTS


def test_tokens_and_genotypes_are_the_same_thing():
    space, source = CellSpace(5), random.Random(0)
    for _ in range(20):
        tokens = random_tokens(space, source)
        assert space.tokens_of(space.genotype(tokens)) == tokens


def build(space, tokens):
    return DynamicCell(genotype=space.genotype(tokens), in_channels=CHANNELS, width=8).eval()


def run(cell):
    generator = torch.Generator().manual_seed(1)
    inputs = [torch.randn(1, c, s, s, generator=generator) for c, s in zip(CHANNELS, SIZES)]
    with torch.no_grad():
        return cell(inputs)


def test_the_canonical_form_is_one_of_the_orders_and_keeps_the_network():
    space = CellSpace(4)
    # Layers 1 and 2 exchanged, and the sides of a sum.
    a = space.check((2, 3, 0, 1, 0, 0, 1, 4, 4, 5, 5, 6, 4, 4, 1, 7, 4, 4, 0, 2))
    b = space.check((0, 1, 4, 4, 5, 3, 2, 1, 0, 0, 6, 5, 4, 4, 1, 7, 4, 4, 0, 2))
    assert space.canonical(a) == space.canonical(b) != a
    assert space.canonical(space.canonical(a)) == space.canonical(a)
    first, second = build(space, a), build(space, b)
    # Layer 1 of one is layer 2 of the other, and the sides of the sum in it are exchanged.
    state = second.state_dict()
    for name, value in first.state_dict().items():
        new = name
        if name.startswith("layers."):
            _, number, rest = name.split(".", 2)
            if number == "0":
                pairs = {"first": "second", "second": "first", "merge.a": "merge.b", "merge.b": "merge.a"}
                head = next(key for key in (*pairs, "merge") if rest.startswith(key))
                rest = pairs.get(head, head) + rest[len(head) :]
            place = {"0": "1", "1": "0"}.get(number, number)
            new = f"layers.{place}.{rest}"
        state[new] = value
    second.load_state_dict(state)
    torch.testing.assert_close(run(first), run(second))
    # The sides of attention are not alike.
    c = space.check((1, 0, 4, 4, 5, *b[5:]))
    assert space.canonical(c) != space.canonical(b)


def test_cells_that_are_too_large_are_rejected_with_a_sentence(tiny_config):
    cfg = tiny_config("MODEL.SEM_SEG_HEAD.NUM_CLASSES", "11", "MODEL.VIDEO.WIDTH", "64")
    cfg.MODEL.VIDEO.SEARCH.MAX_PARAMETERS = 3_400_000
    space = build_space(cfg)
    large = space.tokens_of(CellGenotype.from_numbers([[n, n, 5, 5, 2] for n in (2, 5, 6, 7, 8)]))
    assert "at most 3400000 parameters; got 3" in space.why_rejected(large)
    assert (
        space.why_rejected(space.tokens_of(CellGenotype.from_numbers([[n, n, 0, 5, 2] for n in (2, 5, 6, 7, 8)]))) == ""
    )
    cfg.MODEL.VIDEO.SEARCH.MAX_PARAMETERS = 0
    assert build_space(cfg).why_rejected(large) == ""
    cfg.MODEL.VIDEO.SEARCH.MAX_PARAMETERS = 2_850_000
    with pytest.raises(UserError, match="leaves nothing for a cell"):
        build_space(cfg)


def test_a_drawing_has_what_is_sampled():
    cell = CellGenotype.from_numbers([[0, 2, 5, 4, 3], [5, 1, 0, 1, 2]])
    graph = draw_cell(cell)
    assert [node for node, _ in graph["nodes"]] == ["previous_layer4", "previous_dec", "layer2", "x1", "x2", "dec"]
    assert ["x1", "x2", "1: sep_conv_3x3"] in graph["edges"] and ["x2", "dec", ""] in graph["edges"]
    assert len(graph["edges"]) == 5 and ["x1", "dec", ""] not in graph["edges"]
    assert draw_graph(graph["nodes"], graph["edges"]).startswith("<svg")


@pytest.mark.parametrize("name", ["controller", "random", "evolution"])
def test_every_sampler_draws_cells(name):
    space = CellSpace(4)
    sampler = build_sampler(name, space, seed=0)
    tokens = sampler.ask(3)
    assert [space.check(t) for t in tokens] == tokens
    sampler.tell([(t, 0.5) for t in tokens])
