"""The discrete network and its head: Table 2's arithmetic, sizes, drop path, the dense prediction cell."""

import pytest
import torch
from auto_deeplab.cell import DropPath
from auto_deeplab.dpc import OPERATIONS, DenseCell, DenseSpace, load_dense_genotype
from auto_deeplab.genotype import Genotype, load_genotype, save_genotype
from auto_deeplab.operations import OPERATIONS as CELL_OPERATIONS
from auto_deeplab.operations import build_operation
from auto_deeplab.pyramids import AtrousPyramid
from auto_deeplab.sample import main as sample
from auto_deeplab.table import ROWS, measure
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from adet_ext.errors import UserError


@pytest.mark.parametrize(
    ("row", "parameters", "operations"),
    list(zip(ROWS, (10_147_427, 21_622_451, 44_424_691), (317_541_632_000, 434_985_058_304, 653_584_883_712))),
    ids=[row.name for row in ROWS],
)
def test_table_2_is_reproduced(row, parameters, operations):
    assert measure(row.config) == (parameters, operations)
    assert parameters / 1e6 == pytest.approx(row.parameters, rel=5e-4)
    assert operations / 1e9 == pytest.approx(row.operations, rel=0.07)  # the paper's graph counts 4 to 6 % more


@pytest.mark.parametrize("name", CELL_OPERATIONS)
@pytest.mark.parametrize("stride", [1, 2])
def test_an_operation_keeps_or_halves_the_size(name, stride):
    operation = build_operation(name, 4, stride, nn.BatchNorm2d)
    x = torch.randn(2, 4, 9, 12)
    assert operation(x).shape == (2, 4, -(-9 // stride), -(-12 // stride))
    assert (operation(x) == 0).all() == (name == "none")


def test_a_model_gives_logits_of_the_size_asked_for_and_trains(small_model):
    model = small_model()
    batch = [
        {"image": torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8), "sem_seg": torch.zeros(50, 70).long()},
        {"image": torch.randint(0, 256, (3, 64, 40), dtype=torch.uint8), "sem_seg": torch.full((64, 40), 255)},
    ]
    losses = model.train()(batch)
    assert list(losses) == ["loss_sem_seg"]
    losses["loss_sem_seg"].backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    batch[0].update(height=25, width=35)
    results = model.eval()(batch)
    assert [tuple(r["sem_seg"].shape) for r in results] == [(3, 25, 35), (3, 64, 40)]


def test_unlabeled_images_have_the_loss_zero(small_model):
    batch = [{"image": torch.zeros(3, 32, 32, dtype=torch.uint8), "sem_seg": torch.full((32, 32), 255)}] * 2
    assert small_model().train()(batch)["loss_sem_seg"] == 0


def test_drop_path_rises_with_depth_and_progress_and_keeps_the_mean(small_model):
    model = small_model("Base-AutoDeepLab", "MODEL.AUTO_DEEPLAB.DROP_PATH", "0.4", "SOLVER.MAX_ITER", "4")
    backbone = model.backbone.train()
    for _ in range(2):
        backbone(torch.randn(1, 3, 64, 64))
    rates = [{m.rate for m in cell.modules() if isinstance(m, DropPath)} for cell in backbone.cells]
    assert [rate.pop() for rate in rates] == pytest.approx([0.4 * 0.5 * i / 12 for i in range(1, 13)])
    assert "backbone.iteration" in model.state_dict()  # a resumed training goes on with the schedule
    drop = DropPath().train()
    drop.rate = 0.25
    torch.manual_seed(0)
    dropped = drop(torch.ones(4000, 1, 1, 1))
    assert dropped.unique().tolist() == pytest.approx([0, 1 / 0.75]) and dropped.mean() == pytest.approx(1, abs=0.05)
    assert (drop.eval()(dropped) == dropped).all()


def test_the_dense_cell_costs_what_the_paper_says():
    torch.manual_seed(0)
    with torch.device("meta"):
        cell = DenseCell(load_dense_genotype("dpc"), 2048, 256, rate_factor=2).eval()
        pyramid = AtrousPyramid(2048, 256, (12, 24, 36), nn.BatchNorm2d).eval()
        x = torch.empty(1, 2048, 65, 129)
    counts = []
    for module in (cell, pyramid):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            assert module(x).shape == (1, 256, 65, 129)
        counts.append(counter.get_total_flops() / 2e9)
    assert sum(p.numel() for p in cell.parameters()) == 1_150_976
    assert counts[0] == pytest.approx(9.57, abs=0.01) and counts[1] > 10 * counts[0]


def test_the_space_of_dense_cells_has_its_size_and_one_form_of_every_cell():
    space = DenseSpace()
    assert len(OPERATIONS) == 81 and space.size() == 418_414_128_120
    best = load_dense_genotype("dpc")
    tokens = space.tokens_of(best)
    assert space.genotype(tokens) == best
    # Branches 3 and 4 both read branch 0: in the other order they are the same cell.
    swapped = (*tokens[:6], *tokens[8:10], *tokens[6:8])
    assert swapped != tokens and space.canonical(swapped) == space.canonical(tokens)
    assert space.canonical(tokens[:8] + (1, 0)) != space.canonical(tokens)
    assert [label for _, label in space.graph(tokens)["nodes"]][1] == "atrous_1x6"


def test_every_operation_of_the_dense_cell_keeps_the_size():
    space = DenseSpace(3)
    for first in ("conv_1x1", "atrous_21x3", "pool_1x1", "pool_8x2"):
        tokens = space.encode(["map", first, "branch0", "pool_4x8", "map", "atrous_1x21"])
        cell = DenseCell(space.genotype(tokens), 5, 4, dropout=0.0).eval()
        assert cell(torch.randn(2, 5, 7, 9)).shape == (2, 4, 7, 9)


def test_any_backbone_takes_the_head_with_a_dense_cell(small_model):
    keys = ["MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.RESNETS.OUT_FEATURES", "['res2', 'res5']"]
    keys += ["MODEL.SEM_SEG_HEAD.IN_FEATURES", "['res2', 'res5']", "MODEL.ATROUS_HEAD.PYRAMID", "dpc"]
    keys += ["MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "MODEL.CONTEXT.NAME", "GloRe"]
    model = small_model("Base-AutoDeepLab", *keys, "MODEL.RESNETS.NORM", "BN", "MODEL.CONTEXT.NODES", "4").eval()
    assert model([{"image": torch.zeros(3, 64, 96)}])[0]["sem_seg"].shape == (3, 64, 96)
    assert isinstance(model.sem_seg_head.pyramid, DenseCell)


def test_a_decoder_on_the_stem_fits_every_path(small_model, tmp_path):
    blocks = load_genotype("auto_deeplab").blocks[:2]
    for path in ((0, 0), (1, 2)):
        save_genotype(Genotype(blocks, path), tmp_path / "mine.json")
        keys = ["MODEL.AUTO_DEEPLAB.GENOTYPE", str(tmp_path / "mine.json")]
        keys += ["MODEL.AUTO_DEEPLAB.OUT_FEATURES", "['stem', 'cell2']", "MODEL.SEM_SEG_HEAD.IN_FEATURES"]
        model = small_model("Base-AutoDeepLab", *keys, "['stem', 'cell2']").eval()
        assert model([{"image": torch.zeros(3, 64, 96)}])[0]["sem_seg"].shape == (3, 64, 96)


def test_a_random_architecture_has_as_many_parameters(small_arguments, tmp_path, capsys):
    file, small = small_arguments("shapes")
    blocks, drawn = load_genotype("auto_deeplab").blocks[:2], str(tmp_path / "random.json")
    save_genotype(Genotype(blocks, (0, 0, 1, 1, 2)), tmp_path / "mine.json")
    words = [str(tmp_path / "mine.json"), drawn, "--config-file", file, "--tolerance"]
    assert sample([*words, "0.1", "--seed", "1", "--opts", *small]) == 0
    counts = [int(line.split()[-2].replace(",", "")) for line in capsys.readouterr().out.splitlines()]
    assert counts[0] != counts[1] == pytest.approx(counts[0], rel=0.1)
    found = load_genotype(drawn)
    assert len(found.blocks) == 2 and len(found.path) == 5
    assert sample([*words, "0.1", "--seed", "1", "--opts", *small]) == 0 and load_genotype(drawn) == found
    with pytest.raises(UserError, match="--tolerance must let one of 2 random architectures pass; got 0, "):
        sample([*words, "0", "--draws", "2", "--opts", *small])


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["MODEL.AUTO_DEEPLAB.OUT_FEATURES", "['cell13']"], "must name cells, cell1 to cell12, or stem; got .'cell13'"),
        (["MODEL.AUTO_DEEPLAB.DROP_PATH", "1.0"], "DROP_PATH must be 0 or more and below 1; got 1.0"),
        (["MODEL.SEM_SEG_HEAD.IN_FEATURES", "['cell1', 'cell12']"], "must name features that the backbone returns"),
        (["MODEL.SEM_SEG_HEAD.COMMON_STRIDE", "8"], "COMMON_STRIDE must be 4, the stride of cell3"),
        (["MODEL.AUTO_DEEPLAB.GENOTYPE", "absent"], "a genotype must be a JSON file or one of auto_deeplab, dpc"),
        (["MODEL.AUTO_DEEPLAB.GENOTYPE", "dpc"], "kind must be auto_deeplab; got 'dpc'"),
        (["MODEL.ATROUS_HEAD.PYRAMID", "auto_deeplab"], "kind must be dpc; got 'auto_deeplab'"),
    ],
)
def test_what_does_not_fit_is_named(small_model, keys, words):
    with pytest.raises((UserError, ValueError), match=words):
        small_model("Base-AutoDeepLab", *keys)
