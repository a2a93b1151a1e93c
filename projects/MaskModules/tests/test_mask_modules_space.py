"""Modules, the space of them, and the hand-made ones as points of it."""

import json

import pytest
import torch
from mask_modules.basis import SearchedBasis
from mask_modules.cost import ModuleCost
from mask_modules.genotype import SKIP, Level, MaskGenotype, load_genotype, save_genotype
from mask_modules.space import MaskSpace, build_space

from adet_ext.benchmark.cost import measure
from adet_ext.d2.layers import ShapeSpec
from adet_ext.errors import UserError
from adet_ext.modeling.mask.bases import ProtoNet
from adet_ext.modeling.mask.dr1basis import DR1Basis

NAMES, STRIDES = ["p3", "p4", "p5"], [8, 16, 32]


def common(norm="BN", channels=16):
    shapes = {name: ShapeSpec(channels=channels, stride=stride) for name, stride in zip(NAMES, STRIDES)}
    options = {"channels": 128, "num_classes": None, "loss_weight": 1.0, "common_stride": 8}
    return {"in_features": NAMES, "input_shape": shapes, "norm": norm, **options}


def features(channels=16, sizes=((12, 16), (6, 8), (3, 4))):
    return {name: torch.randn(2, channels, *size) for name, size in zip(NAMES, sizes)}


def copy_weights(source, target):
    """Give parameters and buffers in their order; both modules make them in that of the computation."""
    mine, theirs = (list(module.state_dict().items()) for module in (target, source))
    assert [tuple(value.shape) for _, value in mine] == [tuple(value.shape) for _, value in theirs]
    target.load_state_dict({name: value for (name, _), (_, value) in zip(mine, theirs)})


@pytest.mark.parametrize(("name", "convs", "width"), [("blendmask", 3, 128), ("people", 2, 64)])
def test_blendmasks_bottom_module_is_a_point_of_the_space(name, convs, width):
    torch.manual_seed(0)
    genotype = load_genotype(name)
    hand = ProtoNet(num_bases=4, num_convs=convs, **{**common(), "channels": width}).eval()
    found = SearchedBasis(genotype=genotype, num_bases=4, **common()).eval()
    copy_weights(hand, found)
    x = features()
    torch.testing.assert_close(found(x), hand(x), atol=1e-5, rtol=1e-5)


def test_dr1basis_is_a_point_of_the_space():
    torch.manual_seed(0)
    hand = DR1Basis(width=32, **common()).eval()
    found = SearchedBasis(genotype=load_genotype("dr1mask"), num_bases=0, contexts=False, **common()).eval()
    renamed = {}
    for name, value in hand.state_dict().items():
        part, level, rest = name.split(".", 2)  # reduce.0.0.weight, reduce.0.1.bias, merge.0.weight, finish.0.0.bias
        if part == "finish":
            name = f"merge.{level}.finish.{rest}"
        elif part == "merge":
            name = f"merge.{level}.conv.{rest}"
        else:
            name = f"reduce.{level}." + rest.replace("0.", "conv.", 1).replace("1.", "finish.0.", 1)
        renamed[name] = value
    found.load_state_dict(renamed)
    x = features(sizes=((11, 15), (6, 8), (3, 4)))  # odd sizes, which "aligned" is for
    contexts = {n: (torch.rand(2, 32, *v.shape[-2:]), torch.rand(2, 32, *v.shape[-2:])) for n, v in x.items()}
    torch.testing.assert_close(found(x, contexts), hand(x, contexts), atol=1e-5, rtol=1e-5)


WILD = MaskGenotype(
    width=32,
    upsampling="aligned",
    levels=(Level("sep_3x3", SKIP, "none"), Level("conv_1x1", "sep_5x5", "a"), Level("conv_3x3", "atrous_3x3", "b")),
    joins=(0, 0),
    tower=("atrous_3x3",),
    last="sep_3x3",
)


@pytest.mark.parametrize("genotype", [load_genotype("people"), load_genotype("dr1mask"), WILD])
def test_the_cost_is_that_of_the_module(genotype):
    module = SearchedBasis(genotype=genotype, num_bases=4, **common()).eval()
    x = features(sizes=((12, 12), (6, 6), (3, 3)))
    measured = measure(module, [{name: value[:1] for name, value in x.items()}])
    assert ModuleCost([16] * 3, 12, 4).of(genotype) == measured.multiply_adds[""]


