"""Semantic segmentation of clips: formulas, borders, flow, several processes, and a training from end to end."""

import json

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from adet_ext.config import get_cfg
from adet_ext.d2.utils import comm
from adet_ext.data.semantic_sets import register_semantic
from adet_ext.data.shapes_sequences import CLASSES, register_shapes_video
from adet_ext.engine.checks import check_classes, check_datasets
from adet_ext.engine.trainer import Trainer, setup
from adet_ext.errors import UserError
from adet_ext.evaluation.confusion import count_pairs, semantic_scores
from adet_ext.evaluation.temporal import agreement_along_flow, optical_flow
from adet_ext.evaluation.trimap import trimap
from adet_ext.evaluation.video_semantic import VideoSemanticEvaluator

from .. import tiny_segmentor  # noqa: F401  (registers the model)


def one_hot(labels, classes):
    return {"sem_seg": F.one_hot(torch.as_tensor(labels).long(), classes).permute(2, 0, 1).float()}


def clip(frames, labels, scored=None):
    frames = torch.as_tensor(np.stack(frames)).permute(0, 3, 1, 2)
    return {
        "frames": frames, "sem_segs": torch.as_tensor(np.stack(labels)).long(), "file_name": "last.png",
        "file_names": [f"{t}.png" for t in range(len(labels))], "height": labels[0].shape[0],
        "width": labels[0].shape[1], "scored": scored or [True] * len(labels),
    }  # fmt: skip


def registered(name, classes, forget):
    forget(name)
    register_semantic(name, list, classes, [(0, 0, 0)] * len(classes))


def random_labels(seed, *shape, classes=4, void=0.1):
    rng = np.random.RandomState(seed)
    labels = rng.randint(0, classes, shape).astype(np.uint8)
    labels[rng.random_sample(shape) < void] = 255
    return labels


def test_scores_follow_their_formulas():
    true, found = random_labels(0, 20, 30), random_labels(1, 20, 30, void=0)
    true[true == 2] = 1  # class 2 does not occur, but is predicted
    counted = true != 255
    iou, accuracy, weights = {}, {}, {}
    for c in (0, 1, 3):
        here, there = (true == c) & counted, (found == c) & counted
        iou[c], accuracy[c] = (here & there).sum() / (here | there).sum(), (here & there).sum() / here.sum()
        weights[c] = here.sum() / counted.sum()
    scores = semantic_scores(count_pairs(true, found, 4, 255))
    assert scores["mIoU"] == pytest.approx(np.mean(list(iou.values())))
    assert scores["mAcc"] == pytest.approx(np.mean(list(accuracy.values())))
    assert scores["fwIoU"] == pytest.approx(sum(iou[c] * weights[c] for c in iou))
    assert scores["gAcc"] == pytest.approx((true == found)[counted].mean())
    assert np.isnan(scores["IoU"][2]) and scores["IoU"][3] == pytest.approx(iou[3])
    assert all(np.isnan(semantic_scores(np.zeros((2, 2), np.int64))[key]) for key in ("mIoU", "mAcc", "fwIoU", "gAcc"))


def test_a_trimap_is_its_width_wide_on_either_side_of_a_border():
    labels = np.zeros((9, 20), np.uint8)
    labels[:, 10:] = 1
    for width in (1, 2, 3):
        band = trimap(labels, width, 255)
        assert np.array_equal(np.flatnonzero(band.all(0)), np.arange(10 - width, 10 + width))
        assert np.array_equal(band.any(0), band.all(0))
    labels[:, 9:11] = 255  # what is not labeled has no border
    assert not trimap(labels, 3, 255).any()


