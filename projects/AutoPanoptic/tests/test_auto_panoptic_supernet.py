"""Training of the supernet: fair paths, gradients as means, resuming, what is refused."""

import itertools
import json
from collections import Counter

import pytest
import torch
from auto_panoptic.architecture import BLOCKS
from auto_panoptic.space import build_space
from auto_panoptic.split import split_sets
from auto_panoptic.supernet import FairSteps, SupernetTrainer, passes_of

from adet_ext.cli import run
from adet_ext.d2.data import DatasetCatalog, MetadataCatalog
from adet_ext.d2.engine import SimpleTrainer
from adet_ext.d2.modeling import build_model
from adet_ext.d2.utils import EventStorage, PathManager
from adet_ext.data.mapper import AdetDatasetMapper
from adet_ext.errors import UserError

SUPERNET = "search/supernet_shapes"
DATA = ["DATASETS.TRAIN", "('few_shapes_panoptic',)", "MODEL.AUTO_PANOPTIC.SEARCH.VAL_IMAGES", "4"]


@pytest.fixture
def steps(small_config, few_shapes):
    """Return a super-step's trainer with 12 images a batch and a learning rate of 0."""
    torch.manual_seed(0)
    cfg = small_config(SUPERNET)
    model, mapper = build_model(cfg), AdetDatasetMapper(cfg, is_train=True)
    batch = [mapper(x) for x in DatasetCatalog.get(few_shapes)[:12]]
    inner = SimpleTrainer(model, [batch], torch.optim.SGD(model.parameters(), lr=0.0))
    return FairSteps(inner, build_space(cfg), seed=3)


def test_every_choice_is_drawn_equally_often_within_a_super_step(steps):
    for iteration in range(3):
        paths = steps.paths(iteration)
        assert len(paths) == 12
        for decision, tokens in zip(steps.space.decisions, zip(*paths)):
            assert set(Counter(tokens).values()) == {12 // len(decision.choices)}
            assert len(set(tokens)) == len(decision.choices)
    assert steps.paths(0) == steps.paths(0) != steps.paths(1)


def test_parameters_compute_in_3_2_4_or_12_of_12_passes(steps):
    counts = dict((id(p), n) for p, n in passes_of(steps.supernet, 12))
    expected = {"backbone": 3, "mask_head": 2, "semantic_subnet": 2}
    for part, layers in steps.supernet.searched().items():
        for parameter in itertools.chain.from_iterable(layer.parameters() for layer in layers):
            assert counts.pop(id(parameter)) == expected.get(part, 4)
    assert set(counts.values()) == {12}


def test_gradients_are_means_over_the_passes_that_a_part_computes_in(steps):
    model, batch = steps.supernet, next(iter(steps.data_loader))
    totals, passes = {}, Counter()
    steps.seed_sampling(0)
    for i, path in enumerate(steps.paths(0)):
        model.zero_grad()
        model.choose(steps.space.architecture(path))
        sum(model(batch[i : i + 1]).values()).backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                totals[name] = totals.get(name, 0) + parameter.grad.clone()
                passes[name] += 1
    assert set(totals) == {name for name, _ in model.named_parameters()}
    model.zero_grad()
    torch.manual_seed(5)  # a training that goes on has another state of the generator
    with EventStorage(0) as storage:
        steps.iter = 0
        steps.run_step()
        assert storage.latest()["total_loss"][0] > 0
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, totals[name] / passes[name], atol=1e-5, rtol=1e-4)


def test_the_two_parts_share_no_image_and_pq_is_of_the_second(small_config, few_shapes):
    cfg = small_config(SUPERNET, *DATA)
    training, validation = split_sets(cfg, evaluated=True)
    names = [[x["file_name"] for x in DatasetCatalog.get(name)] for name in (training, validation)]
    assert len(names[0]) == 12 and len(names[1]) == 4 and not set(names[0]) & set(names[1])
    assert split_sets(cfg) == (training, validation)  # and PQ can be computed on the second still
    with PathManager.open(MetadataCatalog.get(validation).panoptic_json) as file:
        text = file.read()
    assert all(x["file_name"].split("/")[-1] in text for x in DatasetCatalog.get(validation))
    assert text.count('"segments_info"') == 4


def test_the_command_trains_a_supernet(small_arguments, few_shapes, tmp_path):
    file, small = small_arguments(SUPERNET)
    words = [*small, *DATA, "SOLVER.IMS_PER_BATCH", "12", "SOLVER.MAX_ITER", "1", "OUTPUT_DIR", str(tmp_path)]
    assert run("train", ["--config-file", file, *words]) == 0
    assert json.loads((tmp_path / "metrics.json").read_text().splitlines()[-1])["loss_sem_seg"] > 0
    weights = torch.load(tmp_path / "model_final.pth", weights_only=True)["model"]
    assert {f"backbone.bottom_up.blocks.0.candidates.{name}.main.0.weight" for name in BLOCKS} <= weights.keys()


@pytest.mark.parametrize(
    "overrides, message",
    [
        (("SOLVER.IMS_PER_BATCH", "16"), "IMS_PER_BATCH must be a multiple of 12.*got 16"),
        (("SOLVER.AMP.ENABLED", "True"), "AMP.ENABLED must be False"),
        (("MODEL.AUTO_PANOPTIC.SEARCH.VAL_IMAGES", "16"), "VAL_IMAGES must be 1 to 15.*got 16"),
        (("DATASETS.TRAIN", "()"), r"must be one data set to search on; got \[\]"),
    ],
)
def test_what_does_not_fit_is_one_sentence(small_config, few_shapes, overrides, message):
    with pytest.raises(UserError, match=message) as error:
        SupernetTrainer(small_config(SUPERNET, *DATA, *overrides))
    assert "\n" not in str(error.value)
