"""Map a data set dict to a model's input, as Detectron2 does, and add the labels of BlendMask's bases.

Shapes: H, W image height and width before the augmentations; H', W' after them; R instances.
"""

import copy
import logging
from collections.abc import Callable, Sequence

import numpy as np
import pycocotools.mask as mask_util
import torch

from ..d2.config import CfgNode, configurable
from ..d2.data import detection_utils as utils
from ..d2.data import transforms as T
from ..d2.structures import BitMasks, BoxMode, Instances, PolygonMasks
from ..errors import UserError, one_line
from ..utils.image_io import read_as, read_labels
from .augmentation import build_augmentation
from .mask_checks import rle_area
from .polygons import clip_far, reaches_far
from .semantic_sets import IGNORE

__all__ = ["AdetDatasetMapper", "read_with_reason"]

logger = logging.getLogger(__name__)


class AdetDatasetMapper:
    """Read an image, augment it together with its annotations, and make tensors of both.

    The result depends only on the state of NumPy's global generator. Added to the dict are:

    - ``image``: uint8 [3, H', W'] in ``image_format``;
    - ``instances`` (training): Instances with ``gt_boxes``, ``gt_classes`` and, with ``use_instance_mask``,
      ``gt_masks``; crowds are left out. Masks are PolygonMasks or BitMasks as ``instance_mask_format`` says;
      an image with RLE masks, which polygons cannot hold, gets BitMasks in either case;
    - ``sem_seg``: int64 [H', W'], if the dict has ``sem_seg_file_name``; the dict's ``ignore_label``, if it has one,
      becomes 255;
    - ``basis_sem`` (training, with ``make_basis_sem``): int64 [H', W'], 0 for nothing, else class + 1. All
      annotations are drawn in the order of the file, later ones over earlier ones.

    Args:
        is_train: whether to give ground truth. Inference gives only the image and ``sem_seg``.
        augmentations: augmentations or transforms, applied in order.
        image_format: "BGR", "RGB" or another mode that Pillow knows.
        use_instance_mask: whether to give ``gt_masks``.
        instance_mask_format: "polygon" or "bitmask".
        recompute_boxes: fit the boxes to the masks again, for augmentations that cut instances.
        make_basis_sem: whether to give ``basis_sem``.
        keep_ground_truth: give ``instances`` and ``basis_sem`` in inference too.
    """

    @configurable
    def __init__(
        self,
        is_train: bool = True,
        *,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str = "BGR",
        use_instance_mask: bool = False,
        instance_mask_format: str = "polygon",
        recompute_boxes: bool = False,
        make_basis_sem: bool = False,
        keep_ground_truth: bool = False,
    ):
        if instance_mask_format not in ("polygon", "bitmask"):
            raise UserError(f"INPUT.MASK_FORMAT must be polygon or bitmask; got {instance_mask_format!r}")
        if recompute_boxes and not use_instance_mask:
            raise ValueError("boxes can be recomputed from masks only with use_instance_mask=True")
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.use_instance_mask = use_instance_mask
        self.instance_mask_format = instance_mask_format
        self.recompute_boxes = recompute_boxes
        self.make_basis_sem = make_basis_sem
        self.with_ground_truth = is_train or keep_ground_truth
        mode = "training" if is_train else "inference"
        logger.info("Augmentations in %s: %s", mode, list(augmentations))

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict:
        if cfg.MODEL.KEYPOINT_ON:
            raise UserError("MODEL.KEYPOINT_ON must be False, because key points need Detectron2's mapper; got True")
        return {
            "is_train": is_train,
            "augmentations": build_augmentation(cfg, is_train),
            "image_format": cfg.INPUT.FORMAT,
            "use_instance_mask": cfg.MODEL.MASK_ON,
            "instance_mask_format": cfg.INPUT.MASK_FORMAT,
            "recompute_boxes": is_train and cfg.INPUT.CROP.ENABLED and cfg.MODEL.MASK_ON,
            "make_basis_sem": cfg.MODEL.BASIS_MODULE.LOSS_ON,
        }

    def __call__(self, dataset_dict: dict) -> dict:
        """Return a new dict. ``dataset_dict`` is not changed.

        Raises:
            UserError: the image is missing, broken or of another size than the dict says, or an annotation lacks
                what was asked for.
        """
        record = copy.copy(dataset_dict)
        where = _where(record)
        image = read_with_reason(record["file_name"], lambda path: read_as(path, self.image_format), where)
        _check_size(record, image, where)
        sem_seg = None
        if "sem_seg_file_name" in record:
            name = record.pop("sem_seg_file_name")
            sem_seg = read_with_reason(name, read_labels, f"{where}, semantic labels {name}")
            if sem_seg.shape != image.shape[:2]:
                raise UserError(
                    f"{where}: its semantic labels {name} are {sem_seg.shape[1]} x {sem_seg.shape[0]} pixels, the "
                    f"image {image.shape[1]} x {image.shape[0]}; make them again"
                )
            if "ignore_label" in record:
                sem_seg[sem_seg == record.pop("ignore_label")] = IGNORE

        annotations = None
        if "annotations" in record and self.with_ground_truth:
            annotations = [_own(a, image.shape[:2], where) for a in record["annotations"]]
        record.pop("annotations", None)

        boxes = [a["bbox"] for a in annotations or () if not a.get("iscrowd", 0)]
        aug_input = T.AugInput(image, boxes=np.array(boxes) if boxes else None, sem_seg=sem_seg)
        transforms = self.augmentations(aug_input)
        shape = aug_input.image.shape[:2]  # H', W'
        record["image"] = torch.from_numpy(np.ascontiguousarray(aug_input.image.transpose(2, 0, 1)))
        if aug_input.sem_seg is not None:
            record["sem_seg"] = torch.from_numpy(aug_input.sem_seg.astype(np.int64))
        if annotations is not None:
            if self.make_basis_sem:
                # This must come before the instances, whose transforms change the annotations in place.
                labels = draw_semantic(annotations, image.shape[:2], where)
                labels = np.ascontiguousarray(transforms.apply_segmentation(labels))
                record["basis_sem"] = torch.from_numpy(labels.astype(np.int64))
            record["instances"] = self._instances(annotations, transforms, shape, where)
        return record

    def _instances(
        self, annotations: list[dict], transforms: T.TransformList, shape: tuple[int, int], where: str
    ) -> Instances:
        annotations = [a for a in annotations if not a.get("iscrowd", 0)]
        mask_format = self.instance_mask_format
        for annotation in annotations:
            annotation.pop("keypoints", None)
            if not self.use_instance_mask:
                annotation.pop("segmentation", None)
                continue
            if not _has_mask(annotation):
                raise UserError(f"{where}: an annotation has no segmentation; add it, or set MODEL.MASK_ON to False")
            if isinstance(annotation["segmentation"], dict):
                mask_format = "bitmask"
        annotations = [utils.transform_instance_annotations(a, transforms, shape) for a in annotations]
        instances = utils.annotations_to_instances(annotations, shape, mask_format=mask_format)
        if self.use_instance_mask and not instances.has("gt_masks"):  # no instances
            empty_bits = mask_format == "bitmask"
            instances.gt_masks = BitMasks(torch.zeros(0, *shape)) if empty_bits else PolygonMasks([])
        if self.recompute_boxes:
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        return utils.filter_empty_instances(instances)


