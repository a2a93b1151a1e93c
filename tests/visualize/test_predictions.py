from types import SimpleNamespace

import numpy as np
import pytest
import torch

from adet_ext.d2.structures import Boxes, BoxMode, Instances
from adet_ext.visualize import drawing
from adet_ext.visualize.blending import BASIS_COLORS, attention_picture, basis_picture, draw_blending
from adet_ext.visualize.predictions import (
    ColorTracker,
    annotation_mask,
    compare,
    draw_ground_truth,
    draw_instances,
    draw_outputs,
    draw_panoptic,
)

NAMES = SimpleNamespace(
    thing_classes=["cat", "dog"], stuff_classes=["sky", "sea"], stuff_colors=[(0, 0, 255), (9, 99, 9)]
)


def gray(height=60, width=80):
    return np.full((height, width, 3), 128, dtype=np.uint8)


def instances(*boxes, size=(60, 80), scores=None, classes=None):
    result = Instances(size)
    result.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float).reshape(-1, 4))
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes):
        mask[y0:y1, x0:x1] = True
    result.pred_masks = masks
    result.scores = torch.tensor(scores if scores is not None else [0.9] * len(boxes))
    result.pred_classes = torch.tensor(classes if classes is not None else [0] * len(boxes), dtype=torch.long)
    return result


def test_drawing_changes_only_masked_pixels_of_a_copy():
    image = gray()
    picture = draw_instances(image, instances((20, 30, 50, 55)))
    assert (image == 128).all()
    assert picture.shape == image.shape and picture.dtype == np.uint8
    assert (picture[40, 35] != 128).any()  # inside
    assert (picture[:, :3] == 128).all()  # far outside, where no label reaches


def test_no_instances_give_the_image_back():
    assert np.array_equal(draw_instances(gray(), instances()), gray())


def test_the_best_instance_lies_on_top():
    picture = draw_instances(gray(), instances((10, 20, 50, 55), (10, 20, 50, 55), scores=[0.99, 0.5]))
    alone = draw_instances(gray(), instances((10, 20, 50, 55), scores=[0.99]))
    red = drawing.PALETTE[0]
    assert np.argmax(picture[45, 30]) == np.argmax(alone[45, 30]) == np.argmax(red)


def test_scale_enlarges_the_picture():
    assert draw_instances(gray(), instances((1, 1, 9, 9)), scale=3).shape == (180, 240, 3)


def test_boxes_are_drawn_where_there_are_no_masks():
    found = instances((20, 30, 50, 55))
    found.remove("pred_masks")
    picture = draw_instances(gray(), found)
    assert (picture[54, 30] != 128).any() and (picture[45, 35] == 128).all()


def test_panoptic_stuff_has_the_data_sets_color_and_void_stays():
    ids = torch.zeros(60, 80, dtype=torch.int32)
    ids[30:], ids[35:50, 10:40] = 1, 2
    info = [{"id": 1, "category_id": 1, "isthing": False}, {"id": 2, "category_id": 0, "isthing": True}]
    picture = draw_panoptic(gray(), ids, info, NAMES)
    assert (picture[:10] == 128).all()
    assert np.argmax(picture[57, 70]) == 1  # (9, 99, 9) is green


def test_every_kind_of_output_has_its_picture():
    found = instances((10, 10, 40, 40))
    ids = torch.ones(60, 80, dtype=torch.int32)
    info = [{"id": 1, "category_id": 0, "isthing": False}]
    for outputs in ({"instances": found}, {"panoptic_seg": (ids, info)}, {"sem_seg": torch.rand(2, 60, 80)}):
        metadata = NAMES if "sem_seg" not in outputs else _catalog()
        picture = draw_outputs(gray(), outputs, metadata)
        assert picture.shape == (60, 80, 3) and (picture != 128).any()
    with pytest.raises(ValueError, match="got .*proposals"):
        draw_outputs(gray(), {"proposals": None}, NAMES)


def _catalog():
    from adet_ext.d2.data import MetadataCatalog

    return MetadataCatalog.get("visualize_test").set(stuff_classes=["sky", "sea"])


@pytest.mark.parametrize("kind", ["polygons", "runs", "compressed", "array"])
def test_masks_of_annotations_of_every_kind_are_the_same(kind):
    from pycocotools import mask as coco_mask

    expected = np.zeros((20, 30), dtype=np.uint8)
    expected[5:15, 10:20] = 1
    polygons = [[10, 5, 20, 5, 20, 15, 10, 15]]
    compressed = coco_mask.encode(np.asfortranarray(expected))
    runs = {"size": [20, 30], "counts": [205] + [10, 10] * 9 + [10, 205]}
    given = {"polygons": polygons, "runs": runs, "compressed": compressed, "array": expected}[kind]
    assert np.array_equal(annotation_mask(given, 20, 30), expected.astype(bool))


