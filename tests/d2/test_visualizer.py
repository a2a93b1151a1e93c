"""Pictures: what is drawn where, whatever form masks and boxes come in."""

import types

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from PIL import Image

from adet_ext.d2 import ENGINE
from adet_ext.d2.embedded.utils.canvas import VisImage as EmbeddedVisImage
from adet_ext.d2.embedded.utils.canvas import palette
from adet_ext.d2.structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks
from adet_ext.d2.utils import ColorMode, Visualizer

embedded_only = pytest.mark.skipif(ENGINE != "embedded", reason="Detectron2 draws in another style")

H, W = 240, 400
METADATA = types.SimpleNamespace(
    thing_classes=["cat", "dog"],
    thing_colors=[(255, 0, 0), (0, 0, 255)],
    stuff_classes=["sky", "grass"],
    stuff_colors=[(0, 255, 255), (0, 160, 0)],
    get=lambda name, default=None: getattr(METADATA, name, default),
)


def _grey():
    return np.full((H, W, 3), 128, dtype=np.uint8)


def _square():
    mask = np.zeros((H, W), dtype=bool)
    mask[80:200, 120:280] = True
    return mask


def _predictions():
    instances = Instances((H, W))
    instances.pred_boxes = Boxes(torch.tensor([[120.0, 80, 280, 200]]))
    instances.pred_masks = torch.as_tensor(_square())[None]
    instances.pred_classes = torch.tensor([0])
    instances.scores = torch.tensor([0.93])
    return instances


def _changed(image):
    return (image.astype(int) != 128).any(axis=2)


@pytest.mark.parametrize("mode", list(ColorMode))
def test_predictions_colour_their_mask_and_leave_the_rest(mode):
    image = Visualizer(_grey(), METADATA, instance_mode=mode).draw_instance_predictions(_predictions()).get_image()
    assert image.shape == (H, W, 3) and image.dtype == np.uint8
    changed = _changed(image)
    assert changed[_square()].mean() > 0.95
    assert not changed[216:].any() and not changed[:, 360:].any()


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.5])
def test_the_picture_has_the_scale_asked_for(scale, tmp_path):
    output = Visualizer(_grey(), METADATA, scale=scale).draw_instance_predictions(_predictions())
    assert output.get_image().shape == (round(H * scale), round(W * scale), 3)
    output.save(str(tmp_path / "picture.png"))
    assert Image.open(tmp_path / "picture.png").size == (round(W * scale), round(H * scale))


def test_no_instances_leave_the_image_as_it_is():
    empty = _predictions()[torch.zeros(1, dtype=torch.bool)]
    assert not _changed(Visualizer(_grey(), METADATA).draw_instance_predictions(empty).get_image()).any()
    assert not _changed(Visualizer(_grey(), METADATA).draw_dataset_dict({"annotations": []}).get_image()).any()


def test_all_forms_of_masks_cover_the_same_pixels():
    mask = _square()
    polygon = [120.0, 80.0, 280.0, 80.0, 280.0, 200.0, 120.0, 200.0]
    rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
    runs = [120 * H + 80] + [120, H - 120] * 159 + [120]
    uncompressed = {"size": [H, W], "counts": runs + [H * W - sum(runs)]}
    forms = {
        "array": [mask],
        "run lengths": [rle],
        "uncompressed run lengths": [uncompressed],
        "polygons": [[np.array(polygon)]],
        "bit masks": BitMasks(torch.as_tensor(mask)[None]),
        "polygon masks": PolygonMasks([[polygon]]),
    }
    for name, masks in forms.items():
        image = Visualizer(_grey()).overlay_instances(masks=masks, assigned_colors=["r"]).get_image()
        changed = _changed(image)
        assert changed[mask].all(), name
        assert not changed[:76].any() and not changed[:, 285:].any(), name


