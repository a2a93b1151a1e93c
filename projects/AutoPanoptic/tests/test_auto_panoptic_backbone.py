"""The searched backbone and its space: the arithmetic of the paper, the blocks, the JSON files."""

import json

import pytest
import torch
from auto_panoptic.architecture import BLOCKS, load_architecture, save_architecture
from auto_panoptic.backbone import ShuffleBackbone
from auto_panoptic.blocks import ShuffleBlock
from auto_panoptic.space import AutoPanopticSpace, BackboneCost
from auto_panoptic.table import main
from torch import nn

from adet_ext.benchmark.cost import measure
from adet_ext.errors import UserError

SEARCH_WIDTH, FINAL_WIDTH = (48, 96, 240, 480, 960), (72, 172, 432, 864, 1728)
REPEATS = (8, 8, 16, 8)


@pytest.mark.parametrize(
    "name, channels, parameters, multiply_adds",
    [
        ("coco", SEARCH_WIDTH, 6.826e6, 1.153e9),
        ("coco", FINAL_WIDTH, 21.627e6, 3.572e9),
        ("ade20k", SEARCH_WIDTH, 7.845e6, 1.244e9),
        ("ade20k", FINAL_WIDTH, 24.952e6, 3.843e9),
    ],
)
def test_the_searched_backbones_cost_what_the_paper_says(name, channels, parameters, multiply_adds):
    found = BackboneCost(channels, REPEATS).of(load_architecture(name).backbone)
    assert found[0] == pytest.approx(multiply_adds, abs=5e5)
    assert found[1] == pytest.approx(parameters, abs=500)


def test_the_arithmetic_is_the_networks():
    choices = load_architecture("coco").backbone
    with torch.device("meta"):
        body = ShuffleBackbone(choices=[(c,) for c in choices], channels=SEARCH_WIDTH, repeats=REPEATS, norm="BN")
        cost = measure(body, [torch.empty(1, 3, 224, 224)])
    assert BackboneCost(SEARCH_WIDTH, REPEATS).of(choices) == (cost.multiply_adds[""], cost.parameters[""])


def test_the_space_counts_itself():
    space = AutoPanopticSpace(SEARCH_WIDTH, REPEATS)
    counts = space.counts()
    assert counts["backbone"] == 4**40 == 1_208_925_819_614_629_174_706_176
    assert counts["mask_head"] * counts["semantic_subnet"] == 6**7 == 279_936
    assert counts["foreground_to_background"] * counts["background_to_foreground"] == 3**9 == 19_683
    assert len(space) == 56 and space.size() == 4**40 * 6**7 * 3**9
    assert space.period == 12


def test_the_table_has_the_papers_figures(capsys):
    assert main([]) == 0
    said = capsys.readouterr().out
    assert "6,825,840" in said and "3.572 G" in said and "together: 6.661e+33" in said


@pytest.mark.parametrize("name", ["coco", "ade20k"])
def test_an_architecture_goes_through_tokens_and_json(name, tmp_path):
    found = load_architecture(name)
    space = AutoPanopticSpace(SEARCH_WIDTH, REPEATS)
    assert space.architecture(space.tokens_of(found)) == found
    save_architecture(found, tmp_path / "mine.json")
    assert load_architecture(str(tmp_path / "mine.json")) == found


def test_the_published_vectors_are_the_codes():
    space = AutoPanopticSpace(SEARCH_WIDTH, REPEATS)
    tokens = space.tokens_of(load_architecture("coco"))
    assert tokens[:10] == (3, 2, 0, 2, 1, 3, 2, 0, 1, 3)
    assert tokens[40:] == (4, 1, 2, 3, 2, 3, 0, 2, 0, 0, 0, 1, 1, 1, 2, 0)


def test_a_limit_rejects_costly_backbones():
    cheap, dear = 3e9, 1e8
    tokens = AutoPanopticSpace(SEARCH_WIDTH, REPEATS).tokens_of(load_architecture("coco"))
    assert AutoPanopticSpace(SEARCH_WIDTH, REPEATS, cheap).why_rejected(tokens) == ""
    assert "1153 M multiply-adds of 100 M" in AutoPanopticSpace(SEARCH_WIDTH, REPEATS, dear).why_rejected(tokens)


@pytest.mark.parametrize("kind", BLOCKS)
def test_a_block_of_stride_1_passes_every_second_channel(kind):
    torch.manual_seed(0)
    block, x = ShuffleBlock(8, 8, 1, kind, nn.BatchNorm2d).eval(), torch.randn(2, 8, 6, 5)
    out = block(x)
    assert out.shape == x.shape
    assert torch.equal(out[:, :4], x[:, ::2])
    assert torch.equal(out[:, 4:], block.main(x[:, 1::2]))
    assert ShuffleBlock(8, 20, 2, kind, nn.BatchNorm2d)(x).shape == (2, 20, 3, 3)


def test_features_have_their_strides_and_all_choices_fit():
    body = ShuffleBackbone(choices=[BLOCKS] * 5, channels=(4, 8, 12, 16, 24), repeats=(1, 1, 2, 1), norm="BN").eval()
    for layer in body.blocks:
        for name in BLOCKS:
            layer.choose(name)
            features = body(torch.zeros(1, 3, 64, 32))
            for key, shape in body.output_shape().items():
                assert features[key].shape == (1, shape.channels, 64 // shape.stride, 32 // shape.stride)
    with pytest.raises(ValueError, match="must be one of 3x3"):
        body.blocks[0].choose("9x9")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"mask_head": ["AT7"]}, "mask_head, layer 1 must be one of DW3.*got 'AT7'"),
        ({"mask_head": []}, "mask_head must have a layer or more; got none"),
        ({"backbone": "3x3"}, "backbone must be a list of choices; got '3x3'"),
        ({"backbone": [3]}, "backbone, layer 1 must be one of 3x3.*got 3"),
        ({"kind": "nas"}, "kind must be auto_panoptic"),
        ({"more": 1}, "an architecture must have"),
    ],
)
def test_a_wrong_file_is_one_sentence_with_its_name(change, message, tmp_path):
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps({**load_architecture("coco").to_json(), **change}))
    with pytest.raises(UserError, match=f"wrong.json.*{message}") as error:
        load_architecture(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "channels, repeats, message",
    [
        ((4, 8, 16), REPEATS, "CHANNELS must be five even numbers"),
        ((4, 8, 8, 16, 32), REPEATS, "CHANNELS must grow"),
        (SEARCH_WIDTH, (8, 8, 0, 8), "REPEATS must be four whole numbers"),
    ],
)
def test_stages_that_do_not_fit_are_refused(channels, repeats, message):
    with pytest.raises(ValueError, match=message):
        AutoPanopticSpace(channels, repeats)