def test_a_trimap_is_all_pixels_within_its_width_of_a_border_pixel():
    labels = cv2.resize(random_labels(3, 4, 5, void=0.2), (25, 24), interpolation=cv2.INTER_NEAREST)
    padded = np.pad(labels, 1, constant_values=255)
    border = []
    for y, x in np.ndindex(labels.shape):
        around = [padded[y + 1 + dy, x + 1 + dx] for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0))]
        if labels[y, x] != 255 and any(v not in (255, labels[y, x]) for v in around):
            border.append((y, x))
    expected = [min(np.hypot(y - v, x - u) for v, u in border) <= 2 for y, x in np.ndindex(labels.shape)]
    assert np.array_equal(trimap(labels, 3, 255), np.array(expected).reshape(labels.shape))


def textured(seed=0, height=80, width=112):
    noise = np.random.RandomState(seed).randint(0, 255, (height // 4, width // 4, 3)).astype(np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def test_labels_that_move_with_the_picture_agree_and_those_that_stay_do_not():
    world = textured(width=160)
    labels = np.indices((80, 160))[1].astype(np.uint8) // 4 % 7
    before, now = world[:, 10:122], world[:, 4:116]  # all moves 6 pixels to the right
    same, counted = agreement_along_flow(before, now, labels[:, 10:122], labels[:, 4:116])
    assert counted > 0.8 * 80 * 112 and same > 0.97 * counted
    stays, counted = agreement_along_flow(before, now, labels[:, 10:122], labels[:, 10:122])
    assert stays < 0.3 * counted
    assert agreement_along_flow(before, before, labels[:, :112], labels[:, :112]) == (80 * 112, 80 * 112)


def test_only_scored_frames_with_labels_count(forget):
    registered("set_of_frames", ["a", "b"], forget)
    evaluator = VideoSemanticEvaluator("set_of_frames", temporal=False)
    zero, one, void = (np.full((8, 8), v, np.uint8) for v in (0, 1, 255))
    frames = [np.zeros((8, 8, 3), np.uint8)] * 3
    evaluator.process([clip(frames, [one, zero, void], [False, True, True])], [[one_hot(zero, 2)] * 3])
    result = evaluator.evaluate()["sem_seg"]
    assert result["mIoU"] == result["gAcc"] == result["IoU-a"] == 100 and np.isnan(result["IoU-b"])
    assert np.isnan(result["tIoU"]) and "TC" not in result
    evaluator.reset()
    assert evaluator.evaluate() == {}


def test_scores_are_of_one_matrix_over_all_frames_and_go_into_a_file(tmp_path, forget):
    registered("set_of_frames", ["a", "b", "c", "d"], forget)
    evaluator = VideoSemanticEvaluator("set_of_frames", output_dir=str(tmp_path), trimap_width=1)
    true, found = random_labels(5, 3, 40, 40), random_labels(6, 3, 40, 40, void=0)
    frames = [textured(0, 40, 40)] * 3
    for t in range(3):
        evaluator.process([clip(frames[t : t + 1], true[t : t + 1])], [[one_hot(found[t], 4)]])
    result = evaluator.evaluate()["sem_seg"]
    expected = semantic_scores(count_pairs(true, found, 4, 255))
    band = np.stack([trimap(x, 1, 255) for x in true])
    assert result["mIoU"] == pytest.approx(100 * expected["mIoU"]) and np.isnan(result["TC"])
    assert result["tIoU"] == pytest.approx(100 * semantic_scores(count_pairs(true[band], found[band], 4, 255))["mIoU"])
    written = json.loads((tmp_path / "sem_seg_evaluation.json").read_text())
    assert written["frames"] == 3 and written["classes"] == ["a", "b", "c", "d"] and written["scores"]["TC"] is None
    assert np.sum(written["confusion"]) == np.count_nonzero(true != 255)
    # A prediction that does not change while the picture stands still is consistent.
    evaluator.reset()
    evaluator.process([clip(frames, true)], [[one_hot(found[0], 4)] * 3])
    assert evaluator.evaluate()["sem_seg"]["TC"] == 100


def test_outputs_that_do_not_fit_are_refused(forget):
    registered("set_of_frames", ["a", "b"], forget)
    evaluator = VideoSemanticEvaluator("set_of_frames")
    label = np.zeros((8, 8), np.uint8)
    one = clip([np.zeros((8, 8, 3), np.uint8)] * 2, [label] * 2)
    with pytest.raises(ValueError, match="last.png.*each of the clip's 2 frames; got 1"):
        evaluator.process([one], [[one_hot(label, 2)]])
    with pytest.raises(ValueError, match=r"last.png.*\(2, 8, 8\).*got \(3, 8, 8\)"):
        evaluator.process([one], [[one_hot(label, 3)] * 2])


def shapes_config(output, **keys):
    register_shapes_video("tiny_train", 4, 3, size=(32, 48), seed=0)
    register_shapes_video("tiny_val", 3, 3, size=(32, 48), seed=1)
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "TinyVideoSegmentor", "cpu", ""
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = len(CLASSES)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("tiny_train",), ("tiny_val",)
    cfg.INPUT.SEMANTIC.PAD_TO = cfg.INPUT.SEMANTIC.CROP = 40
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.DATALOADER.NUM_WORKERS = 2, 2, 0
    cfg.OUTPUT_DIR = str(output)
    return cfg


def test_a_model_of_clips_trains_and_is_evaluated_by_the_trainer(tmp_path, forget):
    forget("tiny_train"), forget("tiny_val")
    cfg = setup(shapes_config(tmp_path), None)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    written = json.loads((tmp_path / "inference" / "sem_seg_evaluation.json").read_text())
    assert {"mIoU", "tIoU", "TC", "fwIoU", "mAcc", "gAcc", "IoU-star"} <= set(written["scores"])
    assert written["frames"] == 9 and np.array(written["confusion"]).sum() == 9 * 32 * 48


def test_a_model_of_another_number_of_classes_is_refused_before_it_is_built(tmp_path, forget):
    forget("tiny_train"), forget("tiny_val"), forget("other")
    cfg = shapes_config(tmp_path)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 54
    with pytest.raises(UserError, match="tiny_train has 9 semantic classes.*NUM_CLASSES is 54"):
        check_classes(cfg)
    register_semantic("other", list, ["a"], [(0, 0, 0)])
    cfg.DATASETS.TEST = ("other",)
    with pytest.raises(UserError, match="tiny_train .* and other .* different classes"):
        check_datasets(cfg, training=True)


def test_processes_put_their_counts_together(forget, monkeypatch):
    registered("set_of_frames", ["a", "b", "c", "d"], forget)
    true, found = random_labels(7, 4, 40, 40), random_labels(8, 4, 40, 40, void=0)
    frames = [textured(t, 40, 40) for t in (0, 0, 1, 1)]
    clips = [clip(frames[i : i + 2], true[i : i + 2]) for i in (0, 2)]
    outputs = [[one_hot(x, 4) for x in found[i : i + 2]] for i in (0, 2)]
    alone = VideoSemanticEvaluator("set_of_frames")
    alone.process(clips, outputs)
    parts = []
    for i in (0, 1):  # what each of two processes hands over
        share = VideoSemanticEvaluator("set_of_frames")
        share.process(clips[i : i + 1], outputs[i : i + 1])
        monkeypatch.setattr(comm, "gather", lambda counts, dst: parts.append(counts) or [counts])
        share.evaluate()
    monkeypatch.undo()
    expected = alone.evaluate()
    monkeypatch.setattr(comm, "gather", lambda counts, dst: parts)
    assert share.evaluate() == expected and expected["sem_seg"]["TC"] > 0
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    assert share.evaluate() is None


def test_the_flow_does_not_depend_on_what_was_measured_before():
    small = [textured(0, 32, 48), textured(1, 32, 48)]
    first = optical_flow(*small)
    optical_flow(textured(0, 80, 112), textured(1, 80, 112))
    assert np.array_equal(optical_flow(*small), first)
