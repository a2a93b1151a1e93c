"""Genotypes of decoders and cells: those that come with the project, JSON in and out, and what is refused."""

import json

import pytest
from video_cells.__main__ import main as run_project
from video_cells.decoder_genotype import DecoderGenotype
from video_cells.draw import draw_context
from video_cells.genotype import CellGenotype, architecture_names, load_genotype, node_name, save_genotype

from adet_ext.errors import UserError

ROWS = [[0, 2, 5, 4, 0], [5, 5, 0, 1, 3], [1, 5, 2, 3, 4]]


def test_the_decoders_of_the_paper_come_with_the_project():
    assert {"arch0", "arch1", "arch2", "camvid_cell"} <= set(architecture_names())
    arch2 = load_genotype("arch2", DecoderGenotype)
    assert arch2 == DecoderGenotype.from_numbers(
        [5, [0, 0, 4, 1], [3, 2, 0, 1], [5, 6, 5, 0]], [[1, 3], [4, 3], [2, 2]]
    )
    assert arch2.first == "conv_3x3_dil3" and arch2.outputs == (1, 4, 7, 10) and arch2.collected == (5, 6)


def test_what_no_layer_takes_becomes_the_output():
    cell = CellGenotype.from_numbers(ROWS)
    assert cell.unsampled == (6, 7) and cell.sampled_inputs == (0, 1, 2)
    assert cell.to_numbers() == ROWS
    assert [node_name(n) for n in (0, 1, 4, 5)] == ["previous_layer4", "previous_dec", "layer4", "x1"]


@pytest.mark.parametrize(
    "genotype",
    [CellGenotype.from_numbers(ROWS), DecoderGenotype.from_numbers([8, [0, 1, 9, 10]], [[3, 0], [4, 4]])],
    ids=["cell", "decoder"],
)
def test_a_genotype_survives_its_file(genotype, tmp_path):
    save_genotype(genotype, tmp_path / "mine.json")
    assert load_genotype(str(tmp_path / "mine.json"), type(genotype)) == genotype


GOOD = {"inputs": ["layer2", "layer3"], "operations": ["skip", "skip"], "aggregation": "concat"}
SUM = {"inputs": [0, 1], "operations": ["skip", "none"]}


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        (CellGenotype, {"kind": "decoder"}, "kind must be cell; got 'decoder'"),
        (CellGenotype, {"kind": "cell", "layers": []}, "must have a list of layers"),
        (CellGenotype, {"kind": "cell", "layers": [{**GOOD, "inputs": ["layer2", "x1"]}]}, "layer 1: an input must be"),
        (CellGenotype, {"kind": "cell", "layers": [{**GOOD, "aggregation": "sum"}]}, "aggregation must be one of"),
        (CellGenotype, {"kind": "cell", "layers": [{"inputs": 1}]}, "must have inputs, operations and aggregation"),
        (DecoderGenotype, {"kind": "decoder", "sums": [SUM], "blocks": [[0, 1]]}, "first operation of a decoder's"),
        (
            DecoderGenotype,
            {"kind": "decoder", "first": "skip", "sums": [{**SUM, "inputs": [0, 2]}], "blocks": [[0, 1]]},
            "sum 1 of a decoder's cell: an input must be 0 to 1; got 2",
        ),
        (
            DecoderGenotype,
            {"kind": "decoder", "first": "skip", "sums": [SUM], "blocks": [[0, 4]]},
            "block 1 of a decoder: an input must be 0 to 3; got 4",
        ),
        (DecoderGenotype, {"kind": "decoder", "first": "skip", "sums": [SUM], "blocks": [3]}, "two numbers as inputs"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name(kind, value, words, tmp_path):
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(value))
    with pytest.raises(UserError, match="wrong.json") as error:
        load_genotype(str(path), kind)
    assert words in str(error.value)


@pytest.mark.parametrize("rows", [[], [[0, 5, 0, 0, 0]], [[0, 1, 6, 0, 0]], [[0, 1, 0, 0]]], ids=str)
def test_wrong_numbers_are_refused(rows):
    with pytest.raises(UserError):
        CellGenotype.from_numbers(rows)


def test_cells_and_decoders_are_drawn_on_a_page(tmp_path, capsys):
    save_genotype(CellGenotype.from_numbers(ROWS), tmp_path / "mine.json")
    assert run_project(["draw", str(tmp_path / "mine.json"), "arch2", "--output", str(tmp_path / "cells.html")]) == 0
    page = (tmp_path / "cells.html").read_text()
    assert page.count("<svg") == 3 and "mine.json" in page and "arch2" in page
    assert run_project(["draw", "nobody.json", "--output", str(tmp_path / "other.html")]) == 2
    assert "got 'nobody.json'" in capsys.readouterr().err and not (tmp_path / "other.html").exists()


def test_the_drawing_of_arch2_is_figure_6_2():
    graph = draw_context(load_genotype("arch2", DecoderGenotype))
    operations = [text for _, _, text in graph["edges"] if text]
    assert operations == [
        "conv_3x3_dil3", "global_pool", "conv_3x3", "conv_1x1", "conv_3x3", "conv_3x3_dil3", "conv_1x1",
    ]  # fmt: skip
    assert ["6", "9", "conv_1x1"] in graph["edges"] and ["10", "output", ""] in graph["edges"]
