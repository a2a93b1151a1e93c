"""FCOS' target assignment, losses and inference."""

import math

import pytest
import torch
from fvcore.nn import sigmoid_focal_loss
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torchvision.ops import batched_nms

from adet_ext.d2.structures import Boxes, Instances
from adet_ext.layers.nms_mask import _all_at_once, nms_mask
from adet_ext.modeling.fcos.head import HeadOutput
from adet_ext.modeling.fcos.inference import detect
from adet_ext.modeling.fcos.losses import box_loss, focal_loss_sum, smoothed_ious
from adet_ext.modeling.fcos.targets import all_locations, assign_targets, centerness_targets

from .host_waits import CountSyncs, counted_waits

STRIDES = [8, 16, 32]
SIZES = [(8, 10), (4, 5), (2, 3)]
LIMITS = {
    "score_threshold": 0.05,
    "pre_nms_topk": 50,
    "post_nms_topk": 20,
    "nms_threshold": 0.6,
    "threshold_with_quality": True,
}


def instances_of(boxes, classes=None) -> Instances:
    instances = Instances((64, 80))
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.tensor(classes if classes is not None else [0] * len(boxes), dtype=torch.int64)
    return instances


def assign(*per_image, **options):
    locations = all_locations(SIZES, STRIDES, torch.device("cpu"))
    options = {"num_classes": 5, "sizes_of_interest": [16, 32], **options}
    return locations, assign_targets(locations, per_image, **options)


def test_locations_are_the_cells_centres_row_by_row():
    locations = all_locations([(2, 3), (1, 2)], [8, 16], torch.device("cpu"))
    expected = [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12], [8, 8], [24, 8]]
    assert locations.xy.tolist() == expected
    assert locations.level.tolist() == [0] * 6 + [1] * 2


def slow_assignment(locations, boxes, sizes_of_interest, center_sampling, radius):
    """The rule, written out for one location and one object at a time."""
    ends = [-1, *sizes_of_interest, float("inf")]
    chosen = []
    for (x, y), level, stride in zip(locations.xy.tolist(), locations.level.tolist(), locations.stride.tolist()):
        best, best_area = -1, float("inf")
        for i, (x0, y0, x1, y1) in enumerate(boxes):
            region = (x0, y0, x1, y1)
            if center_sampling:
                cx, cy, r = (x0 + x1) / 2, (y0 + y1) / 2, radius * stride
                region = (max(cx - r, x0), max(cy - r, y0), min(cx + r, x1), min(cy + r, y1))
            if not (region[0] < x < region[2] and region[1] < y < region[3]):
                continue
            if not ends[level] <= max(x - x0, y - y0, x1 - x, y1 - y) <= ends[level + 1]:
                continue
            if (x1 - x0) * (y1 - y0) < best_area:
                best, best_area = i, (x1 - x0) * (y1 - y0)
        chosen.append(best)
    return chosen


box = st.tuples(*[st.integers(0, 70)] * 2, *[st.integers(1, 60)] * 2).map(
    lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(box, max_size=6), min_size=1, max_size=3), st.booleans())
def test_assignment_follows_the_rule_per_location(images, center_sampling):
    per_image = [instances_of(boxes, [i % 5 for i in range(len(boxes))]) for boxes in images]
    locations, targets = assign(*per_image, center_sampling=center_sampling)
    first = 0
    for n, boxes in enumerate(images):
        expected = slow_assignment(locations, boxes, [16, 32], center_sampling, 1.5)
        assert targets.objects[n].tolist() == [e + first if e >= 0 else -1 for e in expected]
        assert targets.labels[n].tolist() == [e % 5 if e >= 0 else 5 for e in expected]
        for i, e in enumerate(expected):
            if e >= 0:
                x, y = locations.xy[i].tolist()
                x0, y0, x1, y1 = boxes[e]
                assert targets.ltrb[n, i].tolist() == [x - x0, y - y0, x1 - x, y1 - y]
        first += len(boxes)


def test_images_without_objects_are_background_everywhere():
    _, targets = assign(instances_of([]), instances_of([]))
    assert (targets.labels == 5).all() and (targets.objects == -1).all()


def test_both_ends_of_a_size_range_belong_to_it():
    # Location (12, 12) of stride 8; the largest distance is 16, the end of one range and the beginning of the next.
    locations, targets = assign(instances_of([[4, 4, 28, 20]]), center_sampling=False)
    finest = (locations.level == 0) & (locations.xy == torch.tensor([12.0, 12.0])).all(1)
    assert targets.labels[0, finest].tolist() == [0]


