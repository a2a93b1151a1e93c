"""Read images, and convert a data set's annotations to training targets.

N instances, H, W image height and width.
"""

import numpy as np
import pycocotools.mask as mask_util
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from ..structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks, polygons_to_bitmask
from ..utils.file_io import PathManager
from . import transforms as T
from .catalog import MetadataCatalog


def _upright(image: Image.Image) -> Image.Image:
    """Return the image rotated or flipped as its EXIF orientation says. A broken EXIF block is ignored."""
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # damaged bytes make Pillow raise errors of any type
        pass
    return image


def read_image(file_name: str, format: str | None = None) -> np.ndarray:
    """Read an image and apply its EXIF orientation.

    Args:
        format: "BGR" or a mode of Pillow ("RGB", "L", ...); None keeps that of the file.

    Returns:
        uint8 (H, W, C), also for "L"; without ``format`` the array that Pillow gives.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: the file is not an image or is cut off.
    """
    if format is not None and format.startswith("YUV"):
        raise ValueError(f"image format {format} needs Detectron2 (ADET_EXT_ENGINE=detectron2); use BGR, RGB or L")
    with PathManager.open(file_name, "rb") as f:
        try:
            image = _upright(Image.open(f))
            if format is not None:
                image = image.convert("RGB" if format == "BGR" else format)
            array = np.asarray(image)
        except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise OSError(f"{file_name} is not a whole, readable image ({error}); replace or remove it") from error
    if format == "L":
        return array[:, :, None]
    return array[:, :, ::-1] if format == "BGR" else array


def convert_image_to_rgb(image: "np.ndarray | torch.Tensor", format: str) -> np.ndarray:
    """Return an (H, W, C) image of ``format`` ("BGR" or a mode of Pillow) as RGB in [0, 255]."""
    if isinstance(image, torch.Tensor):
        image = image.cpu().numpy()
    if format == "BGR":
        return image[:, :, [2, 1, 0]]
    image = image.astype(np.uint8)
    if format == "RGB":
        return image
    if format == "L":
        return np.repeat(image[:, :, :1], 3, axis=2)
    raise ValueError(f"image format {format} needs Detectron2 (ADET_EXT_ENGINE=detectron2); use BGR, RGB or L")


def check_metadata_consistency(key: str, dataset_names: "list[str] | tuple[str, ...]") -> None:
    """Raise ValueError unless all data sets have the same ``key`` in their metadata.

    Raise AttributeError if one has none.
    """
    values = [getattr(MetadataCatalog.get(name), key) for name in dataset_names]
    for name, value in zip(dataset_names, values):
        if value != values[0]:
            raise ValueError(
                f"data sets used together differ in '{key}': {dataset_names[0]} has {values[0]}, {name} has {value}"
            )


def transform_instance_annotations(
    annotation: dict, transforms: "T.TransformList | list[T.Transform]", image_size: tuple[int, int]
) -> dict:
    """Transform one instance in place and return it.

    Args:
        annotation: with "bbox", "bbox_mode", and perhaps "segmentation": polygons (a list of flat x, y lists
            or arrays) or run lengths (a dict).
        image_size: (H, W) after the transforms.

    Returns:
        The same dict: "bbox" is float x0, y0, x1, y1 clipped to the image, "segmentation" a list of flat
        arrays, or for run lengths a uint8 (H, W) mask.
    """
    if isinstance(transforms, (tuple, list)):
        transforms = T.TransformList(transforms)
    if "keypoints" in annotation:
        raise ValueError("keypoints need Detectron2 (ADET_EXT_ENGINE=detectron2); drop them from the annotations")
    box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
    box = transforms.apply_box(np.array([box]))[0].clip(min=0)
    annotation["bbox"] = np.minimum(box, list(image_size + image_size)[::-1])
    annotation["bbox_mode"] = BoxMode.XYXY_ABS

    segm = annotation.get("segmentation")
    if isinstance(segm, list):
        polygons = [np.asarray(p).reshape(-1, 2) for p in segm]
        annotation["segmentation"] = [p.reshape(-1) for p in transforms.apply_polygons(polygons)]
    elif isinstance(segm, dict):
        mask = transforms.apply_segmentation(mask_util.decode(segm))
        assert tuple(mask.shape[:2]) == tuple(image_size), f"mask {mask.shape} in an image of {image_size}"
        annotation["segmentation"] = mask
    elif "segmentation" in annotation:
        raise ValueError(f"a segmentation is a list of polygons or a run-length dict, got {type(segm)}")
    return annotation


def _to_bitmask(segm, image_size: tuple[int, int]) -> torch.Tensor:
    """Return the (H, W) mask of polygons, run lengths or an array."""
    if isinstance(segm, list):
        segm = polygons_to_bitmask(segm, *image_size)
    elif isinstance(segm, dict):
        segm = mask_util.decode(segm)
    if not isinstance(segm, np.ndarray) or segm.ndim != 2:
        kind = f"an array of shape {segm.shape}" if isinstance(segm, np.ndarray) else f"a {type(segm)}"
        raise ValueError(f"a mask comes from polygons, a run-length dict or an (H, W) array, not from {kind}")
    return torch.from_numpy(np.array(segm, order="C"))  # flips leave negative strides, decoders read-only arrays


def annotations_to_instances(annos: list[dict], image_size: tuple[int, int], mask_format: str = "polygon") -> Instances:
    """Return the ground truth of one image.

    Returns:
        Instances with ``gt_boxes``, ``gt_classes`` (int64) and, if the annotations have segmentations,
        ``gt_masks``: PolygonMasks or, with ``mask_format`` "bitmask", BitMasks.
    """
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annos]
    target = Instances(image_size)
    target.gt_boxes = Boxes(np.stack(boxes) if boxes else np.zeros((0, 4)))
    target.gt_classes = torch.tensor([int(a["category_id"]) for a in annos], dtype=torch.int64)
    if annos and "segmentation" in annos[0]:
        segms = [a["segmentation"] for a in annos]
        if mask_format == "bitmask":
            target.gt_masks = BitMasks(torch.stack([_to_bitmask(s, image_size) for s in segms]))
        else:
            assert mask_format == "polygon", f"mask_format is polygon or bitmask, got {mask_format!r}"
            try:
                target.gt_masks = PolygonMasks(segms)
            except ValueError as error:
                raise ValueError(
                    f"these annotations cannot be polygon masks ({error}); set INPUT.MASK_FORMAT to bitmask"
                ) from error
    return target


def filter_empty_instances(
    instances: Instances, *, return_mask: bool = False
) -> "Instances | tuple[Instances, torch.Tensor]":
    """Return the instances whose box has both sides above 1e-5 and whose mask is not empty.

    With ``return_mask`` also return the bool (N,) tensor of those kept.
    """
    keep = instances.gt_boxes.nonempty(threshold=1e-5)
    if instances.has("gt_masks"):
        keep = keep & instances.gt_masks.nonempty()
    return (instances[keep], keep) if return_mask else instances[keep]
