"""Data: catalogs, augmentations (``transforms``), samplers."""

from . import ENGINE

if ENGINE == "detectron2":
    from detectron2.data import (
        DatasetCatalog,
        DatasetFromList,
        MetadataCatalog,
        detection_utils,
        get_detection_dataset_dicts,
        transforms,
    )
    from detectron2.data.build import trivial_batch_collator
    from detectron2.data.samplers import InferenceSampler, RepeatFactorTrainingSampler, TrainingSampler
else:
    from .embedded.data import (
        DatasetCatalog,
        DatasetFromList,
        InferenceSampler,
        MetadataCatalog,
        RepeatFactorTrainingSampler,
        TrainingSampler,
        detection_utils,
        get_detection_dataset_dicts,
        transforms,
        trivial_batch_collator,
    )

__all__ = [
    "DatasetCatalog", "DatasetFromList", "InferenceSampler", "MetadataCatalog", "RepeatFactorTrainingSampler",
    "TrainingSampler", "detection_utils", "get_detection_dataset_dicts", "transforms", "trivial_batch_collator",
]  # fmt: skip