def test_annotations_of_a_data_set_are_drawn():
    record = {
        "annotations": [
            {
                "bbox": [120, 80, 160, 120],
                "bbox_mode": BoxMode.XYWH_ABS,
                "segmentation": [[120, 80, 280, 80, 280, 200, 120, 200]],
                "category_id": 1,
                "iscrowd": 0,
            },
            {
                "bbox": [0, 0, 5, 5],
                "bbox_mode": BoxMode.XYXY_ABS,
                "segmentation": mask_util.encode(np.asfortranarray(np.eye(H, W, dtype=np.uint8))),
                "category_id": 0,
                "iscrowd": 1,
            },
        ]
    }
    image = Visualizer(_grey(), METADATA).draw_dataset_dict(record).get_image()
    assert _changed(image)[_square()].mean() > 0.95


def test_semantic_labels_take_the_colours_of_their_classes(tmp_path):
    labels = np.full((H, W), 255, dtype=np.uint8)
    labels[:80], labels[160:] = 0, 1
    Image.fromarray(labels).save(tmp_path / "labels.png")
    for record in ({"sem_seg": labels}, {"sem_seg_file_name": str(tmp_path / "labels.png")}):
        image = Visualizer(_grey(), METADATA).draw_dataset_dict(record).get_image().astype(int)
        assert not _changed(image)[84:156].any()
        sky, grass = image[20, 20], image[220, 20]
        assert sky[2] > 150 > sky[0] + 50 and grass[1] > grass[0] + 50 and grass[1] > grass[2] + 50


def test_panoptic_labels_show_stuff_and_things():
    segments = torch.zeros((H, W), dtype=torch.int64)
    segments[:80] = 5
    segments[_square()] = 9
    known = [{"id": 5, "category_id": 0, "isthing": False}, {"id": 9, "category_id": 1, "isthing": True}]
    image = Visualizer(_grey(), METADATA).draw_panoptic_seg(segments, known, area_threshold=0).get_image()
    changed = _changed(image)
    assert changed[:76].all() and changed[_square()].mean() > 0.95 and not changed[216:].any()


def test_single_things_are_drawn_on_demand():
    visualizer = Visualizer(_grey())
    visualizer.draw_box((10, 10, 90, 90), edge_color="r")
    visualizer.draw_text("hello", (340, 120), color="w")
    visualizer.draw_binary_mask(_square(), color=(0.0, 0.0, 1.0), text="square")
    changed = _changed(visualizer.get_output().get_image())
    assert changed[9:12, 20:80].any(axis=0).all() and changed[100:140, 320:360].any() and changed[190, 200]


@embedded_only
def test_wrong_masks_and_counts_are_refused():
    with pytest.raises(ValueError, match="not a mask for an image of 240 x 400"):
        Visualizer(_grey()).overlay_instances(masks=[np.zeros((3, 3))])
    with pytest.raises(ValueError, match="different numbers"):
        Visualizer(_grey()).overlay_instances(boxes=np.zeros((2, 4)), labels=["one"])
    with pytest.raises(ValueError, match="Detectron2"):
        Visualizer(_grey()).overlay_instances(boxes=np.zeros((2, 5)))


@embedded_only
def test_the_same_predictions_make_the_same_picture():
    pictures = [Visualizer(_grey(), METADATA).draw_instance_predictions(_predictions()).get_image() for _ in "ab"]
    assert np.array_equal(*pictures)


def test_neighbouring_colours_differ():
    colors = np.array([palette(i) for i in range(40)])
    for gap in (1, 2, 3):
        assert np.abs(colors[gap:] - colors[:-gap]).sum(axis=1).min() > 60


def test_labels_stay_inside_the_picture():
    for point in ((-50, -50), (190, 2), (100, 119), (500, 500)):
        canvas = EmbeddedVisImage(np.zeros((120, 200, 3), dtype=np.uint8))
        canvas.label("label", point, palette(0))
        alone = EmbeddedVisImage(np.zeros((120, 200, 3), dtype=np.uint8))
        alone.label("label", (100, 60), palette(0))
        assert canvas.get_image().sum() == alone.get_image().sum()
    tiny = EmbeddedVisImage(np.zeros((4, 4, 3), dtype=np.uint8))
    tiny.label("a label larger than its picture", (2, 2), palette(0))
    assert tiny.get_image().any()