def draw_semantic(annotations: list[dict], shape: tuple[int, int], where: str = "an image") -> np.ndarray:
    """Draw annotations in their order, as class + 1 on 0: uint8 [H, W], or float32 for classes from 255 on.

    The augmentations of images also resize labels, and support no other type of more than 8 bits.
    """
    highest = max((a["category_id"] for a in annotations), default=0)
    labels = np.zeros(shape, np.uint8 if highest < 255 else np.float32)
    for annotation in annotations:
        if not _has_mask(annotation):
            raise UserError(
                f"{where}: an annotation has no segmentation; add it, or set MODEL.BASIS_MODULE.LOSS_ON to False"
            )
        labels[_bitmask(annotation["segmentation"], shape)] = annotation["category_id"] + 1
    return labels


def _bitmask(segmentation: list | dict, shape: tuple[int, int]) -> np.ndarray:
    if isinstance(segmentation, list):
        segmentation = mask_util.merge(mask_util.frPyObjects([p.tolist() for p in segmentation], *shape))
    return mask_util.decode(segmentation).view(bool)


def _has_mask(annotation: dict) -> bool:
    segmentation = annotation.get("segmentation")
    return segmentation is not None and len(segmentation) > 0


def _own(annotation: dict, shape: tuple[int, int], where: str) -> dict:
    """Return a copy with float coordinates, x0 y0 x1 y1 boxes and compressed RLE, which may be changed in place.

    Transforms write into the arrays that they get; in integer arrays they would cut off fractions.
    """
    annotation = dict(annotation)
    box = _finite(annotation["bbox"])
    if box is None or len(box) != 4:
        raise UserError(f"{where}: a box must be four finite numbers; correct the annotation file")
    box = box.tolist()
    annotation["bbox"] = BoxMode.convert(box, annotation["bbox_mode"], BoxMode.XYXY_ABS)
    annotation["bbox_mode"] = BoxMode.XYXY_ABS
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict):
        annotation["segmentation"] = _own_code(segmentation, shape, where)
    elif segmentation is not None:
        annotation["segmentation"] = [_near(p, shape, where) for p in segmentation]
    return annotation


