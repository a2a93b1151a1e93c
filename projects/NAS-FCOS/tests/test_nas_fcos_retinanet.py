"""RetinaNet: its anchors, which object each belongs to, its losses, and what it detects."""

import math

import pytest
import torch
from fvcore.nn import sigmoid_focal_loss
from nas_fcos.anchors import anchor_shapes, decode_boxes, encode_boxes, match_anchors
from nas_fcos.retinanet import RetinaNet, RetinaNetHead
from torchvision.ops import batched_nms, box_convert, box_iou

from adet_ext.d2.structures import Boxes, Instances
from adet_ext.errors import UserError
from adet_ext.modeling.fcos.losses import flatten_levels

LIMITS = {"score_threshold": 0.05, "pre_nms_topk": 1000, "post_nms_topk": 20, "nms_threshold": 0.5}


def make_generator(channels=8, classes=3):
    torch.manual_seed(0)
    shapes = anchor_shapes(4, 3, [0.5, 1.0, 2.0])
    head = RetinaNetHead(
        in_channels=channels, num_levels=2, num_classes=classes, num_anchors=9, num_convs=1, prior_prob=0.01
    )
    return RetinaNet(
        head=head,
        in_features=["p3", "p4"],
        strides=[8, 16],
        num_classes=classes,
        shapes=shapes,
        iou_thresholds=(0.4, 0.5),
        delta_weights=(1.0, 1.0, 1.0, 1.0),
        smooth_l1_beta=0.1,
        focal_alpha=0.25,
        focal_gamma=2.0,
        limits=LIMITS,
    )


def features(channels=8, images=2):
    generator = torch.Generator().manual_seed(1)
    return {
        "p3": torch.randn(images, channels, 8, 10, generator=generator),
        "p4": torch.randn(images, channels, 4, 5, generator=generator),
    }


def instances(boxes):
    found = Instances((64, 80))
    found.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    found.gt_classes = torch.arange(len(boxes)) % 3
    return found


GROUND_TRUTH = [[[8, 8, 40, 40], [30, 10, 75, 60]], [[0, 0, 20, 60]]]


def test_the_nine_anchors_have_three_areas_and_three_ratios():
    shapes = anchor_shapes(4, 3, [0.5, 1.0, 2.0])
    areas = shapes.prod(dim=1).view(3, 3)
    torch.testing.assert_close(areas, torch.tensor([16 * 2 ** (2 * i / 3) for i in range(3)])[:, None].expand(3, 3))
    torch.testing.assert_close((shapes[:, 1] / shapes[:, 0]).view(3, 3), torch.tensor([[0.5, 1.0, 2.0]]).expand(3, 3))
    with pytest.raises(UserError, match="positive ANCHOR_SCALE.*got 0, 3 and"):
        anchor_shapes(0, 3, [1.0])


def test_every_location_has_its_anchors_in_turn():
    generator = make_generator()
    output, locations = generator.head_output(features())
    anchors = generator.anchors(locations)
    assert len(anchors) == (8 * 10 + 4 * 5) * 9 == sum(x.shape[2] * x.shape[3] for x in output.logits)
    assert anchors[:9, :2].unique(dim=0).tolist() == [[4.0, 4.0]]
    assert anchors[9:18, :2].unique(dim=0).tolist() == [[12.0, 4.0]]
    assert anchors[720, :2].tolist() == [8.0, 8.0] and anchors[720, 2:].prod() == pytest.approx(64**2)


def test_the_channels_of_an_anchor_stay_together():
    generator = make_generator()
    head = generator.retinanet_head
    x = features()["p3"]
    logits, deltas = (maps[0] for maps in head([x]))
    raw = head.cls_logits(head.cls_tower(x, 0)).view(2, 9, 3, 8, 10)  # anchors, then classes
    torch.testing.assert_close(logits.view(2, 3, 8, 10, 9)[1, :, 2, 3, 4], raw[1, 4, :, 2, 3])
    raw = head.bbox_pred(head.bbox_tower(x, 0)).view(2, 9, 4, 8, 10)
    torch.testing.assert_close(deltas.view(2, 4, 8, 10, 9)[1, :, 2, 3, 4], raw[1, 4, :, 2, 3])


def test_decoding_inverts_encoding():
    torch.manual_seed(0)
    anchors = torch.cat([torch.rand(20, 2) * 50, torch.rand(20, 2) * 30 + 5], dim=1)
    boxes = box_convert(torch.cat([torch.rand(20, 2) * 50, torch.rand(20, 2) * 30 + 5], dim=1), "cxcywh", "xyxy")
    weights = (10.0, 10.0, 5.0, 5.0)
    torch.testing.assert_close(decode_boxes(anchors, encode_boxes(anchors, boxes, weights)[None], weights)[0], boxes)


def test_no_delta_makes_an_infinite_box():
    boxes = decode_boxes(torch.tensor([[10.0, 10, 4, 4]]), torch.full((1, 1, 4), 1e4), (1.0,) * 4)
    assert boxes.isfinite().all() and boxes[0, 0, 2] - boxes[0, 0, 0] == pytest.approx(4 * 62.5)


