"""Merging of things and stuff: equal to a literal account of the rule, whatever the masks."""

from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adet_ext.d2.structures import Instances
from adet_ext.modeling import panoptic
from adet_ext.modeling.panoptic import PanopticMerger, claim_pixels, semantic_scores

CLAIMS = [panoptic._claim_on_cpu, panoptic._claim_by_sweeps]


def literal_claim(masks: torch.Tensor, threshold: float) -> tuple[torch.Tensor, list[bool]]:
    """One mask after the other, as the rule is worded."""
    ids, accepted = torch.zeros(masks.shape[1:], dtype=torch.int32), []
    for mask in masks:
        area, covered = int(mask.sum()), int((mask & (ids > 0)).sum())
        accepted.append(area > 0 and covered / area <= threshold)
        if accepted[-1]:
            ids[mask & (ids == 0)] = sum(accepted)
    return ids, accepted


def literal_merge(instances, labels, confidence, overlap, stuff_limit):
    order = sorted(range(len(instances)), key=lambda i: -float(instances.scores[i]))
    order = [i for i in order if instances.scores[i] >= confidence]
    ids, accepted = literal_claim(instances.pred_masks[order], overlap)
    segments = []
    for i in [i for i, good in zip(order, accepted) if good]:
        category, score = int(instances.pred_classes[i]), float(instances.scores[i])
        segments.append(
            {"id": len(segments) + 1, "isthing": True, "score": score, "category_id": category, "instance_id": i}
        )
    free = ids == 0
    for label in sorted(set(labels.flatten().tolist()) - {0}):
        mask = free & (labels == label)
        if 0 < int(mask.sum()) >= stuff_limit:
            segments.append({"id": len(segments) + 1, "isthing": False, "category_id": label, "area": int(mask.sum())})
            ids[mask] = len(segments)
    return ids, segments


def random_masks(seed: int, count: int, height: int = 24, width: int = 31) -> torch.Tensor:
    """Rectangles with holes, many over one another; some empty, some the whole image."""
    rng = np.random.RandomState(seed)
    masks = np.zeros((count, height, width), bool)
    for mask in masks:
        kind = rng.rand()
        if kind < 0.1:
            continue
        y, x = rng.randint(0, height), rng.randint(0, width)
        y, x, h, w = (0, 0, height, width) if kind > 0.97 else (y, x, rng.randint(1, 16), rng.randint(1, 20))
        mask[y : y + h, x : x + w] = rng.rand(*mask[y : y + h, x : x + w].shape) < 0.9
    return torch.from_numpy(masks)


def random_instances(seed: int, count: int, **size) -> Instances:
    generator = torch.Generator().manual_seed(seed)
    masks = random_masks(seed, count, **size)
    instances = Instances(tuple(masks.shape[1:]))
    instances.pred_masks = masks
    instances.scores = torch.rand(count, generator=generator)
    instances.pred_classes = torch.randint(0, 5, (count,), generator=generator)
    return instances


@pytest.mark.parametrize("claim", CLAIMS)
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(0, 24), threshold=st.sampled_from([0.0, 0.2, 0.4, 0.5, 0.9, 1.0]))
def test_pixels_are_claimed_as_by_the_literal_rule(claim, seed, count, threshold):
    masks = random_masks(seed, count)
    ids, accepted = claim(masks, threshold, torch.arange(count))
    expected, expected_accepted = literal_claim(masks, threshold)
    assert accepted.tolist() == expected_accepted
    assert ids.dtype == torch.int32 and torch.equal(ids, expected)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(0, 24), threshold=st.sampled_from([0.0, 0.4, 0.5, 1.0]))
