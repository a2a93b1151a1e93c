"""The unified panoptic layer: embeddings, targets, loss, and the way to segments."""

import pytest
import torch
from torch.nn import functional as F

from adet_ext.d2.structures import BitMasks, Boxes, Instances, PolygonMasks
from adet_ext.modeling.mask import unified_panoptic
from adet_ext.modeling.mask.dr1prediction import FactoredPrediction, VectorPrediction
from adet_ext.modeling.mask.unified_inference import UnifiedMerger
from adet_ext.modeling.mask.unified_panoptic import UnifiedPanoptic, mean_embeddings, panoptic_targets

WIDTH, STUFF, STRIDE = 6, 2, 4
CROP = {"size": 8, "scale": 1 / STRIDE, "sampling_ratio": 1, "pooler_type": "ROIAlignV2"}


def layer(**choices) -> UnifiedPanoptic:
    torch.manual_seed(0)
    made = UnifiedPanoptic(width=WIDTH, num_stuff=STUFF, stride=STRIDE, loss_weight=1.0, **choices)
    torch.nn.init.normal_(made.stuff.weight)
    return made


def objects(boxes: list[list[int]], height: int = 32, width: int = 40) -> Instances:
    """Rectangles."""
    masks = torch.zeros(len(boxes), height, width, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes):
        mask[y0:y1, x0:x1] = True
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).view(-1, 4))
    instances.gt_masks = BitMasks(masks)
    instances.gt_classes = torch.zeros(len(boxes), dtype=torch.int64)
    return instances


def test_an_object_has_the_mean_embedding_of_its_locations():
    embeddings = torch.tensor([[1.0, 2], [3, 4], [10, 20], [5, 0]])
    means, found = mean_embeddings(embeddings, torch.tensor([2, 2, 0, 2]), 4)
    assert means.tolist() == [[10, 20], [0, 0], [3, 2], [0, 0]]
    assert found.tolist() == [True, False, True, False]


def test_the_mean_of_many_embeddings_is_precise_in_half_precision():
    # bfloat16 counts to 256.
    means, _ = mean_embeddings(torch.ones(600, 2, dtype=torch.bfloat16), torch.zeros(600, dtype=torch.int64), 1)
    assert means.dtype == torch.bfloat16 and (means == 1).all()


def test_targets_are_stuff_or_the_smallest_instance_with_an_embedding():
    # Stride 4: places in the middle of 4 x 4 pixels. Three rectangles; the second lies in the first, the third has no
    # embedding, and the last two columns of places are no thing.
    instances = objects([[0, 0, 24, 16], [4, 4, 12, 12], [24, 0, 32, 8]], 16, 40)
    labels = torch.zeros(16, 40, dtype=torch.int64)
    labels[:, 32:36], labels[:, 36:] = 1, 2
    labels[12:, 36:] = 255
    labels[12:, :4] = 2  # what the labels call stuff is stuff, whatever lies over it
    found = panoptic_targets(instances, labels, 2, 4, 255, torch.tensor([True, True, False]))
    assert found.tolist() == [
        [2, 2, 2, 2, 2, 2, -1, -1, 0, 1],
        [2, 3, 3, 2, 2, 2, -1, -1, 0, 1],
        [2, 3, 3, 2, 2, 2, -1, -1, 0, 1],
        [1, 2, 2, 2, 2, 2, -1, -1, 0, -1],
    ]
    # Without the first one's embedding the second takes its channel number.
    fewer = panoptic_targets(instances, labels, 2, 4, 255, torch.tensor([False, True, False]))
    assert fewer[1].tolist() == [-1, 2, 2, -1, -1, -1, -1, -1, 0, 1]


def test_polygons_give_the_targets_of_bitmaps():
    instances = objects([[0, 0, 24, 16], [4, 4, 12, 12]], 18, 41)
    labels = torch.zeros(18, 41, dtype=torch.int64)
    present = torch.tensor([True, True])
    from_bits = panoptic_targets(instances, labels, 2, 4, 255, present)
    corners = [[[0, 0, 24, 0, 24, 16, 0, 16]], [[4, 4, 12, 4, 12, 12, 4, 12]]]
    instances.gt_masks = PolygonMasks(corners)
    assert from_bits.shape == (5, 11)
    assert torch.equal(panoptic_targets(instances, labels, 2, 4, 255, present), from_bits)