def test_centerness_is_one_in_the_middle_and_zero_on_the_border():
    values = centerness_targets(torch.tensor([[5.0, 3, 5, 3], [0, 3, 10, 3], [1, 2, 4, 2]]))
    assert values.tolist() == pytest.approx([1, 0, 0.5])


def test_focal_loss_equals_the_dense_one():
    torch.manual_seed(0)
    logits = torch.randn(30, 7, requires_grad=True)
    rows, columns = torch.tensor([2, 2, 9]), torch.tensor([0, 6, 3])
    target = torch.zeros(30, 7)
    target[rows, columns] = 1
    dense = sigmoid_focal_loss(logits, target, alpha=0.25, gamma=2, reduction="sum")
    ours = focal_loss_sum(logits, rows, columns, alpha=0.25, gamma=2)
    torch.testing.assert_close(ours, dense)
    gradients = [torch.autograd.grad(x, logits)[0] for x in (ours, dense)]
    torch.testing.assert_close(*gradients)


def test_iou_of_equal_boxes_is_one_and_giou_of_distant_ones_smaller():
    one = torch.tensor([[1.0, 2, 3, 4]])
    assert [x.item() for x in smoothed_ious(one, one)] == [1, 1]
    iou, giou = smoothed_ious(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[0.0, 0, 99, 99]]))
    assert 0 < iou.item() < 0.01 and giou.item() <= iou.item()
    with pytest.raises(ValueError, match="LOC_LOSS_TYPE must be .*; got 'l1'"):
        box_loss(iou, giou, "l1")


def random_output(images=2, classes=4, seed=0) -> HeadOutput:
    g = torch.Generator().manual_seed(seed)
    return HeadOutput(
        [torch.randn(images, classes, *s, generator=g) - 1 for s in SIZES],
        [torch.rand(images, 4, *s, generator=g) * 3 for s in SIZES],
        [torch.randn(images, 1, *s, generator=g) for s in SIZES],
        [],
    )


@pytest.mark.parametrize("with_quality", [True, False])
@pytest.mark.parametrize("topk", [7, 1000])
def test_detection_equals_the_definition_level_by_level(with_quality, topk):
    output = random_output()
    locations = all_locations(SIZES, STRIDES, torch.device("cpu"))
    limits = {**LIMITS, "threshold_with_quality": with_quality, "pre_nms_topk": topk}
    detections = detect(output, locations, **limits)
    for n in range(2):
        boxes, scores, classes = [], [], []
        start = 0
        for logits, distances, quality, stride in zip(output.logits, output.distances, output.quality, STRIDES):
            probability = logits[n].flatten(1).T.sigmoid()  # (HW, C)
            product = probability * quality[n].flatten()[:, None].sigmoid()
            passed = (product if with_quality else probability) > LIMITS["score_threshold"]
            value, at = product.masked_fill(~passed, -1).flatten().topk(min(topk, product.numel()))
            at = at[value > 0]
            where, cls = at // 4, at % 4
            ltrb = distances[n].flatten(1).T[where] * stride
            xy = locations.xy[start + where]
            boxes.append(torch.cat([xy - ltrb[:, :2], xy + ltrb[:, 2:]], 1))
            scores.append(value[value > 0].sqrt())
            classes.append(cls)
            start += probability.shape[0]
        boxes, scores, classes = torch.cat(boxes), torch.cat(scores), torch.cat(classes)
        keep = batched_nms(boxes, scores, classes, 0.6)[:20]
        valid = detections.valid[n]
        torch.testing.assert_close(detections.boxes[n, valid], boxes[keep])
        torch.testing.assert_close(detections.scores[n, valid], scores[keep])
        assert detections.classes[n, valid].tolist() == classes[keep].tolist()


def test_nothing_above_the_threshold_gives_no_detections():
    output = random_output()._replace(logits=[torch.full((2, 4, *s), -30.0) for s in SIZES])
    locations = all_locations(SIZES, STRIDES, torch.device("cpu"))
    results = detect(output, locations, **LIMITS).to_instances([(64, 80)] * 2, locations)
    assert [len(x) for x in results] == [0, 0]
    assert results[0].pred_boxes.tensor.shape == (0, 4)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60))
