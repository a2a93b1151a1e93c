"""The proxy task and the search on it, on shapes of 64 pixels with a narrow body that nobody trained."""

import json

import pytest
import torch
from nas_fcos.correlate import main as correlate
from nas_fcos.genotype import load_genotype
from nas_fcos.proxy import Proxy
from nas_fcos.search import main
from nas_fcos.search_space import FPNSpace, HeadSpace

from adet_ext.d2.data import DatasetCatalog, MetadataCatalog
from adet_ext.data.proxy_images import ProxyImages, split
from adet_ext.errors import UserError
from adet_ext.nas.evaluation import Task

SMALL = [
    *("DATASETS.TRAIN", "('shapes_val',)", "MODEL.FCOS.NUM_CLASSES", "6", "MODEL.FCOS.NORM", "BN", "SEED", "3"),
    *("MODEL.FCOS.NUM_CLS_CONVS", "1", "MODEL.FCOS.NUM_BOX_CONVS", "1", "MODEL.PROPOSAL_GENERATOR.NAME", "FCOS"),
    *("MODEL.FCOS.SIZES_OF_INTEREST", "[8, 16, 32, 64]", "MODEL.NAS_FCOS.SEARCH.SIZE", "64"),
    *("MODEL.NAS_FCOS.SEARCH.IMAGES", "12", "MODEL.NAS_FCOS.SEARCH.BATCH", "4"),
    *("MODEL.NAS_FCOS.SEARCH.ITERATIONS", "4", "MODEL.NAS_FCOS.SEARCH.CACHE", "memory"),
]
PAPER = FPNSpace().tokens_of(load_genotype("nas_fcos_fpn"))


@pytest.fixture
def proxy(small_config):
    def make(*overrides):
        return Proxy(small_config("NAS_FCOS_128_R_50_1x", *SMALL, *overrides))

    return make


def test_an_evaluation_is_the_same_every_time_and_another_with_another_seed(proxy):
    evaluate = proxy().evaluate
    first, again, other = (evaluate(Task(0, PAPER, seed)) for seed in (1, 1, 2))
    assert first.reward == again.reward != other.reward
    assert first.reward == pytest.approx(-sum(first.metrics.values()))
    assert set(first.seconds) == {"features", "training", "validation"}


