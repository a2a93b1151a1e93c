"""The relaxed network, what is decoded from it, and the search with its two halves."""

import itertools
import json
import math

import pytest
import torch
from auto_deeplab.draw import draw_cell, draw_path
from auto_deeplab.genotype import LEVELS, Block, Genotype, load_genotype, save_genotype
from auto_deeplab.operations import NONE, OPERATIONS, half, resize
from auto_deeplab.search import SearchTrainer, half_sets, main
from auto_deeplab.space import STEPS, cell_count, decode, edges, path_count, viterbi
from auto_deeplab.supernet import AutoDeepLabSearch

from adet_ext.d2.data import DatasetCatalog
from adet_ext.errors import UserError

SEARCH = ("MODEL.META_ARCHITECTURE", "AutoDeepLabSearch")


def test_the_space_has_the_papers_sizes():
    assert cell_count() == 556_627_761_561_600 and path_count(11) == 28_657 and path_count(12) == 75_025
    assert len(edges(5)) == 20


def random_beta(layers, seed):
    torch.manual_seed(seed)
    beta = torch.rand(layers, LEVELS, len(STEPS), dtype=torch.float64)
    for level, (k, step) in itertools.product(range(LEVELS), enumerate(STEPS)):
        if not 0 <= level + step < LEVELS:
            beta[:, level, k] = 0
    return beta / beta.sum(dim=2, keepdim=True)


@pytest.mark.parametrize("layers", [1, 2, 6])
@pytest.mark.parametrize("seed", range(5))
def test_viterbi_finds_the_path_of_brute_force(layers, seed):
    beta = random_beta(layers, seed)
    scores = {}
    for path in itertools.product(range(LEVELS), repeat=layers):
        steps = [target - source for source, target in zip((0, *path), path)]
        if all(step in STEPS for step in steps):
            terms = [beta[i, s, STEPS.index(t)].item() for i, (s, t) in enumerate(zip((0, *path), steps))]
            scores[path] = math.prod(terms)
    assert len(scores) == path_count(layers)
    assert viterbi(beta) == max(scores, key=scores.get)


def relax(genotype):
    """Return one-hot alpha and beta that stand for a genotype."""
    table = edges(len(genotype.blocks))
    alpha = torch.zeros(len(table), len(OPERATIONS))
    alpha[:, OPERATIONS.index(NONE)] = 1
    for i, block in enumerate(genotype.blocks):
        for state, name in zip(block.inputs, block.operations):
            row = table.index((i, state))
            alpha[row] = 0
            alpha[row, OPERATIONS.index(name)] = 1
    beta = torch.zeros(len(genotype.path), LEVELS, len(STEPS))
    for layer, (source, target) in enumerate(zip((0, *genotype.path), genotype.path)):
        beta[layer, source, STEPS.index(target - source)] = 1
    return alpha, beta


def only_the_path(model, images, genotype):
    """Compute the logits of a genotype with the relaxed network's own modules, and nothing but its path."""
    found = [None, {0: model.stem(images)[0]}]
    sizes = [tuple(found[-1][0].shape[-2:])]
    for _ in range(LEVELS - 1):
        sizes.append(half(sizes[-1]))
    table, source = edges(len(genotype.blocks)), 0
    for layer, level in zip(model.cells, genotype.path):
        cell, step = layer[str(level)], level - source
        previous = found[-1][source]
        previous = cell.project[str(step)](resize(previous, sizes[level]) if step < 0 else previous)
        # Away from the path the relaxed network's outputs are zeros, which a projection's norm moves.
        before = None
        if cell.before is not None:
            zeros = torch.zeros(len(images), cell.before[1].in_channels, *sizes[level])
            before = cell.before((found[-2] or {}).get(level, zeros))
        states = [previous, before]
        for i, block in enumerate(genotype.blocks):
            parts = []
            for state, name in zip(block.inputs, block.operations):
                operations = cell.operations[table.index((i, state))]
                if states[state] is not None:
                    parts.append(operations[OPERATIONS.index(name)](states[state]))
            states.append(sum(parts))
        found.append({level: torch.cat(states[2:], dim=1)})
        source = level
    total = 0
    for name, pyramid in model.pyramids.items():
        channels = pyramid["branches"][0][0].in_channels
        x = found[-1].get(int(name), torch.zeros(len(images), channels, *sizes[int(name)]))
        joined = torch.cat([branch(x.relu()) for branch in pyramid["branches"]], dim=1)
        total = total + resize(pyramid["classify"](joined), sizes[0])
    return total