def test_both_ways_to_claim_give_the_same_map_and_segments(seed, count, threshold):
    """Of masks that overlap, are empty or equal, with scores of which many are equal."""
    instances = random_instances(seed, count)
    instances.scores = (instances.scores * 4).round() / 4
    instances.pred_masks[count // 2 : count - 1 : 3] = instances.pred_masks[count // 2 + 1 : count : 3]
    labels = torch.randint(0, 4, instances.image_size, generator=torch.Generator().manual_seed(seed))
    merger = PanopticMerger(confidence_threshold=0.25, overlap_threshold=threshold, stuff_area_limit=20)
    ids, segments = merger(instances, labels)
    with mock.patch.object(panoptic, "_claim_on_cpu", panoptic._claim_by_sweeps):
        other_ids, other_segments = merger(instances, labels)
    assert segments == other_segments and torch.equal(ids, other_ids)


@pytest.mark.parametrize("claim", CLAIMS)
def test_only_given_masks_take_part_in_their_order(claim):
    masks, order = random_masks(1, 12), torch.tensor([7, 2, 11, 5])
    ids, accepted = claim(masks, 0.4, order)
    expected, expected_accepted = literal_claim(masks[order], 0.4)
    assert accepted.tolist() == expected_accepted and torch.equal(ids, expected)


def test_what_a_refused_mask_covers_stays_free_for_later_ones():
    # In a row of ten: b is half covered by a and refused, so c, of which b covers all, is accepted, whole.
    rows = [[1, 1, 1, 1, 0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1, 0, 0, 0, 0]]
    masks = torch.tensor(rows, dtype=torch.bool)[:, None]
    for claim in CLAIMS:
        ids, accepted = claim(masks, 0.4, torch.arange(3))
        assert accepted.tolist() == [True, False, True]
        assert ids.tolist() == [[1, 1, 1, 1, 2, 2, 0, 0, 0, 0]]


def test_an_overlap_of_just_the_threshold_is_accepted():
    masks = torch.zeros(2, 1, 10, dtype=torch.bool)
    masks[0, 0, :4] = True
    masks[1, 0, 2:7] = True  # 2 of 5 pixels
    for claim in CLAIMS:
        assert claim(masks, 0.4, torch.arange(2))[1].tolist() == [True, True]
        assert claim(masks, 0.39, torch.arange(2))[1].tolist() == [True, False]


def test_sweeps_hold_more_masks_than_a_byte_counts():
    masks = torch.eye(300, dtype=torch.bool)[:, None]  # each one pixel of its own
    ids, accepted = panoptic._claim_by_sweeps(masks, 0.4, torch.arange(300))
    assert accepted.all() and ids.tolist() == [list(range(1, 301))]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_the_gpu_gives_what_the_cpu_gives():
    masks = random_masks(0, 60, 200, 300)
    ids, accepted = claim_pixels(masks.cuda(), 0.4, torch.arange(60).flip(0).cuda())
    expected = claim_pixels(masks, 0.4, torch.arange(60).flip(0))
    assert torch.equal(ids.cpu(), expected[0]) and torch.equal(accepted.cpu(), expected[1])


@pytest.mark.usefixtures("merging")
@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(
    "confidence, overlap, limit", [(0.2, 0.4, 20), (0.0, 0.5, 0), (0.99, 0.4, 1), (0.5, 0.0, 10**9)]
)
def test_a_merge_is_the_literal_one(seed, confidence, overlap, limit):
    instances = random_instances(seed, count=seed * 2)
    labels = torch.randint(0, 4, instances.image_size, generator=torch.Generator().manual_seed(seed))
    merger = PanopticMerger(confidence_threshold=confidence, overlap_threshold=overlap, stuff_area_limit=limit)
    before = instances.pred_masks.clone()
    ids, segments = merger(instances, labels)
    expected_ids, expected_segments = literal_merge(instances, labels, confidence, overlap, limit)
    assert segments == expected_segments
    assert ids.dtype == torch.int32 and torch.equal(ids, expected_ids)
    assert torch.equal(instances.pred_masks, before)


@pytest.mark.needs_detectron2
@pytest.mark.parametrize("seed", range(6))
def test_a_merge_is_detectron2_s(seed):
    from detectron2.modeling.meta_arch.panoptic_fpn import combine_semantic_and_instance_outputs as combine

    instances = random_instances(seed, count=seed * 5)
    labels = torch.randint(0, 4, instances.image_size, generator=torch.Generator().manual_seed(seed))
    ids, segments = PanopticMerger(confidence_threshold=0.2, overlap_threshold=0.4, stuff_area_limit=30)(
        instances, labels
    )
    expected_ids, expected_segments = combine(instances, labels, 0.4, 30, 0.2)
    assert segments == expected_segments and torch.equal(ids, expected_ids)


def test_the_map_and_its_segments_have_the_same_ids():
    for seed in range(10):
        instances = random_instances(seed, count=15)
        labels = torch.zeros(instances.image_size, dtype=torch.int64)
        labels[:, :10], labels[:5, :3] = 2, 1
        ids, segments = PanopticMerger(stuff_area_limit=0)(instances, labels)
        assert set(ids.unique().tolist()) - {0} == {s["id"] for s in segments}


@pytest.mark.usefixtures("merging")
def test_scores_at_the_threshold_count_and_ties_keep_their_order():
    instances = Instances((2, 4))
    instances.scores = torch.tensor([0.5, 0.2, 0.5, 0.19])
    instances.pred_classes = torch.tensor([3, 1, 2, 0])
    instances.pred_masks = torch.zeros(4, 2, 4, dtype=torch.bool)
    for i in range(4):
        instances.pred_masks[i, :, i] = True
    _, segments = PanopticMerger(confidence_threshold=float(instances.scores[1]))(
        instances, torch.zeros(2, 4, dtype=torch.int64)
    )
    assert [s["instance_id"] for s in segments] == [0, 2, 1]
    assert [s["category_id"] for s in segments] == [3, 2, 1]


def test_masks_and_labels_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match="must have the size of the result; got 24 x 31 and 24 x 30 pixels"):
        PanopticMerger()(random_instances(0, 3), torch.zeros(24, 30, dtype=torch.int64))


@pytest.mark.parametrize("size", [(13, 18), (26, 20)])
def test_semantic_scores_are_enlarged_cut_and_resized(size):
    from torch.nn import functional as F

    logits = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0))
    scores = semantic_scores(logits, 4, (13, 18), *size)
    expected = F.interpolate(logits[None], size=(16, 24), mode="bilinear")[..., :13, :18]
    expected = F.interpolate(expected, size=size, mode="bilinear")[0]
    assert scores.shape == (3, *size)
    assert torch.allclose(scores, expected, atol=1e-6)