def test_what_a_mask_has_beyond_its_box_is_nobodys():
    instances = Instances((16, 16))
    instances.gt_boxes = Boxes(torch.tensor([[0.0, 0.0, 9.5, 16.0]]))
    masks = torch.zeros(1, 16, 16, dtype=torch.bool)
    masks[:, :, :11] = True  # the middle of the third cell, at 10, is in the mask and not in the box
    instances.gt_masks = BitMasks(masks)
    labels = torch.zeros(16, 16, dtype=torch.int64)
    labels[:, 11:] = 2
    found = panoptic_targets(instances, labels, 2, 4, 255, torch.tensor([True]))
    assert found.tolist() == [[2, 2, -1, 1]] * 4


def loss_inputs(prediction):
    torch.manual_seed(1)
    bases = torch.randn(2, WIDTH, 8, 10, requires_grad=True)
    embeddings = torch.randn(5, prediction.embedding_length, requires_grad=True)
    instances = [objects([[2, 2, 21, 30], [15, 10, 38, 29]]), objects([[0, 0, 12, 12], [20, 4, 36, 31]])]
    labels = [torch.ones(32, 40, dtype=torch.int64), torch.full((32, 40), 2)]
    for x, label in zip(instances, labels):
        label[x.gt_masks.tensor.any(dim=0)] = 0
    labels[0][:, :4] = 255
    return bases, embeddings, torch.tensor([0, 0, 1, 3, 3]), instances, labels


PREDICTIONS = {
    "vector": VectorPrediction(width=WIDTH, crop=CROP),
    "factored": FactoredPrediction(
        width=WIDTH, num_bases=4, side=4, rank=2, softmax=True, top_interp="bilinear", crop=CROP
    ),
}


@pytest.mark.parametrize("kind", list(PREDICTIONS))
@pytest.mark.parametrize("in_box", [True, False])
def test_the_loss_is_the_cross_entropy_of_the_unified_logits(kind, in_box):
    made, prediction = layer(in_box_train=in_box), PREDICTIONS[kind]
    bases, embeddings, owners, instances, labels = loss_inputs(prediction)
    loss = made.loss(prediction, bases, embeddings, owners, instances, labels)["loss_panoptic"]
    groups = [[embeddings[:2].mean(0), embeddings[2]], [embeddings[3:].mean(0)]]
    boxes = [instances[0].gt_boxes.tensor, instances[1].gt_boxes.tensor[1:]]
    present = [torch.tensor([True, True]), torch.tensor([False, True])]
    logits, targets = [], []
    for i in range(2):
        stuff = made.stuff(bases[i : i + 1])[0]
        things = prediction.over_image(bases[i], torch.stack(groups[i]), boxes[i])
        if in_box:
            outside = torch.ones_like(things, dtype=torch.bool)
            for region, (x0, y0, x1, y1) in zip(outside, boxes[i]):
                ys, xs = (4 * torch.arange(n) + 2 for n in region.shape)
                region &= ~((ys[:, None] >= y0) & (ys[:, None] <= y1) & (xs >= x0) & (xs <= x1))
            things = things.masked_fill(outside, -1e4)
        logits.append(F.pad(torch.cat([stuff, things]).flatten(1), (0, 0, 0, 1 if i else 0), value=-1e9))
        targets.append(panoptic_targets(instances[i], labels[i], STUFF, STRIDE, 255, present[i]).flatten())
    expected = F.cross_entropy(torch.cat(logits, dim=1).T, torch.cat(targets), ignore_index=-1)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("kind", list(PREDICTIONS))
def test_strips_of_any_height_give_the_same_loss_and_gradients(kind, monkeypatch):
    made, prediction = layer(), PREDICTIONS[kind]
    results = []
    for strip in (2**22, 300):
        monkeypatch.setattr(unified_panoptic, "STRIP", strip)
        bases, embeddings, *rest = loss_inputs(prediction)
        loss = made.loss(prediction, bases, embeddings, *rest)["loss_panoptic"]
        results.append([loss, *torch.autograd.grad(loss, [bases, embeddings, made.stuff.weight])])
    for whole, strips in zip(*results):
        torch.testing.assert_close(strips, whole)


def test_memory_of_the_loss_does_not_grow_with_the_instances():
    """What is kept for the backward pass is the bases and the targets, whatever the number of instances."""

    def kept(count: int) -> int:
        made, prediction = layer(), PREDICTIONS["vector"]
        generator = torch.Generator().manual_seed(0)
        corners = torch.randint(0, 100, (count, 2), generator=generator)
        instances = [objects(torch.cat([corners, corners + 20], 1).tolist(), 128, 128)]
        bases = torch.randn(1, WIDTH, 32, 32, requires_grad=True)
        embeddings = torch.randn(count, WIDTH, requires_grad=True)
        total = 0

        def pack(x):
            nonlocal total
            total += x.numel() * x.element_size()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            made.loss(prediction, bases, embeddings, torch.arange(count), instances, [torch.zeros(128, 128).long()])
        return total

    few, many = kept(2), kept(100)
    assert many - few < 32 * 32 * 4 * 8  # the logits alone would be 32 * 32 * 4 * 98