def test_one_hot_weights_make_the_relaxed_network_a_discrete_one(small_model):
    model = small_model("Base-AutoDeepLab", *SEARCH, "MODEL.AUTO_DEEPLAB.SEARCH.LAYERS", "4")
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    blocks = (Block((0, 1), ("sep_3x3", "max_pool_3x3")), Block((0, 2), ("atrous_5x5", "skip")))
    images = torch.randn(2, 3, 64, 96)
    for path in ((0, 1, 1, 0), (1, 2, 3, 2), (0, 0, 0, 1)):
        genotype = Genotype(blocks, path)
        with torch.no_grad():
            relaxed = model.eval().logits(images, *relax(genotype))
            torch.testing.assert_close(relaxed, only_the_path(model, images, genotype), atol=1e-5, rtol=1e-5)
        assert decode(*relax(genotype)) == genotype


def test_decoding_keeps_two_states_and_never_nothing():
    torch.manual_seed(0)
    alpha = torch.rand(len(edges(5)), len(OPERATIONS)) * 0.1
    alpha[:, OPERATIONS.index(NONE)] = 0.9
    alpha[edges(5).index((4, 3)), 2] = 0.5
    alpha[edges(5).index((4, 5)), 0] = 0.4
    found = decode(alpha, random_beta(3, 0))
    assert all(len(set(block.inputs)) == 2 and NONE not in block.operations for block in found.blocks)
    assert found.blocks[4] == Block((3, 5), (OPERATIONS[2], OPERATIONS[0]))


def test_probabilities_stay_within_the_levels_and_memory_can_be_saved(small_model):
    model = small_model("Base-AutoDeepLab", *SEARCH)
    alpha, beta = model.probabilities()
    torch.testing.assert_close(alpha.sum(dim=1), torch.ones(len(alpha)))
    torch.testing.assert_close(beta.sum(dim=2), torch.ones(3, LEVELS))
    assert (beta[:, 0, 0] == 0).all() and (beta[:, LEVELS - 1, 2] == 0).all()
    batch = [{"image": torch.rand(3, 32, 64) * 255, "sem_seg": torch.ones(32, 64).long()}] * 2
    gradients = []
    for save in (False, True):
        model.save_memory = save
        loss = model.train()(batch)["loss_sem_seg"]
        gradients.append(torch.autograd.grad(loss, [model.alpha, model.beta]))
    for mine, other in zip(*gradients):
        torch.testing.assert_close(mine, other)
        assert torch.isfinite(mine).all() and mine.abs().sum() > 0
    batch[0].update(height=16, width=20)
    assert model.eval()(batch)[0]["sem_seg"].shape == (3, 16, 20)


def test_halves_share_no_image(semantic_set):
    names = half_sets([semantic_set], seed=3)
    parts = [[record["image_id"] for record in DatasetCatalog.get(name)] for name in names]
    assert sorted(parts[0] + parts[1]) == list(range(6)) and len(parts[0]) == 3
    assert half_sets([semantic_set], seed=3) == names


