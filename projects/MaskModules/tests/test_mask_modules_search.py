"""The proxy task, the search on it, and training with what it finds: on shapes of 64 pixels and random weights."""

import copy
import json
from collections import Counter

import cv2
import numpy as np
import pytest
import torch
from mask_modules.genotype import load_genotype
from mask_modules.proxy import MaskProxy
from mask_modules.search import main

from adet_ext.d2.modeling import build_model
from adet_ext.data.catalog import replace_dataset
from adet_ext.data.proxy_images import ProxyImages
from adet_ext.errors import UserError
from adet_ext.nas.evaluation import Task

KEY = "MODEL.MASK_MODULES.SEARCH"


def test_an_evaluation_trains_the_module_alone_and_is_the_same_every_time(small_config):
    proxy, anew = (MaskProxy(small_config("search/shapes", f"{KEY}.CACHE", place)) for place in ("memory", ""))
    kept, computed = (one.batch(proxy.split.train[:3]) for one in (proxy, anew))
    for name, value in kept.features.items():
        torch.testing.assert_close(value, computed.features[name], atol=1e-2, rtol=1e-2)  # float16
    assert len(kept.boxes) == len(kept.attentions) == len(kept.masks) == len(kept.image) > 0
    torch.testing.assert_close(kept.attentions, computed.attentions, atol=1e-2, rtol=1e-2)
    tokens = proxy.space.tokens_of(load_genotype("people"))
    before = {name: value.clone() for name, value in proxy.model.state_dict().items()}
    first, again, other = (proxy.evaluate(Task(0, tokens, seed)) for seed in (5, 5, 6))
    assert first.reward == again.reward != other.reward and 0 <= first.reward <= 100
    assert first.reward == first.metrics["IoU"] and first.metrics["multiply_adds"] == proxy.reference_cost
    assert all(torch.equal(value, before[name]) for name, value in proxy.model.state_dict().items())
    stopped = proxy.evaluate(Task(0, tokens, 5, thresholds=(1e9,)))
    assert stopped.stopped and len(stopped.scores) == 1


def test_a_module_learns_masks_and_cost_counts_where_it_is_asked_for(small_config):
    more = [f"{KEY}.ITERATIONS", "20", f"{KEY}.COST_EXPONENT", "0.5", f"{KEY}.LR", "0.01"]
    proxy = MaskProxy(small_config("search/shapes", *more))
    torch.manual_seed(0)
    losses = list(proxy._train(proxy.build(load_genotype("dr1mask")), Counter()))
    assert len(losses) == 20 and sum(losses[-3:]) < 0.9 * sum(losses[:3])
    proxy.node.ITERATIONS = 2
    found = proxy.evaluate(Task(0, proxy.space.tokens_of(load_genotype("dr1mask")), 1))
    share = found.metrics["multiply_adds"] / proxy.reference_cost
    assert share < 1 and found.reward == pytest.approx(found.metrics["IoU"] * share**-0.5)


def test_the_command_leaves_modules_that_a_config_can_name(tmp_path, small_arguments, small_config, capsys):
    file, tiny = small_arguments("search/shapes")
    arguments = ["--config-file", file, "--sampler", "random", "--budget", "3", "--round", "2"]
    assert main([*arguments, "--output", str(tmp_path), *tiny]) == 0
    best = str(tmp_path / "best" / "module_1.json")
    assert f"MODEL.MASK_MODULES.GENOTYPE {best}" in capsys.readouterr().out and (tmp_path / "report.html").is_file()
    entries = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()[1:]]
    assert all(entry["metrics"]["multiply_adds"] > 0 for entry in entries if entry["status"] == "done")
    cfg = small_config("search/shapes", "MODEL.BASIS_MODULE.NAME", "SearchedBasis", "MODEL.MASK_MODULES.GENOTYPE", best)
    model = build_model(cfg)
    assert model.basis_module.genotype == load_genotype(best)
    assert len(model.eval()([{"image": torch.zeros(3, 64, 64, dtype=torch.uint8)}])) == 1


def test_polygons_are_cut_with_their_images(small_config, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((40, 80, 3), np.uint8))
    outline = {"bbox": [2, 5, 72, 35], "bbox_mode": 0, "segmentation": [[2, 5, 72, 5, 72, 35, 2, 35]]}
    record = {"file_name": str(tmp_path / "a.png"), "image_id": 0, "height": 40, "width": 80}
    record["annotations"] = [{**outline, "category_id": 0, "iscrowd": 0}]
    replace_dataset("one polygon", lambda: [copy.deepcopy(record)], {"thing_classes": ["a"]})
    cfg = small_config("search/shapes", "DATASETS.TRAIN", "('one polygon',)", f"{KEY}.IMAGES", "0")
    found = ProxyImages(cfg, KEY, 0, masks=True)[0]
    assert found["image"].shape == (3, 64, 64)
    mask, (x0, y0, x1, y1) = found["instances"].gt_masks.tensor[0], found["instances"].gt_boxes.tensor[0].tolist()
    assert (y0, y1) == (8, 56) and mask.sum() == pytest.approx((x1 - x0) * (y1 - y0)) and 0 <= x0 < x1 <= 64


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ([f"{KEY}.ITERATIONS", "0"], "SEARCH.ITERATIONS must be 1 or more; got 0"),
        ([f"{KEY}.IMAGES", "100000"], "SEARCH.IMAGES must be at most"),
        (["MODEL.META_ARCHITECTURE", "OneStageDetector"], "META_ARCHITECTURE must be BlendMask, .*; got OneStage"),
        ([f"{KEY}.REFERENCE", "absent"], "a genotype must be a JSON file or one of blendmask, dr1mask, .*, people"),
    ],
)
def test_what_does_not_fit_is_named(small_config, keys, words):
    with pytest.raises(UserError, match=words):
        MaskProxy(small_config("search/shapes", *keys))