def test_segment_balance_weighs_small_and_large_segments_equally():
    target = torch.tensor([[0, 0, 0, 2], [0, 0, -1, -1]])
    assert layer(loss_balance="pixel")._weights(target).tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    weights = layer(loss_balance="segment")._weights(target)
    torch.testing.assert_close(weights, torch.tensor([[0.2, 0.2, 0.2, 1], [0.2, 0.2, 0, 0]]))


def test_an_image_without_objects_teaches_stuff_alone():
    made, prediction = layer(), PREDICTIONS["vector"]
    bases = torch.randn(1, WIDTH, 8, 10, requires_grad=True)
    embeddings = torch.zeros(0, WIDTH, requires_grad=True)
    labels = [torch.ones(32, 40, dtype=torch.int64)]
    nothing = torch.zeros(0, dtype=torch.int64)
    loss = made.loss(prediction, bases, embeddings, nothing, [objects([])], labels)["loss_panoptic"]
    torch.testing.assert_close(loss, F.cross_entropy(made.stuff(bases), torch.zeros(1, 8, 10, dtype=torch.int64)))
    ignored = made.loss(prediction, bases, embeddings, nothing, [objects([])], [torch.full((32, 40), 255)])
    assert ignored["loss_panoptic"] == 0
    ignored["loss_panoptic"].backward()
    assert embeddings.grad is not None and made.stuff.weight.grad is not None


MERGER = {"confidence_threshold": 0.2, "overlap_threshold": 0.4, "stuff_area_limit": 10}


def scene(classes: torch.Tensor) -> tuple[UnifiedPanoptic, torch.Tensor]:
    """A layer and bases (D, h, w) that say the channel of each place: basis d is high where classes == d."""
    made = layer().eval()
    torch.nn.init.zeros_(made.stuff.weight)
    torch.nn.init.zeros_(made.stuff.bias)
    for c in range(STUFF):
        made.stuff.weight.data[c, c] = 1
    return made, F.one_hot(classes, WIDTH).permute(2, 0, 1).float() * 10


def detections(size, boxes, scores) -> Instances:
    instances = Instances(size)
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).view(-1, 4))
    instances.scores = torch.tensor(scores)
    instances.pred_classes = torch.arange(len(scores)) + 7
    return instances


CLASSES = torch.zeros(8, 10, dtype=torch.int64)
CLASSES[:, 5:] = 1
CLASSES[2:6, 1:4] = 2
CLASSES[3:7, 6:9] = 3
BOXES = [[4, 8, 16, 24], [24, 12, 36, 28]]


@pytest.mark.usefixtures("merging")
def test_segments_are_where_the_bases_say_they_are():
    made, bases = scene(CLASSES)
    embeddings = torch.eye(WIDTH)[2:4]
    found = detections((32, 40), BOXES, [0.9, 0.8])
    sem_seg, (ids, segments) = UnifiedMerger(**MERGER)(made, PREDICTIONS["vector"], bases, embeddings, found, (32, 40))
    assert [(s["id"], s["isthing"], s["category_id"]) for s in segments] == [
        (1, True, 7), (2, True, 8), (3, False, 1), (4, False, 2)
    ]  # fmt: skip
    expected = torch.tensor([3, 4, 1, 2])[CLASSES]
    assert torch.equal(ids[2::4, 2::4].long(), expected)
    assert ids.shape == (32, 40) and ids.dtype == torch.int32
    assert segments[2]["area"] == (ids == 3).sum() and segments[0]["score"] == pytest.approx(0.9)
    assert torch.equal(sem_seg.argmax(dim=0), torch.tensor([0, 0, 0, 1, 2])[ids.long()])
    assert sem_seg.shape == (STUFF + 1, 32, 40)


