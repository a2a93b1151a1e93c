"""The ground truth that evaluators read agrees with what the loaders yield: perfect predictions score 100."""

import pytest
import torch

from adet_ext.config import get_cfg
from adet_ext.d2.evaluation import COCOEvaluator, SemSegEvaluator
from adet_ext.d2.structures import Instances
from adet_ext.data.loader import build_test_loader
from adet_ext.data.mapper import AdetDatasetMapper
from adet_ext.data.shapes import register_shapes, shapes_labels
from adet_ext.data.shapes_scene import THING_CLASSES
from adet_ext.evaluation.panoptic import COCOPanopticEvaluator


def perfect(sample, spec):
    truth = sample["instances"]
    instances = Instances(truth.image_size)
    instances.pred_boxes, instances.pred_classes = truth.gt_boxes, truth.gt_classes
    instances.pred_masks, instances.scores = truth.gt_masks.tensor.bool(), torch.ones(len(truth))
    sem_seg, panoptic, segments = shapes_labels(spec, sample["image_id"])
    things = len(THING_CLASSES)
    info = []
    for segment in segments:
        category = segment["category_id"]
        is_thing = category <= things
        info.append({"id": segment["id"], "isthing": is_thing, "category_id": category - (1 if is_thing else things)})
    return {
        "instances": instances,
        "sem_seg": torch.nn.functional.one_hot(torch.from_numpy(sem_seg).long(), 4).permute(2, 0, 1).float(),
        "panoptic_seg": (torch.from_numpy(panoptic), info),
    }


@pytest.mark.parametrize("batch_size", [1, 3])
def test_perfect_predictions_score_one_hundred(tmp_path, forget, batch_size):
    name = "shapes_to_evaluate"
    forget(name)
    spec = register_shapes(name, 8, size=96, seed=3, panoptic=True)
    cfg = get_cfg()
    cfg.MODEL.MASK_ON, cfg.INPUT.MASK_FORMAT = True, "bitmask"
    cfg.INPUT.MIN_SIZE_TEST, cfg.DATALOADER.NUM_WORKERS = 96, 0
    out = str(tmp_path)
    evaluators = [COCOEvaluator(name, output_dir=out), SemSegEvaluator(name), COCOPanopticEvaluator(name, out)]
    for evaluator in evaluators:
        evaluator.reset()
    # With ground truth in the inputs and several images in a batch: neither may disturb an evaluation.
    mapper = AdetDatasetMapper(cfg, False, keep_ground_truth=True)
    for batch in build_test_loader(cfg, name, mapper=mapper, batch_size=batch_size):
        outputs = [perfect(sample, spec) for sample in batch]
        for evaluator in evaluators:
            evaluator.process(batch, outputs)
    instances, semantic, panoptic = (evaluator.evaluate() for evaluator in evaluators)
    assert instances["segm"]["AP"] == pytest.approx(100) and instances["bbox"]["AP"] == pytest.approx(100)
    assert semantic["sem_seg"]["mIoU"] == pytest.approx(100)
    assert panoptic["panoptic_seg"]["PQ"] == pytest.approx(100)