def test_nms_without_host_sync_equals_greedy_nms(seed, count):
    g = torch.Generator().manual_seed(seed)
    corner = torch.rand(2, count, 2, generator=g) * 30
    boxes = torch.cat([corner, corner + 1 + torch.rand(2, count, 2, generator=g) * 20], dim=2)
    classes = torch.randint(0, 3, (2, count), generator=g)
    valid = torch.rand(2, count, generator=g) > 0.2
    greedy = nms_mask(boxes, classes, valid, 0.5)
    assert torch.equal(_all_at_once(boxes, classes, valid, 0.5), greedy)
    assert not (greedy & ~valid).any()


def test_the_host_waits_for_nothing_before_the_results_leave(build, batch):
    model = build().eval()
    # What is inside nms_mask is looked at below.
    found, waits = counted_waits(model, batch)
    assert found.detections.valid.shape == (2, 100) and waits == []

    count = CountSyncs()
    with torch.no_grad(), count:
        boxes = torch.rand(2, 30, 4)
        _all_at_once(boxes, torch.zeros(2, 30, dtype=torch.int64), torch.ones(2, 30, dtype=torch.bool), 0.5)
    assert count.seen == []


def test_locations_are_kept_for_inference_and_training():
    sizes = [(5, 7), (3, 4)]
    with torch.inference_mode():
        first = all_locations(sizes, [8, 16], torch.device("cpu"))
    again = all_locations([torch.Size(size) for size in sizes], (8, 16), torch.device("cpu"))
    assert all(a is b for a, b in zip(first, again)) and not again.xy.is_inference()
    assert all_locations(sizes, [4, 8], torch.device("cpu")).xy is not first.xy


def test_locations_made_of_fake_tensors_or_symbols_are_not_kept():
    sizes = [(6, 9), (3, 5)]
    with FakeTensorMode():
        assert isinstance(all_locations(sizes, [8, 16], torch.device("cpu")).xy, FakeTensor)
    real = all_locations(sizes, [8, 16], torch.device("cpu"))
    assert type(real.xy) is torch.Tensor
    compiled = torch.compile(lambda x: all_locations([x.shape], [8], x.device).xy + 1, backend="eager", dynamic=True)
    for size in ((4, 6), (5, 7)):
        expected = all_locations([size], [8], torch.device("cpu")).xy + 1
        torch.testing.assert_close(compiled(torch.zeros(size)), expected)


def test_the_counter_of_host_waits_counts():
    count = CountSyncs()
    with count:
        x = torch.ones(3)
        x.sum().item(), x.nonzero(), x[x > 0]
    assert len(count.seen) >= 3