def test_factors_start_around_one_and_learn():
    torch.manual_seed(0)
    module = SearchedBasis(genotype=WILD, num_bases=4, **common())
    x = features()
    factors = module.context["p4"](x["p4"])
    assert set(module.context) == {"p4", "p5"} and factors.mean().item() == pytest.approx(1, abs=0.1)
    module(x).sum().backward()
    assert [name for name, p in module.named_parameters() if p.grad is None] == []


def test_tokens_and_modules_belong_together():
    space = MaskSpace()
    assert space.size() == 6 * 2 * (3 * 6 * 4) ** 3 * 2 * 6**4
    for genotype in (load_genotype("dr1mask"), load_genotype("blendmask"), WILD):
        tokens = space.tokens_of(genotype)
        assert space.genotype(tokens) == genotype and space.canonical(tokens) == tokens
        assert {"p2", "x2", "out"} <= {name for name, _ in space.graph(tokens)["nodes"]}
    choices = list(space.decode(space.tokens_of(load_genotype("people"))))
    choices[4], choices[13:16] = "ab", [SKIP, "conv_3x3", "conv_3x3"]
    assert choices[3] == SKIP
    assert space.canonical(space.encode(choices)) == space.tokens_of(load_genotype("people"))


def test_modules_that_cost_more_than_the_hand_made_one_are_rejected(small_config):
    space = build_space(small_config())
    assert space.why_rejected(space.tokens_of(load_genotype("people"))) == ""
    assert "M multiply-adds of" in space.why_rejected(space.tokens_of(load_genotype("blendmask")))
    free = build_space(small_config("search/shapes", "MODEL.MASK_MODULES.SEARCH.MAX_COST", "0"))
    assert free.why_rejected(free.tokens_of(load_genotype("blendmask"))) == ""
    with pytest.raises(UserError, match="MAX_COST must be 0 or more; got -1"):
        build_space(small_config("search/shapes", "MODEL.MASK_MODULES.SEARCH.MAX_COST", "-1.0"))
    with pytest.raises(UserError, match="REFERENCE must have 2 levels, .*; got 3 in people"):
        build_space(small_config("search/shapes", "MODEL.BASIS_MODULE.IN_FEATURES", "['p3', 'p4']"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": 0}, "the width must be a whole number, 1 or more; got 0"),
        ({"upsampling": "nearest"}, "the upsampling must be one of resize, aligned; got 'nearest'"),
        ({"levels": []}, "a module must have a list of levels; got"),
        ({"levels": [{"input": "conv_3x3", "merge": "skip", "factors": "ab"}]}, "the factors must be none without"),
        ({"levels": [{"input": "conv_3x3", "merge": "skip"}]}, "level 0 must have input, merge and factors"),
        ({"joins": [0]}, "joins must have 2 entries"),
        ({"joins": [0, 2]}, "level 2: it must join a level of 0 to 1; got 2"),
        ({"joins": [0, True]}, "level 2: it must join"),
        ({"tower": "conv_3x3"}, "tower must be a list"),
        ({"tower": ["conv_3x3"] * 4}, "the tower must have 3 convolutions at most; got 4"),
        ({"last": "conv_9x9"}, "the last convolution must be one of skip, conv_1x1"),
        ({"extra": 1}, "a module must have kind, width"),
    ],
)
def test_broken_genotypes_are_named(tmp_path, change, words):
    value = {**load_genotype("people").to_json(), **change}
    (tmp_path / "mine.json").write_text(json.dumps(value))
    with pytest.raises(UserError, match=f"mine.json: .*{words}"):
        load_genotype(str(tmp_path / "mine.json"))


def test_genotypes_are_written_and_read(tmp_path):
    save_genotype(WILD, tmp_path / "mine.json")
    assert load_genotype(str(tmp_path / "mine.json")) == WILD


def test_a_module_asks_for_levels_that_double_the_stride():
    options = common()
    with pytest.raises(ValueError, match="IN_FEATURES must name 3 features .* strides .8, 16."):
        SearchedBasis(genotype=WILD, num_bases=4, **{**options, "in_features": NAMES[:2]})