def _own_code(code: dict, shape: tuple[int, int], where: str) -> dict:
    """Return a compressed copy. Runs are checked first: decoding wrong ones would read and write past the image."""
    if tuple(code["size"]) != tuple(shape):
        raise UserError(
            f"{where}: an annotation's RLE mask has size {list(code['size'])} (height, width), the image "
            f"{list(shape)}; encode it again, or see 'python -m adet_ext data validate'"
        )
    try:
        rle_area(code["counts"], *shape)
    except ValueError as error:
        raise UserError(f"{where}: an annotation's RLE mask is broken, {error}; encode it again") from error
    return mask_util.frPyObjects(code, *shape) if isinstance(code["counts"], list) else dict(code)


def _finite(numbers: Sequence[float]) -> np.ndarray | None:
    """Return a float64 vector, or None if it has something other than finite numbers."""
    try:
        vector = np.array(numbers, np.float64)
    except (OverflowError, ValueError, TypeError):  # a number of hundreds of digits, a text, a list
        return None
    return vector if vector.ndim == 1 and np.isfinite(vector).all() else None


def _near(numbers: Sequence[float], shape: tuple[int, int], where: str) -> np.ndarray:
    """Return a polygon without its parts far outside the image, which would take all memory to draw."""
    polygon = _finite(numbers)
    if polygon is None or len(polygon) < 6 or len(polygon) % 2:
        raise UserError(
            f"{where}: a polygon must be three or more points x, y of finite numbers; correct the annotation file"
        )
    if not reaches_far(polygon, *shape):
        return polygon
    near = clip_far(polygon, *shape)
    # A polygon outside the image becomes one that sets no pixel.
    return near if len(near) >= 6 else np.zeros(6)


def _where(record: dict) -> str:
    image_id = f" (image id {record['image_id']})" if "image_id" in record else ""
    return f"{record['file_name']}{image_id}"


def read_with_reason(file_name: str, read: Callable[[str], np.ndarray], where: str) -> np.ndarray:
    """Return ``read(file_name)``.

    Raises:
        UserError: the file is missing or broken; the message begins with ``where``.
    """
    try:
        return read(file_name)
    except FileNotFoundError as error:
        raise UserError(f"{where}: there is no such file; restore it, or take it out of the annotations") from error
    except UserError:
        raise
    # For broken files Pillow raises SyntaxError, ValueError, struct errors and more; for cut ones OSError.
    except Exception as error:
        raise UserError(
            f"{where}: this is not an image, or only a part of one ({one_line(error)}); replace it, or take it out "
            "of the annotations"
        ) from error


def _check_size(record: dict, image: np.ndarray, where: str) -> None:
    height, width = image.shape[:2]
    expected = record.setdefault("width", width), record.setdefault("height", height)
    if expected != (width, height):
        turned = "; the annotations seem to ignore the file's EXIF rotation" if expected == (height, width) else ""
        raise UserError(
            f"{where}: the file is {width} x {height} pixels, its annotations say {expected[0]} x {expected[1]}"
            f"{turned}; correct the width and height in the annotation file"
        )
