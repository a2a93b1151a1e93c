"""Choose the evaluators of a data set, with the limits of the config."""

import logging
import os
from urllib.parse import quote

from ..d2.config import CfgNode
from ..d2.data import MetadataCatalog
from ..d2.evaluation import COCOEvaluator, DatasetEvaluator, DatasetEvaluators, SemSegEvaluator
from ..data.register import count_without_mask, refresh_dataset
from ..errors import UserError
from ..evaluation.lvis import LVISEvaluator
from ..evaluation.panoptic import COCOPanopticEvaluator
from ..evaluation.video_semantic import VideoSemanticEvaluator
from ..evaluation.voc import VOCEvaluator

__all__ = ["build_evaluator", "check_evaluator_type"]

logger = logging.getLogger(__name__)

_TYPES = ("coco", "lvis", "pascal_voc", "sem_seg", "video_sem_seg", "coco_panoptic_seg")
_COCO_LIMIT = 100  # detections of an image that COCO's AP counts
# Meta-architectures whose number of detections MODEL.FCOS.POST_NMS_TOPK_TEST sets; others have Detectron2's key.
_OURS = ("OneStageDetector", "SmalMask", "SmalMask2", "BlendMask", "DR1Mask")


def check_evaluator_type(name: str) -> str:
    """Return the ``evaluator_type`` of a registered data set.

    Raises:
        UserError: there is no evaluator of this type.
    """
    kind = MetadataCatalog.get(name).get("evaluator_type", None)
    if kind not in _TYPES:
        raise UserError(
            f"there is no evaluator for data set {name}, whose evaluator_type is {kind!r}; set "
            f"MetadataCatalog.get(name).evaluator_type to {', '.join(_TYPES[:-1])} or {_TYPES[-1]}"
        )
    return kind


def build_evaluator(cfg: CfgNode, name: str, output_folder: str | None = None) -> DatasetEvaluator:
    """Return the evaluator of data set ``name``.

    Results are written to ``OUTPUT_DIR/inference``, or to a folder in it for each set of ``DATASETS.TEST`` where there
    are several, because their files have the same names.

    Raises:
        UserError: there is no evaluator of the data set's type, or its file has changed and no longer fits.
    """
    refresh_dataset(name)
    kind = check_evaluator_type(name)
    if output_folder is None:
        output_folder = os.path.join(cfg.OUTPUT_DIR, "inference")
        if len(cfg.DATASETS.TEST) > 1:
            output_folder = os.path.join(output_folder, quote(name, safe=""))
    evaluators: list[DatasetEvaluator] = []
    if kind in ("coco", "coco_panoptic_seg"):
        evaluators.append(
            COCOEvaluator(
                name,
                tasks=("bbox",) if _boxes_only(name) else None,
                output_dir=output_folder,
                max_dets_per_image=_detections_per_image(cfg),
                # A ground truth converted earlier may be of other data by now, so it is never taken from there.
                allow_cached_coco=False,
            )
        )
    if kind in ("sem_seg", "coco_panoptic_seg"):
        evaluators.append(SemSegEvaluator(name, distributed=True, output_dir=output_folder))
    if kind == "video_sem_seg":
        evaluators.append(
            VideoSemanticEvaluator(
                name,
                output_dir=output_folder,
                trimap_width=cfg.TEST.TRIMAP_WIDTH,
                temporal=cfg.TEST.TEMPORAL_CONSISTENCY,
            )
        )
    if kind == "lvis":
        evaluators.append(LVISEvaluator(name, output_dir=output_folder))
    if kind == "pascal_voc":
        evaluators.append(VOCEvaluator(name, output_dir=output_folder))
    if kind == "coco_panoptic_seg":
        evaluators.append(COCOPanopticEvaluator(name, output_folder))
    return evaluators[0] if len(evaluators) == 1 else DatasetEvaluators(evaluators)


def _boxes_only(name: str) -> bool:
    """Return whether masks cannot be evaluated, and log it: sets of other registrations do not say what they have."""
    has_masks = MetadataCatalog.get(name).get("has_masks")
    if has_masks is not None:
        missing, total = (0 if has_masks else 1), 1
    else:
        missing, total = count_without_mask(name)
    if missing and missing == total:
        logger.info("Data set %s has no masks: boxes alone are evaluated.", name)
    elif missing:
        logger.warning(
            "%d of %d annotations of data set %s have no mask: boxes alone are evaluated. Register the set with "
            "--dataset, or adet_ext.data.register_dataset, to leave these annotations out.", missing, total, name,
        )  # fmt: skip
    return missing > 0


def _detections_per_image(cfg: CfgNode) -> int | None:
    """Return how many detections of an image count where the model gives more than COCO's 100, else None."""
    ours = cfg.MODEL.META_ARCHITECTURE in _OURS
    limit = cfg.MODEL.FCOS.POST_NMS_TOPK_TEST if ours else cfg.TEST.DETECTIONS_PER_IMAGE
    if limit <= _COCO_LIMIT:
        return None
    logger.info("The %d best detections of an image count; COCO's own AP counts %d.", limit, _COCO_LIMIT)
    return limit
