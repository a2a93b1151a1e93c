"""The demo on panoptic models, BlendMask and DR1Mask: overlays of panoptic maps, instances as JSON."""

import json

import cv2
import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from adet_ext import load_config
from adet_ext.cli import demo
from adet_ext.cli.inputs import load_predictor
from adet_ext.d2.data import MetadataCatalog
from adet_ext.d2.modeling import build_model
from adet_ext.data.shapes import ShapesSpec, shapes_image
from adet_ext.visualize.predictions import draw_panoptic

# The models of configs/demo, with few channels and without training. All scores count, and stuff of any size.
SMALL = [
    *("MODEL.FPN.OUT_CHANNELS", "16", "MODEL.FCOS.NUM_CLS_CONVS", "1", "MODEL.FCOS.NUM_BOX_CONVS", "1"),
    *("MODEL.SEM_SEG_HEAD.CONVS_DIM", "16", "MODEL.DR1MASK.WIDTH", "8", "MODEL.FCOS.INFERENCE_TH_TEST", "0.0"),
    *("MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT", "1"),
]
CONFIGS = ["demo/shapes_panoptic_R_18.yaml", "demo/shapes_dr1mask_panoptic_R_18.yaml"]


@pytest.fixture
def model(request, tmp_path):
    """The command line of a model whose weights are on the disk."""
    torch.manual_seed(3)
    built = build_model(load_config(request.param, SMALL))
    torch.save({"model": built.state_dict()}, tmp_path / "model.pth")
    return request.param, [*SMALL, "MODEL.WEIGHTS", str(tmp_path / "model.pth")]


@pytest.mark.parametrize("model", CONFIGS, indirect=True, ids=["BlendMask", "DR1Mask"])
def test_overlays_are_panoptic_and_the_json_has_the_instances(tmp_path, model):
    config, opts = model
    image = np.ascontiguousarray(shapes_image(ShapesSpec(1, 96, 128, 5), 0)[:, :, ::-1])
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "000042.png"), image)
    threshold = float(load_predictor(config, opts, 0.0)(image)["instances"].scores[1])  # two score that much

    arguments = ["--config-file", config, "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    arguments += ["--json", str(tmp_path / "all.json"), "--confidence-threshold", str(threshold)]
    assert demo.main([*arguments, *opts]) == 0

    expected = load_predictor(config, opts, threshold)(image)
    found, (ids, segments) = expected["instances"], expected["panoptic_seg"]
    things = [segment for segment in segments if segment["isthing"]]
    assert 0 < len(things) < len(segments) and all(thing["score"] >= threshold for thing in things)
    names = MetadataCatalog.get("shapes_val_panoptic")
    overlay = draw_panoptic(np.ascontiguousarray(image[:, :, ::-1]), ids, segments, names)
    assert (cv2.imread(str(tmp_path / "out" / "000042.png"))[:, :, ::-1] == overlay).all()

    entries = json.loads((tmp_path / "all.json").read_text())
    assert 2 == len(entries) < len(found)
    for entry, score, category, mask in zip(entries, found.scores, found.pred_classes, found.pred_masks):
        assert entry["image_id"] == 42 and entry["score"] == pytest.approx(float(score), abs=1e-6)
        assert entry["category_id"] == int(category) + 1  # the data set's ids start at 1
        assert entry["category_name"] == names.thing_classes[int(category)]
        assert (coco_mask.decode(entry["segmentation"]) == mask.numpy()).all()


@pytest.mark.parametrize("model", CONFIGS[:1], indirect=True, ids=["BlendMask"])
def test_the_threshold_of_instances_is_that_of_things_unless_the_config_is_overridden(model):
    config, opts = model
    key = "MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH"
    assert load_predictor(config, opts, 0.7).model.merger.confidence_threshold == 0.7
    assert load_predictor(config, [*opts, key, "0.1"], 0.7).model.merger.confidence_threshold == 0.1


def test_things_of_a_panoptic_map_have_the_colors_of_their_instances():
    ids = torch.tensor([[0, 1, 2, 3]]).repeat_interleave(20, 0).repeat_interleave(20, 1)
    things = [{"id": i, "isthing": True, "category_id": 0, "instance_id": n} for i, n in ((1, 2), (2, 0), (3, 9))]
    grey = np.full((20, 80, 3), 128, np.uint8)
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    picture = draw_panoptic(grey, ids, things, None, colors=colors)
    assert (picture[:, :18] == 128).all()
    assert picture[18, 30].argmax() == 2 and picture[18, 50].argmax() == 0
    assert (picture[18, 70] != 128).any()  # an instance that was given no color has one all the same