def test_anchors_are_matched_by_their_overlap_and_a_small_object_has_one_too():
    generator = make_generator()
    anchors = generator.anchors(generator.head_output(features())[1])
    boxes = torch.tensor([[8.0, 8, 40, 40], [70, 54, 74, 58]])
    matched = match_anchors(anchors, boxes, (0.4, 0.5))
    iou = box_iou(boxes, box_convert(anchors, "cxcywh", "xyxy"))
    best, index = iou.max(dim=0)
    nearest = {int(j) for row in iou for j in (row == row.max()).nonzero()}
    for j, (value, i) in enumerate(zip(best.tolist(), index.tolist())):
        expected = i if value >= 0.5 or j in nearest else -1 if value < 0.4 else -2
        assert matched[j] == expected
    assert set(matched.tolist()) == {-2, -1, 0, 1}
    assert best[matched == 1].max() < 0.1  # the second object is smaller than any anchor
    assert (match_anchors(anchors, boxes[:0], (0.4, 0.5)) == -1).all()


@pytest.mark.needs_detectron2
def test_matching_is_that_of_detectron2():
    from detectron2.modeling.matcher import Matcher

    generator = make_generator()
    anchors = generator.anchors(generator.head_output(features())[1])
    boxes = torch.tensor([[8.0, 8, 40, 40], [30, 10, 75, 60], [1, 1, 4, 5]])
    index, labels = Matcher([0.4, 0.5], [0, -1, 1], allow_low_quality_matches=True)(
        box_iou(boxes, box_convert(anchors, "cxcywh", "xyxy"))
    )
    expected = torch.where(labels == 1, index, torch.where(labels == 0, -1, -2))
    assert torch.equal(match_anchors(anchors, boxes, (0.4, 0.5)), expected)


def test_losses_follow_their_definition_anchor_by_anchor():
    generator = make_generator()
    output, locations = generator.head_output(features())
    ground_truth = [instances(boxes) for boxes in GROUND_TRUTH]
    losses, positives = generator.losses(output, locations, ground_truth)
    anchors = generator.anchors(locations)
    logits, deltas = flatten_levels(output.logits), flatten_levels(output.distances)
    cls, box, count = 0.0, 0.0, 0
    for i, x in enumerate(ground_truth):
        matched = match_anchors(anchors, x.gt_boxes.tensor, (0.4, 0.5))
        target = torch.zeros(len(anchors), 3)
        positive = matched >= 0
        target[positive, x.gt_classes[matched[positive]]] = 1
        used = matched != -2
        cls += sigmoid_focal_loss(logits[i][used], target[used], alpha=0.25, gamma=2, reduction="sum")
        wanted = encode_boxes(anchors[positive], x.gt_boxes.tensor[matched[positive]], (1.0,) * 4)
        difference = (deltas[i][positive] - wanted).abs()
        box += torch.where(difference < 0.1, difference**2 / 0.2, difference - 0.05).sum()
        count += int(positive.sum())
    assert count == len(positives.image) > 5
    torch.testing.assert_close(losses["loss_cls"], cls / count)
    torch.testing.assert_close(losses["loss_box_reg"], box / count)


def test_detections_follow_their_definition():
    generator = make_generator()
    with torch.no_grad():
        generator.retinanet_head.cls_logits.bias.fill_(-1.0)
        generator.retinanet_head.cls_logits.weight.mul_(30)
        output, locations = generator.head_output(features())
        found = generator.detect(output, locations)
    boxes = decode_boxes(generator.anchors(locations), flatten_levels(output.distances), (1.0,) * 4)
    scores = flatten_levels(output.logits).sigmoid()
    for i in range(2):
        anchor, label = (scores[i] > 0.05).nonzero(as_tuple=True)
        score = scores[i][anchor, label]
        keep = batched_nms(boxes[i][anchor], score, label, 0.5)[:20]
        n = int(found.valid[i].sum())
        assert n == len(keep) > 5
        torch.testing.assert_close(found.scores[i, :n], score[keep])
        torch.testing.assert_close(found.boxes[i, :n], boxes[i][anchor[keep]])


def test_a_few_steps_teach_it_where_the_objects_are():
    """On two fixed maps, losses fall and the objects are found with their classes."""
    generator = make_generator(channels=32)
    maps = features(channels=32)
    ground_truth = [instances(boxes) for boxes in GROUND_TRUTH]
    optimizer = torch.optim.Adam(generator.parameters(), lr=0.01)
    first = None
    for _ in range(60):
        losses, _ = generator.losses(*generator.head_output(maps), ground_truth)
        total = sum(losses.values())
        first = first or total.item()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert math.isfinite(total.item()) and total.item() < 0.3 * first
    with torch.no_grad():
        found = generator.eval().detect(*generator.head_output(maps))
    for i, x in enumerate(ground_truth):
        n = int(found.valid[i].sum())
        iou = box_iou(x.gt_boxes.tensor, found.boxes[i, :n])
        same = x.gt_classes[:, None] == found.classes[i, :n]
        assert (iou * same).amax(dim=1).min() > 0.5


def test_levels_and_strides_must_match():
    generator = make_generator()
    with pytest.raises(UserError, match=r"as many FPN_STRIDES as IN_FEATURES; got \[8\] and \['p3', 'p4'\]"):
        RetinaNet(
            head=generator.retinanet_head,
            in_features=["p3", "p4"],
            strides=[8],
            num_classes=3,
            shapes=generator.shapes,
            iou_thresholds=(0.4, 0.5),
            delta_weights=(1.0,) * 4,
            smooth_l1_beta=0.1,
            focal_alpha=0.25,
            focal_gamma=2.0,
            limits=LIMITS,
        )