def test_all_architectures_see_the_same_batches(proxy, monkeypatch):
    one, seen = proxy(), []
    compute = one.features
    monkeypatch.setattr(one, "features", lambda numbers: (seen.append(tuple(numbers)), compute(numbers))[1])
    other = (*PAPER[:-1], 1 - PAPER[-1])  # its last block sums
    for seed, tokens in enumerate((PAPER, other)):
        one.evaluate(Task(seed, tokens, seed))
    assert len(seen) >= 8 and seen[: len(seen) // 2] == seen[len(seen) // 2 :]


def test_without_weights_the_body_is_random_the_same_every_time_and_said(proxy, caplog):
    torch.manual_seed(5)
    first = proxy()
    torch.manual_seed(6)
    second = proxy()
    assert torch.equal(first.features([1])["res4"], second.features([1])["res4"])
    assert "MODEL.WEIGHTS is empty" in caplog.text


def test_more_training_has_a_higher_reward(proxy):
    def reward(iterations):
        setting = "MODEL.NAS_FCOS.SEARCH."
        longer = proxy(f"{setting}ITERATIONS", iterations, f"{setting}LR", "0.004")
        return longer.evaluate(Task(0, PAPER, 0)).reward

    assert reward("24") > reward("2") + 0.5


def test_kept_features_are_those_of_the_frozen_body(proxy):
    kept, computed = proxy(), proxy("MODEL.NAS_FCOS.SEARCH.CACHE", "")
    for name, feature in computed.features([0, 5]).items():
        torch.testing.assert_close(kept.features([0, 5])[name], feature, rtol=2e-3, atol=2e-3)


def test_a_training_stops_half_way_where_the_score_is_not_above_the_threshold(proxy):
    evaluate = proxy().evaluate
    stopped, passed = (evaluate(Task(0, PAPER, 0, (threshold,))) for threshold in (0.0, -1e9))
    assert stopped.stopped and stopped.scores == (stopped.reward,)
    assert not passed.stopped and passed.scores == stopped.scores and passed.reward != stopped.reward


def test_the_reward_can_be_the_average_precision(proxy):
    outcome = proxy("MODEL.NAS_FCOS.SEARCH.REWARD", "ap").evaluate(Task(0, PAPER, 0))
    assert 0 <= outcome.reward <= 1 and outcome.metrics == {"AP50": outcome.reward}


def test_a_head_is_searched_on_the_pyramid_of_the_fpn(proxy):
    found = proxy("MODEL.NAS_FCOS.SEARCH.STAGE", "head")
    assert list(found.features([0])) == ["p3", "p4", "p5", "p6", "p7"]
    tokens = HeadSpace().tokens_of(load_genotype("nas_fcos_head"))
    assert found.build(*found.space.genotypes(tokens)).fpn is None
    assert found.evaluate(Task(0, tokens, 0)).reward < 0


def test_fpn_and_head_can_be_searched_together(proxy):
    found = proxy("MODEL.NAS_FCOS.SEARCH.STAGE", "joint")
    assert found.evaluate(Task(0, PAPER + (0,) * 7, 0)).reward < 0


def test_an_image_is_cropped_the_same_way_every_time(small_config):
    images = ProxyImages(small_config("NAS_FCOS_128_R_50_1x", *SMALL), "MODEL.NAS_FCOS.SEARCH", 0)
    assert images[3]["image"].shape == (3, 64, 64)
    assert torch.equal(images[3]["image"], images[3]["image"])
    other = ProxyImages(small_config("NAS_FCOS_128_R_50_1x", *SMALL), "MODEL.NAS_FCOS.SEARCH", 1)
    assert [r["image_id"] for r in images.dicts] != [r["image_id"] for r in other.dicts]


def test_every_image_is_in_one_half_of_the_split():
    halves = split(10, 0.3, 0)
    assert len(halves.val) == 3 and sorted(halves.train + halves.val) == list(range(10))
    assert split(10, 0.3, 1) != halves
    assert len(split(2, 0.0, 0).val) == 1 and len(split(2, 1.0, 0).train) == 1
    with pytest.raises(UserError, match="two images"):
        split(1, 0.3, 0)


@pytest.mark.parametrize(
    "overrides, sentence",
    [
        (("MODEL.NAS_FCOS.SEARCH.STAGE", "neck"), "STAGE must be fpn, head or joint; got 'neck'"),
        (("MODEL.NAS_FCOS.SEARCH.BLOCKS", "2"), "BLOCKS must be 3 or more"),
        (("MODEL.NAS_FCOS.SEARCH.IMAGES", "100000"), "IMAGES must be at most"),
        (("DATASETS.TRAIN", "('nothing',)"), "there is no data set 'nothing'"),
        (("MODEL.NAS_FCOS.SEARCH.CACHE_LIMIT_GB", "0.0001"), "must be at most limit_bytes"),
        (("MODEL.RESNETS.OUT_FEATURES", "['res3', 'res4', 'res5']"), "strides 4, 8, 16 and 32"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_spent(proxy, overrides, sentence):
    with pytest.raises(UserError, match=sentence):
        proxy(*overrides)


def test_weights_that_lack_the_body_are_refused(proxy, tmp_path):
    torch.save({"model": {"proposal_generator.fcos_head.ctrness.bias": torch.zeros(1)}}, tmp_path / "head.pth")
    with pytest.raises(UserError, match="whole backbone .* lacks 60 of its 60 weights"):
        proxy("MODEL.WEIGHTS", str(tmp_path / "head.pth"))


def test_the_command_leaves_journal_report_and_genotypes_and_goes_on(small_arguments, tmp_path, capsys):
    config, tiny = small_arguments("NAS_FCOS_128_R_50_1x")
    argv = ["--config-file", config, "--output", str(tmp_path), "--round", "2", "--sampler", "random"]
    assert main([*argv, "--budget", "2", *tiny, *SMALL]) == 0
    assert main([*argv, "--budget", "4", *tiny, *SMALL]) == 0
    lines = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines[1:] if line["status"] == "done"] == [0, 1, 2, 3]
    assert (tmp_path / "report.html").is_file()
    best = load_genotype(str(tmp_path / "best" / "fpn_1.json"))
    rewards = {line["reward"]: line["tokens"] for line in lines[1:]}
    assert best == FPNSpace().genotypes(rewards[max(rewards)])[0]
    assert "fpn_1.json" in capsys.readouterr().out
    with pytest.raises(UserError, match="ITERATIONS"):
        main([*argv, "--budget", "4", *tiny, *SMALL, "MODEL.NAS_FCOS.SEARCH.ITERATIONS", "5"])


def test_architectures_of_a_journal_are_trained_longer(small_arguments, tmp_path, capsys):
    config, tiny = small_arguments("NAS_FCOS_128_R_50_1x")
    argv = ["--config-file", config, "--output", str(tmp_path), "--round", "3", "--sampler", "random", "--budget", "3"]
    assert main([*argv, *tiny, *SMALL]) == 0
    local = ["MODEL.NAS_FCOS.SEARCH.CACHE", "memory"]
    assert correlate([str(tmp_path), "--count", "3", "--times", "1.5", "--opts", *local]) == 0
    found = json.loads((tmp_path / "correlation.json").read_text())
    assert found["iterations"] == 6 and len(found["architectures"]) == 3 and -1 <= found["rank_correlation"] <= 1
    rewards = [row["reward"] for row in found["architectures"]]
    assert rewards == sorted(rewards) and "<svg" in (tmp_path / "correlation.html").read_text()
    longer = [row["longer"] for row in found["architectures"]]
    assert found["best"] == longer[-1] and found["mean_of_others"] == pytest.approx(sum(longer[:2]) / 2)
    with pytest.raises(UserError, match="--count must be 2 to 3"):
        correlate([str(tmp_path), "--count", "4"])


def test_a_longer_training_takes_the_data_of_a_search_from_its_command(small_arguments, shapes_folder, tmp_path):
    config, tiny = small_arguments("NAS_FCOS_128_R_50_1x")
    data = ["--dataset", "own_shapes", str(shapes_folder), str(shapes_folder / "val.json")]
    argv = ["--config-file", config, *data, "--output", str(tmp_path), "--sampler", "random", "--budget", "2"]
    few = ["DATASETS.TRAIN", "('own_shapes',)", "MODEL.NAS_FCOS.SEARCH.IMAGES", "4"]
    assert main([*argv, *tiny, *SMALL, *few]) == 0
    for catalog in (DatasetCatalog, MetadataCatalog):  # as in a new process
        catalog.remove("own_shapes")
    local = ["MODEL.NAS_FCOS.SEARCH.CACHE", "memory"]
    assert correlate([str(tmp_path), "--count", "2", "--times", "1.5", *data, "--opts", *local]) == 0
