"""The two rules of merging, on masks that can be counted by hand."""

import pytest
import torch
from auto_panoptic.merge import CodeMerger, SupplementMerger

from adet_ext.d2.structures import Boxes, Instances

LIMITS = {"confidence_threshold": 0.5, "overlap_threshold": 0.5}


def instances(*rows):
    """Return instances of (score, first row, last row, first column, last column) on 10 x 10 pixels."""
    found = Instances((10, 10))
    masks = torch.zeros(len(rows), 10, 10, dtype=torch.bool)
    for mask, (_, top, bottom, left, right) in zip(masks, rows):
        mask[top:bottom, left:right] = True
    found.pred_boxes, found.pred_masks = Boxes(torch.zeros(len(rows), 4)), masks
    found.scores = torch.tensor([row[0] for row in rows])
    found.pred_classes = torch.arange(len(rows))
    return found


def merged(merger, found):
    """Return the pixels of each kept instance by its place, and those of each stuff class."""
    labels = torch.ones(10, 10, dtype=torch.int64)
    labels[9, 8:] = 2
    ids, segments = merger(found, labels)
    things = {s["instance_id"]: int((ids == s["id"]).sum()) for s in segments if s["isthing"]}
    stuff = {s["category_id"]: int((ids == s["id"]).sum()) for s in segments if not s["isthing"]}
    return things, stuff


LARGE, SMALL = (0.9, 0, 8, 0, 8), (0.8, 6, 10, 6, 10)  # 64 and 16 pixels, 4 in common


def test_the_smaller_of_two_keeps_the_pixels_in_common():
    for merger in (SupplementMerger(**LIMITS, instance_area_limit=9), CodeMerger(**LIMITS, stuff_area_limit=4)):
        assert merged(merger, instances(LARGE, SMALL))[0] == {0: 60, 1: 16}


def test_the_area_limit_is_of_instances_in_the_supplement_and_of_stuff_in_the_code():
    tiny = (0.9, 0, 1, 0, 2)
    things, stuff = merged(SupplementMerger(**LIMITS, instance_area_limit=4), instances(tiny))
    assert things == {} and stuff == {1: 98, 2: 2}
    things, stuff = merged(CodeMerger(**LIMITS, stuff_area_limit=4), instances(tiny))
    assert things == {0: 2} and stuff == {1: 96}


def test_the_supplement_drops_what_better_ones_cover_whatever_their_area():
    covered = (0.6, 0, 4, 5, 9)  # 16 pixels, 12 of them in LARGE
    supplement = SupplementMerger(**LIMITS, instance_area_limit=9)
    assert merged(supplement, instances(LARGE, covered))[0] == {0: 64}
    # The code looks at the scores first where one is below 0.725, and drops it too; above, the smaller goes first.
    code = CodeMerger(**LIMITS, stuff_area_limit=4)
    assert merged(code, instances(LARGE, covered))[0] == {0: 64}
    assert merged(code, instances(LARGE, (0.8, *covered[1:])))[0] == {0: 52, 1: 16}


@pytest.mark.parametrize("merger", [SupplementMerger(**LIMITS, instance_area_limit=9), CodeMerger(**LIMITS)])
def test_unsure_instances_are_dropped_and_none_is_no_error(merger):
    assert merged(merger, instances((0.4, 0, 8, 0, 8)))[0] == {}
    assert merged(merger, instances())[0] == {}


def test_an_instance_without_a_pixel_left_is_dropped():
    half = (0.8, 0, 8, 0, 4), (0.7, 0, 8, 4, 8)
    merger = SupplementMerger(confidence_threshold=0.5, overlap_threshold=1.0, instance_area_limit=9)
    assert merged(merger, instances(LARGE, *half))[0] == {1: 32, 2: 32}
