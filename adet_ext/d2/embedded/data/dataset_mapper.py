"""From one data set dict to one model input: read, augment, convert."""

import copy
import importlib.util
import logging
from collections.abc import Sequence

import numpy as np
import torch

from ..config import configurable
from . import detection_utils as utils
from . import transforms as T


class DatasetMapper:
    """The default mapper: a data set dict in, a model's input dict out (the given dict is left alone).

    The result has "image", a uint8 tensor (C, H, W), beside the dict's own "height", "width", "image_id",
    "file_name"; "sem_seg" (long, (H, W)) where the dict names a label map; and in training "instances"
    without crowd regions and without instances that the augmentation emptied.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: "Sequence[T.Augmentation | T.Transform]",
        image_format: str,
        use_instance_mask: bool = False,
        instance_mask_format: str = "polygon",
        recompute_boxes: bool = False,
    ):
        """
        Args:
            image_format: as of :func:`detection_utils.read_image`.
            instance_mask_format: "polygon" or "bitmask".
            recompute_boxes: take boxes from the augmented masks (a crop leaves the old ones loose).
        """
        if recompute_boxes:
            assert use_instance_mask, "recompute_boxes needs use_instance_mask: boxes come from masks"
        crops = any(isinstance(a, T.RandomCrop) for a in augmentations)
        if is_train and crops and use_instance_mask and importlib.util.find_spec("shapely") is None:
            raise ImportError("cropping polygon masks (INPUT.CROP.ENABLED) needs shapely: pip install shapely")
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.use_instance_mask = use_instance_mask
        self.instance_mask_format = instance_mask_format
        self.recompute_boxes = recompute_boxes
        mode = "training" if is_train else "inference"
        logging.getLogger(__name__).info("[DatasetMapper] augmentations in %s: %s", mode, list(augmentations))

    @classmethod
    def from_config(cls, cfg, is_train: bool = True) -> dict:
        if cfg.MODEL.KEYPOINT_ON or cfg.MODEL.LOAD_PROPOSALS:
            raise ValueError("MODEL.KEYPOINT_ON and MODEL.LOAD_PROPOSALS need Detectron2 (ADET_EXT_ENGINE=detectron2)")
        augmentations = utils.build_augmentation(cfg, is_train)
        crop = cfg.INPUT.CROP.ENABLED and is_train
        if crop:
            augmentations.insert(0, T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
        return {
            "is_train": is_train,
            "augmentations": augmentations,
            "image_format": cfg.INPUT.FORMAT,
            "use_instance_mask": cfg.MODEL.MASK_ON,
            "instance_mask_format": cfg.INPUT.MASK_FORMAT,
            "recompute_boxes": crop and cfg.MODEL.MASK_ON,
        }

    def _transform_annotations(self, dataset_dict: dict, transforms: T.TransformList, image_size) -> None:
        unused = {"keypoints"} if self.use_instance_mask else {"keypoints", "segmentation"}
        annos = [
            utils.transform_instance_annotations(
                {k: v for k, v in anno.items() if k not in unused}, transforms, image_size
            )
            for anno in dataset_dict.pop("annotations")
            if anno.get("iscrowd", 0) == 0
        ]
        instances = utils.annotations_to_instances(annos, image_size, mask_format=self.instance_mask_format)
        if self.recompute_boxes and instances.has("gt_masks"):
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        dataset_dict["instances"] = utils.filter_empty_instances(instances)

    def __call__(self, dataset_dict: dict) -> dict:
        dataset_dict = copy.deepcopy(dataset_dict)
        image = utils.read_image(dataset_dict["file_name"], format=self.image_format)
        utils.check_image_size(dataset_dict, image)
        sem_seg = None
        if "sem_seg_file_name" in dataset_dict:
            sem_seg = utils.read_image(dataset_dict.pop("sem_seg_file_name"), "L").squeeze(2)  # H, W

        aug_input = T.AugInput(image, sem_seg=sem_seg)
        transforms = self.augmentations(aug_input)
        image, sem_seg = aug_input.image, aug_input.sem_seg

        dataset_dict["image"] = torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))  # C, H, W
        if sem_seg is not None:
            dataset_dict["sem_seg"] = torch.as_tensor(sem_seg.astype("long"))
        if not self.is_train:
            dataset_dict.pop("annotations", None)
        elif "annotations" in dataset_dict:
            self._transform_annotations(dataset_dict, transforms, image.shape[:2])
        return dataset_dict