def record(*boxes):
    return {
        "annotations": [
            {"bbox": [x0, y0, x1 - x0, y1 - y0], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0,
             "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]]}
            for x0, y0, x1, y1 in boxes
        ]
    }  # fmt: skip


def test_ground_truth_is_drawn_with_or_without_masks():
    with_masks = record((10, 20, 40, 50))
    picture = draw_ground_truth(gray(), with_masks, NAMES.thing_classes)
    assert (picture[40, 25] != 128).any()
    del with_masks["annotations"][0]["segmentation"]
    picture = draw_ground_truth(gray(), with_masks, NAMES.thing_classes)
    assert (picture[40, 25] == 128).all() and (picture[49, 25] != 128).any()
    assert np.array_equal(draw_ground_truth(gray(), {}), gray())


def test_a_comparison_has_three_panels():
    picture = compare(gray(), record((10, 20, 40, 50)), {"instances": instances((11, 20, 41, 50))}, NAMES)
    assert picture.shape[1] == 3 * 80 + 4 * 12
    assert compare(gray(), {}, {"instances": instances()}, NAMES).shape == picture.shape


def test_moving_instances_keep_their_color_and_new_ones_get_another():
    tracker = ColorTracker()
    first = tracker(instances((0, 0, 20, 20), (40, 0, 60, 20)))
    second = tracker(instances((42, 1, 62, 21), (2, 0, 22, 20), (10, 40, 30, 60)))
    assert first[0] != first[1]
    assert second[:2] == first[::-1] and second[2] not in first


def test_colors_repeat_only_when_the_palette_is_used_up():
    boxes = [(i, 0, i + 1, 1) for i in range(len(drawing.PALETTE) + 3)]
    colors = ColorTracker()(instances(*boxes))
    assert len(set(colors[: len(drawing.PALETTE)])) == len(drawing.PALETTE) and len(colors) == len(boxes)
    assert ColorTracker()(instances()) == []


def test_labels_stay_inside_the_image_and_do_not_cover_each_other():
    canvas = np.zeros((100, 200, 3), dtype=np.uint8)
    colors = [(255, 0, 0), (0, 255, 0)]
    boxes = [(150, 0, 199, 30), (150, 0, 199, 30)]
    both = drawing.draw_labels(canvas, boxes, ["first", "second"], colors, 12)
    alone = drawing.draw_labels(canvas, boxes[1:], ["second"], colors[1:], 12)
    green = lambda picture: ((picture[..., 1] > 200) & (picture[..., 0] < 60)).sum()  # noqa: E731
    assert green(both) == green(alone) > 0


def test_a_sheet_holds_every_panel_and_refuses_none():
    panels = [np.full((20, 30, 3), value, dtype=np.uint8) for value in (10, 90, 170)]
    picture = drawing.sheet(panels, ["a", "b", "a caption far too long for its panel"], columns=2, gap=4, size=10)
    assert all((picture == value).all(-1).sum() >= 600 for value in (10, 90, 170))
    with pytest.raises(ValueError):
        drawing.sheet([])


def test_a_point_of_one_basis_has_its_color():
    attentions = torch.full((1, 4, 7, 7), -20.0)
    attentions[0, 2] = 20.0
    picture = attention_picture(gray(), attentions, torch.tensor([[10.0, 10.0, 50.0, 50.0]]))
    assert np.abs(picture[30, 30] / np.array(BASIS_COLORS[2]) - 0.88).max() < 0.25
    assert (picture[5, 5] < 70).all()  # outside the boxes the image is dimmed


def test_a_basis_runs_from_black_to_white():
    picture = basis_picture(torch.linspace(-3, 5, 64).reshape(8, 8), (235, 60, 55), (64, 64))
    assert picture[0, 0].max() < 20 and picture[-1, -1].min() > 230


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_blending_shows_every_basis(count):
    found = instances((10, 10, 40, 40))
    arguments = dict(masks=found.pred_masks, scale=2)
    boxes, bases = found.pred_boxes.tensor, torch.randn(count, 15, 20)
    picture = draw_blending(gray(), bases, torch.randn(1, count, 5, 5), boxes, **arguments)
    flat = draw_blending(gray(), bases, torch.randn(1, count * 25), boxes, **arguments)
    assert picture.shape == flat.shape
    assert draw_blending(gray(), bases, torch.zeros(0, count * 25), boxes[:0], masks=found.pred_masks[:0]).size
    with pytest.raises(ValueError, match="bases"):
        draw_blending(gray(), bases, torch.randn(1, count * 25 + 1), boxes)