@pytest.mark.parametrize(
    "overrides",
    [
        ("MODEL.FCOS.BOX_QUALITY", "iou"),
        ("MODEL.FCOS.CTR_ON_REG", False),
        ("MODEL.FCOS.NORM", "BN"),
        ("MODEL.FCOS.NORM", "NaiveGN"),
        ("MODEL.FCOS.NORM", "none"),
        ("MODEL.FCOS.LOC_LOSS_TYPE", "iou"),
        ("MODEL.FCOS.LOC_LOSS_TYPE", "linear_iou"),
        ("MODEL.FCOS.LOSS_NORMALIZER_CLS", "moving_fg"),
        ("MODEL.FCOS.LOSS_NORMALIZER_CLS", "all"),
        ("MODEL.FCOS.LOSS_NORMALIZER_CLS", "fg_and_images"),
        ("MODEL.FCOS.BOX_CODING", "exp"),
        ("MODEL.FCOS.NUM_SHARE_CONVS", 2, "MODEL.FCOS.NUM_CLS_CONVS", 0, "MODEL.FCOS.NUM_BOX_CONVS", 0),
        ("MODEL.FCOS.USE_DEFORMABLE", True),
        ("MODEL.FCOS.USE_SCALE", False),
        ("MODEL.FCOS.CENTER_SAMPLE", False),
        ("MODEL.FCOS.TOP_FEATURE", "res5"),
    ],
)
def test_every_choice_trains_and_detects(build, batch, overrides):
    model = build("MODEL.META_ARCHITECTURE", "OneStageDetector", *overrides)
    losses = model(batch)
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()
    idle = [k for k, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == []
    model.eval()
    with torch.no_grad():
        results = model(batch)
    assert [r["instances"].image_size for r in results] == [(96, 128), (80, 90)]


@pytest.mark.parametrize(
    "overrides, message",
    [
        (("MODEL.FCOS.BOX_QUALITY", "area"), "BOX_QUALITY must be .*; got 'area'"),
        (("MODEL.FCOS.BOX_CODING", "linear"), "BOX_CODING must be relu or exp; got 'linear'"),
        (("MODEL.FCOS.NORM", "LN"), "NORM must be .*; got 'LN'"),
        (("MODEL.FCOS.SIZES_OF_INTEREST", [64]), "must have as many FPN_STRIDES"),
        (("MODEL.FCOS.IN_FEATURES", ["p2", "p3", "p4", "p5", "p6"]), "IN_FEATURES must name features.*got \\['p2'\\]"),
        (("MODEL.FCOS.LOSS_NORMALIZER_CLS", "none"), "LOSS_NORMALIZER_CLS must be .*; got 'none'"),
    ],
)
def test_a_wrong_choice_is_named(build, overrides, message):
    with pytest.raises(ValueError, match=message):
        build(*overrides)


def test_exponential_distances_are_pixels_whatever_the_level(build):
    """exp(0) is one pixel: 1/8 of the stride on P3, 1/16 on P4."""
    model = build("MODEL.META_ARCHITECTURE", "OneStageDetector", "MODEL.FCOS.BOX_CODING", "exp").eval()
    head = model.proposal_generator.fcos_head
    torch.nn.init.zeros_(head.bbox_pred.weight)
    distances = head([torch.rand(1, 64, 2, 2)] * 5).distances
    assert [d.unique().item() for d in distances] == [1 / s for s in (8, 16, 32, 64, 128)]


def test_losses_in_pixels_do_not_depend_on_the_level_that_finds_an_object(build):
    """One object, boxes of 1 pixel predicted everywhere: -log IoU is the same at strides 8 and 32 in pixels only."""
    losses = {}
    for coding in ("exp", "relu"):
        for stride in (8, 32):
            options = ("MODEL.FCOS.BOX_CODING", coding, "MODEL.FCOS.LOC_LOSS_TYPE", "iou")
            options += ("MODEL.FCOS.IN_FEATURES", ["p3"], "MODEL.FCOS.FPN_STRIDES", [stride])
            options += ("MODEL.FCOS.SIZES_OF_INTEREST", [], "MODEL.FCOS.CENTER_SAMPLE", False)
            fcos = build("MODEL.META_ARCHITECTURE", "OneStageDetector", *options).proposal_generator
            # One location, in the middle of an object of 100 x 60 pixels.
            locations = all_locations([(1, 1)], [stride], torch.device("cpu"))
            x, y = locations.xy[0].tolist()
            objects = instances_of([[x - 50, y - 30, x + 50, y + 30]])
            maps = [torch.zeros(1, c, 1, 1) for c in (3, 4, 1)]
            maps[1] += 1 / stride
            output = HeadOutput(*([m] for m in maps), [])
            losses[coding, stride] = fcos.losses(output, locations, [objects])[0]["loss_fcos_loc"].item()
    assert losses["exp", 8] == pytest.approx(-math.log((2 * 2 + 1) / (100 * 60 + 1)))
    assert losses["exp", 32] == pytest.approx(losses["exp", 8])
    assert losses["relu", 32] != pytest.approx(losses["relu", 8], rel=0.1)


def test_the_first_fcos_divides_the_classification_loss_by_positives_and_images(build):
    locations = all_locations([(2, 2)], [8], torch.device("cpu"))
    objects = [instances_of([[0, 0, 16, 16]]), instances_of([])]  # four positives, two images
    output = HeadOutput([torch.zeros(2, 3, 2, 2)], [torch.ones(2, 4, 2, 2)], [torch.zeros(2, 1, 2, 2)], [])
    loss = {}
    for kind in ("fg", "fg_and_images"):
        options = ("MODEL.FCOS.IN_FEATURES", ["p3"], "MODEL.FCOS.FPN_STRIDES", [8], "MODEL.FCOS.SIZES_OF_INTEREST", [])
        options += ("MODEL.FCOS.LOSS_NORMALIZER_CLS", kind, "MODEL.FCOS.CENTER_SAMPLE", False)
        fcos = build("MODEL.META_ARCHITECTURE", "OneStageDetector", *options).proposal_generator
        loss[kind] = fcos.losses(output, locations, objects)[0]["loss_fcos_cls"].item()
    assert loss["fg"] * 4 == pytest.approx(loss["fg_and_images"] * (4 + 2))
