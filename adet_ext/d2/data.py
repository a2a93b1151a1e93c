"""Data: catalogs, COCO data sets, augmentations (``transforms``), mapper, samplers, loaders."""

from . import ENGINE

if ENGINE == "detectron2":
    from detectron2.data import (
        DatasetCatalog,
        DatasetFromList,
        DatasetMapper,
        MapDataset,
        Metadata,
        MetadataCatalog,
        build_detection_test_loader,
        build_detection_train_loader,
        detection_utils,
        get_detection_dataset_dicts,
        print_instances_class_histogram,
        transforms,
    )
    from detectron2.data.build import trivial_batch_collator
    from detectron2.data.common import AspectRatioGroupedDataset
    from detectron2.data.datasets import (
        load_coco_json,
        load_sem_seg,
        register_coco_instances,
        register_coco_panoptic_separated,
    )
    from detectron2.data.datasets.coco import convert_to_coco_dict
    from detectron2.data.datasets.coco_panoptic import register_coco_panoptic
    from detectron2.data.samplers import InferenceSampler, RepeatFactorTrainingSampler, TrainingSampler
else:
    from .embedded.data import (
        AspectRatioGroupedDataset,
        DatasetCatalog,
        DatasetFromList,
        DatasetMapper,
        InferenceSampler,
        MapDataset,
        Metadata,
        MetadataCatalog,
        RepeatFactorTrainingSampler,
        TrainingSampler,
        build_detection_test_loader,
        build_detection_train_loader,
        convert_to_coco_dict,
        detection_utils,
        get_detection_dataset_dicts,
        load_coco_json,
        load_sem_seg,
        print_instances_class_histogram,
        register_coco_instances,
        register_coco_panoptic,
        register_coco_panoptic_separated,
        transforms,
        trivial_batch_collator,
    )

__all__ = [
    "AspectRatioGroupedDataset", "DatasetCatalog", "DatasetFromList", "DatasetMapper", "InferenceSampler",
    "MapDataset", "Metadata", "MetadataCatalog", "RepeatFactorTrainingSampler",
    "TrainingSampler", "build_detection_test_loader",
    "build_detection_train_loader", "convert_to_coco_dict", "detection_utils",
    "get_detection_dataset_dicts", "load_coco_json", "load_sem_seg", "print_instances_class_histogram",
    "register_coco_instances", "register_coco_panoptic", "register_coco_panoptic_separated", "transforms",
    "trivial_batch_collator",
]  # fmt: skip
