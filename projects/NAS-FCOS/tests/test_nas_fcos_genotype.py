"""Genotypes: the ones that come with the project, JSON in and out, and one sentence where they mean nothing."""

import json

import pytest
from nas_fcos.genotype import (
    FPNGenotype,
    HeadGenotype,
    architecture_names,
    load_genotype,
    node_name,
    save_genotype,
)

from adet_ext.errors import UserError

FPN = [[3, 3, 4, 4, 1], [3, 3, 4, 4, 1], [4, 3, 4, 3, 1], [1, 3, 4, 3, 1], [5, 3, 4, 4, 1], [4, 7, 4, 4, 1]]
FPN += [[7, 2, 4, 4, 1]]
HEAD = [5, 1, 5, 0, 4, 4]


def test_the_architectures_of_the_paper_come_with_the_project():
    assert architecture_names() == ["nas_fcos_fpn", "nas_fcos_head", "shapes_fpn"]
    assert load_genotype("nas_fcos_fpn") == FPNGenotype.from_numbers(FPN)
    assert load_genotype("nas_fcos_head") == HeadGenotype.from_numbers(HEAD)


def test_the_paper_s_fpn_is_the_one_of_figure_7_3():
    genotype = load_genotype("nas_fcos_fpn")
    assert [node_name(n) for n in genotype.outputs] == ["x5", "x6", "x7"]  # P5, P4, P3
    assert [node_name(n) for n in genotype.dangling] == ["x3"]
    assert genotype.strides[4:] == (32, 32, 32, 8, 32, 8, 8)
    operations = [op for block in genotype.blocks for op in block.operations]
    assert operations.count("deformable_3x3") == 12 and operations.count("skip") == 2
    assert {block.aggregation for block in genotype.blocks} == {"concat"}
    assert all(0 not in block.inputs for block in genotype.blocks)  # C2 is not used


def test_the_paper_s_head_has_four_operations_and_shares_all():
    genotype = load_genotype("nas_fcos_head")
    assert genotype.operations == ("deformable_3x3", "conv_3x3", "deformable_3x3", "conv_1x1", "skip", "skip")
    assert genotype.share_from == 0


@pytest.mark.parametrize("genotype", [FPNGenotype.from_numbers(FPN), HeadGenotype.from_numbers([2, 6, 4], 2)])
def test_a_genotype_survives_its_file(genotype, tmp_path):
    path = tmp_path / "mine.json"
    save_genotype(genotype, path)
    assert load_genotype(str(path)) == genotype


def test_fewer_than_three_blocks_that_nobody_takes_are_rejected_with_a_sentence():
    chain = FPNGenotype.from_numbers([[3, 3, 0, 0, 0], *([n, n, 0, 0, 0] for n in range(4, 10))])
    assert len(chain.unsampled) == 1
    assert chain.why_rejected() == ("an FPN must have 3 blocks or more that no later block takes, for P3 to P5; got 1")
    assert FPNGenotype.from_numbers(FPN).why_rejected() == ""


GOOD = {"inputs": ["c5", "c4"], "operations": ["skip", "skip"], "aggregation": "sum"}


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "must be JSON"),
        ("[" * 100000, "must be JSON"),
        ("3", "kind must be fpn or head; got None"),
        ({"kind": "cell"}, "kind must be fpn or head; got 'cell'"),
        ({"kind": ["fpn"]}, "kind must be fpn or head"),
        ({"kind": "fpn"}, "must have a list of blocks; got None"),
        ({"kind": "fpn", "blocks": []}, "must have a list of blocks"),
        ({"kind": "fpn", "blocks": [3]}, "FPN block 1 must have inputs, operations and aggregation; got 3"),
        (
            {"kind": "fpn", "blocks": [{**GOOD, "inputs": ["c5", "x1"]}]},
            "FPN block 1: an input must be one of c2, .*x1",
        ),
        ({"kind": "fpn", "blocks": [{**GOOD, "inputs": ["c5"]}]}, "FPN block 1: inputs must be two names"),
        ({"kind": "fpn", "blocks": [{**GOOD, "inputs": [3, 3]}]}, "FPN block 1: inputs must be two names"),
        ({"kind": "fpn", "blocks": [GOOD, {**GOOD, "operations": ["skip", "conv_3x3"]}]}, "FPN block 2: an operation"),
        ({"kind": "fpn", "blocks": [{**GOOD, "aggregation": "mean"}]}, "aggregation must be one of sum, concat"),
        ({"kind": "fpn", "blocks": [{**GOOD, "aggregation": None}]}, "aggregation must be one of sum, concat"),
        ({"kind": "head", "operations": ["conv_7x7"]}, "head layer 1: the operation must be one of .*; got 'conv_7x7'"),
        ({"kind": "head", "operations": ["skip"], "share_from": 2}, "share_from must be 0 to 1; got 2"),
        ({"kind": "head", "operations": ["skip"], "share_from": "0"}, "share_from must be 0 to 1; got '0'"),
        ({"kind": "head", "operations": []}, "must have a list of operations"),
    ],
)
def test_a_file_without_a_meaning_is_refused_by_one_sentence_with_its_name(tmp_path, content, message):
    path = tmp_path / "bad.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError, match=message) as error:
        load_genotype(str(path))
    assert "bad.json" in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 400


def test_a_name_that_there_is_not_is_answered_with_those_that_there_are():
    with pytest.raises(UserError, match="one of nas_fcos_fpn, nas_fcos_head, shapes_fpn; got 'mine'"):
        load_genotype("mine")


@pytest.mark.parametrize(
    "tuples, message",
    [
        ([[4, 3, 0, 0, 0]], "FPN block 1: an input must be c2 to c5; got x1"),
        ([[-1, 3, 0, 0, 0]], "FPN block 1: an input must be c2 to c5; got -1"),
        ([[3, 3, 0, 5, 0]], "FPN block 1: an operation must be 0 to 4; got 5"),
        ([[3, 3, 0, 0, 2]], "FPN block 1: the aggregation must be 0 to 1; got 2"),
        ([[3, 3, 0, 0]], "FPN block 1 must have 5 numbers; got 4"),
    ],
)
def test_numbers_out_of_range_name_the_block(tuples, message):
    with pytest.raises(UserError, match=message):
        FPNGenotype.from_numbers(tuples)
