"""Data of the embedded engine: catalogs, COCO data sets, augmentations, samplers."""

import os

from . import detection_utils, transforms
from .build import (
    get_detection_dataset_dicts,
    trivial_batch_collator,
)
from .builtin import register_all_coco
from .catalog import DatasetCatalog, Metadata, MetadataCatalog
from .coco import convert_to_coco_dict, load_coco_json, load_sem_seg, register_coco_instances
from .coco_panoptic import register_coco_panoptic, register_coco_panoptic_separated
from .common import DatasetFromList
from .samplers import InferenceSampler, RepeatFactorTrainingSampler, TrainingSampler

register_all_coco(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")))
