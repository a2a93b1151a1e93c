"""Non-maximum suppression as a mask: the greedy rule, however long its chains."""

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from adet_ext.layers.extension import serves
from adet_ext.layers.nms_mask import nms_mask, nms_mask_reference

native_only = pytest.mark.skipif(not serves("nms_mask", torch.zeros(1)), reason="the compiled operators are not built")


def make(seed, n, k, num_classes=3):
    g = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, k, 2, generator=g) * 30
    boxes = torch.cat([corner, corner + 1 + torch.rand(n, k, 2, generator=g) * 20], dim=2)
    return boxes, torch.randint(num_classes, (n, k), generator=g), torch.rand(n, k, generator=g) > 0.2


def greedy(boxes, classes, valid, threshold):
    """The rule as it is said: from the best on, a box stays unless one that stays overlaps it too much."""
    keep = torch.zeros_like(valid)
    for n in range(len(boxes)):
        iou = torchvision.ops.box_iou(boxes[n], boxes[n])
        for k in range(boxes.shape[1]):
            rivals = keep[n, :k] & (classes[n, :k] == classes[n, k]) & (iou[k, :k] > threshold)
            keep[n, k] = valid[n, k] and not rivals.any()
    return keep


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000), n=st.integers(0, 3), k=st.integers(0, 90),
    threshold=st.sampled_from([0.0, 0.3, 0.6, 1.0]),
)  # fmt: skip
def test_it_is_the_greedy_rule(device, seed, n, k, threshold):
    candidates = [t.to(device) for t in make(seed, n, k)]
    expected = greedy(*candidates, threshold)
    assert torch.equal(nms_mask(*candidates, threshold), expected)
    assert torch.equal(nms_mask_reference(*candidates, threshold), expected)


def test_hundreds_of_boxes_in_many_classes_are_those_of_torchvision(device):
    boxes, classes, valid = (t.to(device) for t in make(1, 2, 700, num_classes=5))
    keep = nms_mask(boxes, classes, valid, 0.5)
    for n in range(2):
        index = valid[n].nonzero()[:, 0]
        score = -index.float()
        expected = torchvision.ops.batched_nms(boxes[n, index], score, classes[n, index], 0.5)
        assert keep[n].nonzero()[:, 0].tolist() == index[expected].sort().values.tolist()


@native_only
def test_a_chain_of_any_length_is_followed_to_its_end(device):
    # Each box overlaps the next alone: every second one stays.
    x = torch.arange(300.0) * 4
    boxes = torch.stack([x, torch.zeros(300), x + 10, torch.full((300,), 10.0)], dim=1)[None].to(device)
    zeros = torch.zeros(1, 300, dtype=torch.int64, device=device)
    keep = nms_mask(boxes, zeros, torch.ones_like(zeros, dtype=torch.bool), 0.4)
    assert keep[0].nonzero()[:, 0].tolist() == list(range(0, 300, 2))


def test_thousands_of_boxes_are_compared_with_each_other(gpu):
    # More words of 64 boxes than a warp has lanes. The first box suppresses the last, and words without a valid box
    # stay empty.
    count = 64 * 36
    x = torch.arange(float(count)) * 20
    x[-1] = 1
    boxes = torch.stack([x, torch.zeros(count), x + 10, torch.full((count,), 10.0)], dim=1)[None].to(gpu)
    zeros = torch.zeros(1, count, dtype=torch.int64, device=gpu)
    valid = torch.ones_like(zeros, dtype=torch.bool)
    valid[:, 64:192] = False
    keep = nms_mask(boxes, zeros, valid, 0.5)
    assert torch.equal(keep[:, :-1], valid[:, :-1]) and not keep[0, -1]


def test_an_overlap_of_just_the_threshold_suppresses_nothing(device):
    boxes = torch.tensor([[[0.0, 0, 4, 4], [0, 0, 4, 2], [0, 0, 4, 1.9]]], device=device)
    zeros = torch.zeros(1, 3, dtype=torch.int64, device=device)
    keep = nms_mask(boxes, zeros, torch.ones_like(zeros, dtype=torch.bool), 0.5)
    assert keep.tolist() == [[True, True, False]]


def test_boxes_of_no_area_or_not_finite_suppress_nothing(device):
    nan, inf = float("nan"), float("inf")
    rows = [[5, 5, 5, 5], [5, 5, 5, 5], [nan, 0, 9, 9], [0, 0, inf, 9], [0, 0, 9, 9], [0, 0, 9, 9]]
    boxes = torch.tensor([rows], device=device)
    zeros = torch.zeros(1, 6, dtype=torch.int64, device=device)
    keep = nms_mask(boxes, zeros, torch.ones_like(zeros, dtype=torch.bool), 0.5)
    if serves("nms_mask", boxes):  # the reference moves classes apart by numbers, NaN with them
        assert keep[0].tolist() == [True, True, True, True, True, False]


@native_only
def test_torch_knows_the_operator():
    candidates = make(0, 2, 20)
    torch.library.opcheck(torch.ops.adet_ext.nms_mask.default, (*candidates, 0.5))
    compiled = torch.compile(nms_mask, backend="eager", fullgraph=True)
    assert torch.equal(compiled(*candidates, 0.5), nms_mask(*candidates, 0.5))


@native_only
@pytest.mark.parametrize(
    "name, change",
    [
        ("boxes", lambda b, c, v: (b[..., :3], c, v)),
        ("classes", lambda b, c, v: (b, c.int(), v)),
        ("classes", lambda b, c, v: (b, c[:, :-1], v)),
        ("valid", lambda b, c, v: (b, c, v.float())),
    ],
)
def test_a_wrong_argument_is_named(name, change):
    with pytest.raises((TypeError, ValueError), match=name):
        nms_mask(*change(*make(0, 2, 20)), 0.5)