def search_arguments(folder, semantic_set, *more):
    return [
        *("DATASETS.TRAIN", f"('{semantic_set}',)", "DATASETS.TEST", "()", "OUTPUT_DIR", str(folder)),
        *("SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "2"),
        *("MODEL.AUTO_DEEPLAB.SEARCH.LR", "0.1", "INPUT.MIN_SIZE_TRAIN", "(64,)", "DATALOADER.NUM_WORKERS", "0"),
        *("SEED", "1", "MODEL.WEIGHTS", "", "DATALOADER.FILTER_EMPTY_ANNOTATIONS", "False", *more),
    ]


def test_a_search_leaves_an_architecture_and_a_killed_one_goes_on_the_same(tmp_path, semantic_set, small_config):
    def run(folder, stop=None):
        cfg = small_config("Base-AutoDeepLab", *SEARCH, *search_arguments(folder, semantic_set))
        torch.manual_seed(0)
        trainer = SearchTrainer(cfg)
        trainer.resume_or_load(resume=True)
        if stop:
            trainer.max_iter = stop
        trainer.train()
        return trainer

    whole = run(tmp_path / "whole")
    alpha = whole.model.alpha.detach().clone()
    learned = {id(p) for g in whole.optimizer.param_groups for p in g["params"]}
    assert not learned & {id(p) for p in whole.model.architecture()}
    run(tmp_path / "parts", stop=3)
    again = run(tmp_path / "parts")
    assert again.start_iter == 3
    torch.testing.assert_close(again.model.alpha.detach(), alpha)
    assert load_genotype(str(tmp_path / "whole" / "genotype.json")) == load_genotype(
        str(tmp_path / "parts" / "genotype.json")
    )
    page = (tmp_path / "whole" / "search.html").read_text()
    assert page.count("<svg") >= 2
    rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.json").read_text().splitlines()]
    assert rows[-1]["entropy/alpha"] < math.log(8) + 1e-6


def test_wrong_searches_are_refused(tmp_path, semantic_set, small_config):
    cfg = small_config("Base-AutoDeepLab", *SEARCH, *search_arguments(tmp_path, semantic_set))
    cfg.MODEL.AUTO_DEEPLAB.SEARCH.START = 1.0
    with pytest.raises(UserError, match="SEARCH.START must be 0 or more and below 1; got 1.0"):
        SearchTrainer(cfg)
    with pytest.raises(UserError, match="--config-file is missing"):
        main([])


def test_genotypes_are_written_read_and_drawn(tmp_path):
    best = load_genotype("auto_deeplab")
    save_genotype(best, tmp_path / "mine.json")
    assert load_genotype(str(tmp_path / "mine.json")) == best
    assert best.path == (0, 0, 0, 1, 2, 1, 2, 2, 3, 3, 2, 1)
    assert "atrous_5x5" in draw_cell(best) and draw_path(best.path, random_beta(12, 0)).startswith("<svg")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"path": [0, 2]}, "layer 2 of the path must have a level of 0 to 3, at most one from .*before it, 0; got 2"),
        ({"path": [True]}, "layer 1 of the path"),
        ({"path": []}, "must have a list of path"),
        ({"blocks": [{"inputs": ["block1", "before"], "operations": ["skip", "skip"]}]}, "an input must be one of"),
        ({"blocks": [{"inputs": ["previous", "before"], "operations": ["skip", "no"]}]}, "an operation must be one of"),
        ({"blocks": [{"inputs": ["previous"], "operations": ["skip", "skip"]}]}, "inputs must be two names"),
    ],
)
def test_broken_genotypes_are_named(tmp_path, change, words):
    value = {**load_genotype("auto_deeplab").to_json(), **change}
    (tmp_path / "mine.json").write_text(json.dumps(value))
    with pytest.raises(UserError, match=f"mine.json: .*{words}"):
        load_genotype(str(tmp_path / "mine.json"))


def test_the_search_network_asks_for_positive_sizes(small_model):
    with pytest.raises(ValueError, match="SEARCH.LAYERS must be 1 or more; got 0"):
        small_model("Base-AutoDeepLab", *SEARCH, "MODEL.AUTO_DEEPLAB.SEARCH.LAYERS", "0")
    assert isinstance(small_model("Base-AutoDeepLab", *SEARCH), AutoDeepLabSearch)