@pytest.mark.parametrize("size", [(64, 80), (16, 20), (45, 77)])
@pytest.mark.parametrize("image_size", [(32, 40), (30, 37)])
def test_the_result_is_the_argmax_of_the_enlarged_logits(size, image_size):
    """Against the plain computation: enlarge all channels to pixels, cut the padding, resize, take the argmax."""
    torch.manual_seed(3)
    made, prediction = layer(in_box_test=False).eval(), PREDICTIONS["vector"]
    bases = torch.randn(WIDTH, 8, 10)
    embeddings = torch.randn(3, WIDTH)
    found = detections(size, [[0, 0, size[1], size[0]]] * 3, [0.9, 0.8, 0.7])
    merger = UnifiedMerger(confidence_threshold=0.2, overlap_threshold=1.0, stuff_area_limit=0)
    _, (ids, segments) = merger(made, prediction, bases, embeddings, found, image_size)
    logits = made.logits(prediction, bases, embeddings, found.pred_boxes.tensor)
    scale = [4 * size[i] / image_size[i] for i in (0, 1)]
    ys, xs = ((torch.arange(size[i]) + 0.5) / scale[i] - 0.5 for i in (0, 1))
    last = [-(-image_size[i] // 4) - 1 for i in (0, 1)]
    fine = _sample(logits, ys.clamp(0, last[0]), xs.clamp(0, last[1]))
    channel_of = {0: -1}
    for s in segments:
        channel_of[s["id"]] = STUFF + s["category_id"] - 7 if s["isthing"] else s["category_id"] - 1
    ours = torch.tensor([channel_of[i] for i in ids.flatten().tolist()]).view(size)
    chosen, best = fine.gather(0, ours[None])[0], fine.amax(dim=0)
    torch.testing.assert_close(chosen, best, rtol=1e-4, atol=1e-4)


def _sample(x: torch.Tensor, ys: torch.Tensor, xs: torch.Tensor) -> torch.Tensor:
    """Bilinear values of (C, h, w) at rows ys and columns xs: (C, H, W)."""
    y0, x0 = ys.floor().long(), xs.floor().long()
    y1, x1 = (y0 + 1).clamp(max=x.shape[1] - 1), (x0 + 1).clamp(max=x.shape[2] - 1)
    fy, fx = (ys - y0)[:, None], xs - x0
    rows = [x[:, a][:, :, x0] * (1 - fx) + x[:, a][:, :, x1] * fx for a in (y0, y1)]
    return rows[0] * (1 - fy) + rows[1] * fy


@pytest.mark.usefixtures("merging")
def test_unsure_and_duplicate_detections_are_dropped():
    made, bases = scene(CLASSES)
    embeddings = torch.eye(WIDTH)[[2, 2, 3, 2]] * torch.tensor([1, 1.5, 1, 3])[:, None]
    found = detections((32, 40), [BOXES[0], BOXES[0], BOXES[1], BOXES[0]], [0.9, 0.8, 0.7, 0.1])
    _, (ids, segments) = UnifiedMerger(**MERGER)(made, PREDICTIONS["vector"], bases, embeddings, found, (32, 40))
    assert [s["instance_id"] for s in segments if s["isthing"]] == [0, 2]
    assert torch.equal(ids[2::4, 2::4].long(), torch.tensor([3, 4, 1, 2])[CLASSES])


@pytest.mark.usefixtures("merging")
def test_little_stuff_is_void():
    made, bases = scene(CLASSES)
    merger = UnifiedMerger(**{**MERGER, "stuff_area_limit": 10_000})
    sem_seg, (ids, segments) = merger(
        made, PREDICTIONS["vector"], bases, torch.eye(WIDTH)[2:4], detections((32, 40), BOXES, [0.9, 0.8]), (32, 40)
    )
    assert [s["isthing"] for s in segments] == [True, True]
    assert (ids == 0).sum() > 600 and (sem_seg.argmax(dim=0) == 0).all()


def test_an_instance_keeps_to_its_box_if_asked_to():
    made, bases = scene(CLASSES)
    bases[2, 0, 0] = 100  # something alike, far away
    embeddings, found = torch.eye(WIDTH)[2:3], detections((32, 40), BOXES[:1], [0.9])
    results = []
    for made.in_box_test in (True, False):
        _, (ids, _) = UnifiedMerger(**MERGER)(made, PREDICTIONS["vector"], bases, embeddings, found, (32, 40))
        results.append(ids[2, 2].item())
    assert results == [2, 1]


@pytest.mark.usefixtures("merging")
def test_without_detections_there_is_stuff():
    made, bases = scene(CLASSES.clamp(max=1))
    found = detections((32, 40), [], [])
    none = torch.zeros(0, WIDTH)
    _, (ids, segments) = UnifiedMerger(**MERGER)(made, PREDICTIONS["vector"], bases, none, found, (32, 40))
    assert [s["category_id"] for s in segments] == [1, 2]
    assert torch.equal(ids[2::4, 2::4].long() - 1, CLASSES.clamp(max=1))
