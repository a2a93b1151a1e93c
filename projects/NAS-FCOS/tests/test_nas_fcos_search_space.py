import itertools
import random

import pytest
from nas_fcos.genotype import FPNGenotype, load_genotype
from nas_fcos.search_space import FPNSpace, HeadSpace, JointSpace

FPN, HEAD, JOINT = FPNSpace(), HeadSpace(), JointSpace()


def random_tokens(space, source):
    while True:
        tokens = tuple(source.randrange(len(d.choices)) for d in space.decisions)
        if not space.why_rejected(tokens):
            return tokens


def built(fpn: FPNGenotype):
    """The network as nested tuples of names for every output, where a block that is built twice counts twice."""
    uses = {number: 0 for number in range(4 + len(fpn.blocks))}
    for block in fpn.blocks:
        for number in block.inputs:
            uses[number] += 1

    def node(number):
        if number < 4:
            return number
        block = fpn.blocks[number - 4]
        sides = sorted(((op, repr(node(i)), node(i)) for i, op in zip(block.inputs, block.operations)), key=str)
        return (block.aggregation, uses[number], tuple(sides))

    return [node(number) for number in fpn.outputs], sorted(map(repr, map(node, fpn.dangling)))


def swapped(tokens, source):
    """Swap the sides of some blocks."""
    rows = [list(tokens[i : i + 5]) for i in range(0, len(tokens), 5)]
    for row in rows:
        if source.random() < 0.5:
            row[:4] = row[1], row[0], row[3], row[2]
    return tuple(itertools.chain(*rows))


def reordered(tokens, source):
    """Swap two neighboring blocks where neither the inputs nor the order of the outputs forbid it."""
    fpn, _ = FPN.genotypes(tokens)
    rows = [list(tokens[i : i + 5]) for i in range(0, len(tokens), 5)]
    for t in source.sample(range(len(rows) - 1), len(rows) - 1):
        first, second = 4 + t, 5 + t
        ordered = second in fpn.outputs and first in fpn.unsampled
        if first not in rows[t + 1][:2] and not ordered:
            rows[t], rows[t + 1] = rows[t + 1], rows[t]
            for row in rows:
                row[:2] = [{first: second, second: first}.get(number, number) for number in row[:2]]
            break
    return tuple(itertools.chain(*rows))


def test_the_space_has_the_decisions_of_the_thesis():
    assert len(FPN) == 35 and len(HEAD) == 7 and len(JOINT) == 42
    assert [len(d.choices) for d in FPN.decisions if d.name.endswith("input1")] == [4, 5, 6, 7, 8, 9, 10]
    assert FPN.decisions[0].choices == ("c2", "c3", "c4", "c5")
    assert FPN.size() == 25**7 * 2**7 * (4 * 5 * 6 * 7 * 8 * 9 * 10) ** 2
    assert HEAD.size() == 7**7


def test_the_architectures_of_the_paper_have_tokens_and_come_back():
    fpn, head = load_genotype("nas_fcos_fpn"), load_genotype("nas_fcos_head")
    assert FPN.genotypes(FPN.tokens_of(fpn)) == (fpn, None)
    assert HEAD.genotypes(HEAD.tokens_of(head)) == (None, head)
    assert JOINT.genotypes(FPN.tokens_of(fpn) + HEAD.tokens_of(head)) == (fpn, head)
    assert not FPN.why_rejected(FPN.tokens_of(fpn))


def test_fewer_than_three_outputs_are_rejected():
    chain = [number for t in range(7) for number in (3 + t, 3 + t, 3, 3, 0)]
    assert "3 blocks or more" in FPN.why_rejected(chain)
    assert "3 blocks or more" in JOINT.why_rejected([*chain, 0, 0, 0, 0, 0, 0, 0])


@pytest.mark.parametrize("change", [swapped, reordered])
def test_what_builds_the_same_network_has_one_canonical_form(change):
    source = random.Random(0)
    changed = 0
    for _ in range(200):
        tokens = random_tokens(FPN, source)
        other = change(tokens, source)
        changed += other != tokens
        assert built(FPN.genotypes(tokens)[0]) == built(FPN.genotypes(other)[0])
        assert FPN.canonical(tokens) == FPN.canonical(other)
    assert changed > 50


def test_the_canonical_form_builds_the_same_network_and_is_its_own():
    source = random.Random(1)
    for _ in range(200):
        tokens = random_tokens(FPN, source)
        canonical = FPN.canonical(tokens)
        assert built(FPN.genotypes(tokens)[0]) == built(FPN.genotypes(canonical)[0])
        assert FPN.canonical(canonical) == canonical


def test_other_networks_have_another_canonical_form():
    source = random.Random(2)
    for _ in range(200):
        tokens = list(random_tokens(FPN, source))
        before = tuple(tokens)
        place = source.randrange(2, 35, 5)  # an operation
        tokens[place] = (tokens[place] + 1) % 5
        if built(FPN.genotypes(before)[0]) != built(FPN.genotypes(tokens)[0]):
            assert FPN.canonical(before) != FPN.canonical(tokens)


def test_a_skip_connection_of_a_head_builds_nothing_wherever_it_stands():
    skip = HEAD.decisions[0].choices.index("skip")
    assert HEAD.canonical([0, skip, 1, skip, 2, 3, 2]) == (0, 1, 2, 3, skip, skip, 1)
    assert HEAD.canonical([skip, skip, 0, 1, 2, 3, 3]) == (0, 1, 2, 3, skip, skip, 1)
    assert HEAD.canonical([0, 1, 2, 3, skip, skip, 6]) == (0, 1, 2, 3, skip, skip, 4)


def test_the_canonical_form_of_both_parts_is_that_of_each():
    source = random.Random(3)
    fpn, head = random_tokens(FPN, source), random_tokens(HEAD, source)
    assert JOINT.canonical(fpn + head) == FPN.canonical(fpn) + HEAD.canonical(head)


def test_the_paper_s_fpn_is_drawn_with_its_outputs_and_without_c2():
    graph = FPN.graph(FPN.tokens_of(load_genotype("nas_fcos_fpn")))
    names = [name for name, _ in graph["nodes"]]
    assert names == ["c3", "c4", "c5", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "P5", "P4", "P3"]
    assert ["x5", "P5", ""] in graph["edges"] and ["x7", "P3", ""] in graph["edges"]
    assert [edge for edge in graph["edges"] if edge[2] == "+"] == [["x3", level, "+"] for level in ("P5", "P4", "P3")]


def test_every_architecture_can_be_drawn():
    from adet_ext.report.graphs import draw_graph

    source = random.Random(4)
    for space in (FPN, HEAD, JOINT):
        graph = space.graph(random_tokens(space, source))
        assert draw_graph(graph["nodes"], graph["edges"]).startswith("<svg")
