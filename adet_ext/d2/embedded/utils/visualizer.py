"""Pictures of annotations and predictions on their image.

N instances, H and W the image's height and width.
"""

from collections.abc import Sequence
from enum import Enum
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util
import torch
from PIL import Image

from ..structures import Boxes, BoxMode, Instances, polygons_to_bitmask
from .canvas import RGB, VisImage, palette
from .file_io import PathManager

_OFF_WHITE = (255, 255, 240)


class ColorMode(Enum):
    """IMAGE: a colour per instance. SEGMENTATION: the class' colour, more opaque.
    IMAGE_BW: a colour per instance, and grey where no instance is."""

    IMAGE = 0
    SEGMENTATION = 1
    IMAGE_BW = 2


class Visualizer:
    """Draws on an RGB image (H, W, 3) with values up to 255.

    Args:
        metadata: the data set's; its class names and colours are used where it has them.
        scale: how much larger than the image the picture is.

    Each method returns ``self.output``, a :class:`VisImage`; calls add to the same picture.
    """

    def __init__(
        self,
        img_rgb: np.ndarray,
        metadata: Any = None,
        scale: float = 1.0,
        instance_mode: ColorMode = ColorMode.IMAGE,
    ):
        self.img = np.asarray(img_rgb).clip(0, 255).astype(np.uint8)
        self.metadata = metadata
        self.output = VisImage(self.img, scale=scale)
        self._instance_mode = instance_mode

    def draw_instance_predictions(self, predictions: Instances) -> VisImage:
        """Draw ``pred_boxes``, ``pred_masks`` (N, H, W or encodings), ``pred_classes``, ``scores`` as given."""
        predictions = predictions.to("cpu")
        fields = predictions.get_fields()
        classes = fields["pred_classes"].tolist() if "pred_classes" in fields else None
        scores = fields["scores"].tolist() if "scores" in fields else None
        masks = fields.get("pred_masks")
        masks = None if masks is None else self._convert_masks(masks)
        if self._instance_mode == ColorMode.IMAGE_BW and masks is not None:
            self._grey_outside(masks)
        return self.overlay_instances(
            boxes=fields.get("pred_boxes"),
            masks=masks,
            labels=_labels(classes, scores, self._meta("thing_classes")),
            assigned_colors=self._instance_colors(classes, len(predictions)),
            alpha=0.7 if self._instance_mode == ColorMode.SEGMENTATION else 0.45,
        )

    def draw_dataset_dict(self, dic: dict[str, Any]) -> VisImage:
        """Draw what a record of Detectron2's data-set format holds: instances, semantic, panoptic labels."""
        annotations = dic.get("annotations") or []
        if annotations:
            classes = [a["category_id"] for a in annotations]
            crowd = [a.get("iscrowd", 0) for a in annotations]
            has_masks = all("segmentation" in a for a in annotations)
            self.overlay_instances(
                boxes=[BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations],
                masks=[a["segmentation"] for a in annotations] if has_masks else None,
                labels=_labels(classes, None, self._meta("thing_classes"), crowd),
                assigned_colors=self._instance_colors(classes, len(classes)),
                alpha=0.45,
            )
        sem_seg = dic.get("sem_seg")
        if sem_seg is None and "sem_seg_file_name" in dic:
            sem_seg = _read_image(dic["sem_seg_file_name"])
        if sem_seg is not None:
            self.draw_sem_seg(sem_seg, area_threshold=0, alpha=0.5)
        pan_seg = dic.get("pan_seg")
        if pan_seg is None and "pan_seg_file_name" in dic:
            pan_seg = _read_image(dic["pan_seg_file_name"]).astype(np.int64) @ (1, 256, 256**2)
        if pan_seg is not None:
            self.draw_panoptic_seg(pan_seg, dic["segments_info"], area_threshold=0, alpha=0.5)
        return self.output

    def draw_sem_seg(
        self, sem_seg: torch.Tensor | np.ndarray, area_threshold: int | None = None, alpha: float = 0.7
    ) -> VisImage:
        """Draw a class index per pixel (H, W); classes of at most ``area_threshold`` pixels are left out.

        Values beyond ``metadata.stuff_classes``, such as 255, mean no class.
        """
        sem_seg = np.asarray(sem_seg)
        names = self._meta("stuff_classes")
        labels, areas = np.unique(sem_seg, return_counts=True)
        for label in labels[np.argsort(-areas, kind="stable")].tolist():
            if 0 <= label < (len(names) if names else 255):
                self._draw_stuff(sem_seg == label, label, alpha, area_threshold)
        return self.output

    def draw_panoptic_seg(
        self,
        panoptic_seg: torch.Tensor | np.ndarray,
        segments_info: list[dict[str, Any]],
        area_threshold: int | None = None,
        alpha: float = 0.6,
    ) -> VisImage:
        """Draw a segment id per pixel (H, W); ``segments_info`` has its id, category_id, isthing, score."""
        panoptic_seg = np.asarray(panoptic_seg)
        if self._instance_mode == ColorMode.IMAGE_BW:
            known = [segment["id"] for segment in segments_info]
            self._grey_outside([np.isin(panoptic_seg, known)])
        masks = [(segment, panoptic_seg == segment["id"]) for segment in segments_info]
        masks = [(segment, mask) for segment, mask in masks if mask.any()]
        for segment, mask in sorted(masks, key=lambda item: -int(item[1].sum())):
            if not segment.get("isthing", True):
                self._draw_stuff(mask, segment["category_id"], alpha, area_threshold)
        things = [(segment, mask) for segment, mask in masks if segment.get("isthing", True)]
        classes = [segment["category_id"] for segment, _ in things]
        scores = [segment.get("score") for segment, _ in things]
        crowd = [segment.get("iscrowd", 0) for segment, _ in things]
        if None in scores:
            scores = None
        return self.overlay_instances(
            masks=[mask for _, mask in things],
            labels=_labels(classes, scores, self._meta("thing_classes"), crowd),
            assigned_colors=self._instance_colors(classes, len(things)),
            alpha=alpha,
        )

    draw_panoptic_seg_predictions = draw_panoptic_seg

    def overlay_instances(
        self,
        *,
        boxes: Any = None,
        labels: Sequence[str] | None = None,
        masks: Any = None,
        keypoints: None = None,
        assigned_colors: Sequence[Any] | None = None,
        alpha: float = 0.45,
    ) -> VisImage:
        """Draw instances, large ones first, with names that avoid each other.

        Args:
            boxes: ``Boxes`` or N x 4 numbers (x0, y0, x1, y1).
            masks: ``BitMasks``, ``PolygonMasks``, or N arrays (H, W), lists of polygons or COCO run lengths.
            assigned_colors: N colours, RGB in [0, 1] or names that matplotlib knows.
        """
        if keypoints is not None:
            raise ValueError("drawing key points needs Detectron2's Visualizer")
        if boxes is not None:
            boxes = boxes.tensor.detach().cpu().numpy() if isinstance(boxes, Boxes) else np.asarray(boxes, float)
            if len(boxes) and boxes.shape[1] != 4:
                raise ValueError(f"boxes have {boxes.shape[1]} numbers; drawing rotated boxes needs Detectron2")
        if masks is not None:
            masks = self._convert_masks(masks)
        counts = {len(given) for given in (boxes, masks, labels, assigned_colors) if given is not None}
        if len(counts) > 1:
            raise ValueError(f"boxes, masks, labels and colours are of different numbers: {sorted(counts)}")
        if not counts or counts == {0} or (boxes is None and masks is None):
            return self.output
        if boxes is not None:
            areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        else:
            areas = np.array([mask.sum() for mask in masks])
        for i in np.argsort(-areas, kind="stable").tolist():
            color = palette(i) if assigned_colors is None else _rgb(assigned_colors[i])
            if masks is not None:
                self.output.fill(masks[i], color, alpha, edge=color)
            if boxes is not None:
                self.output.rectangle(boxes[i], color)
            if labels is not None:
                point = _innermost(masks[i]) if boxes is None else boxes[i][:2]
                self.output.label(labels[i], point, color, centred=boxes is None)
        return self.output

    def draw_binary_mask(
        self,
        binary_mask: np.ndarray,
        color: Any = None,
        *,
        edge_color: Any = None,
        text: str | None = None,
        alpha: float = 0.5,
        area_threshold: int | None = 10,
    ) -> VisImage:
        """Draw a mask (H, W) with a text at its innermost point; one of too few pixels is left out."""
        mask = self._convert_masks([np.asarray(binary_mask)])[0]
        if mask.sum() <= (area_threshold or 0):
            return self.output
        color = palette(0) if color is None else _rgb(color)
        self.output.fill(mask, color, alpha, edge=color if edge_color is None else _rgb(edge_color))
        if text:
            self.output.label(text, _innermost(mask), color, centred=True)
        return self.output

    def draw_box(self, box_coord: Sequence[float], *, edge_color: Any = "g") -> VisImage:
        """Draw the frame of a box (x0, y0, x1, y1)."""
        self.output.rectangle(box_coord, _rgb(edge_color))
        return self.output

    def draw_text(
        self, text: str, position: Sequence[float], *, font_size: float | None = None, color: Any = "g"
    ) -> VisImage:
        """Write a text with its centre at ``position`` (x, y), on a background of the given colour."""
        self.output.label(text, position, _rgb(color), centred=True, size=font_size)
        return self.output

    def get_output(self) -> VisImage:
        """The picture so far."""
        return self.output

    def _meta(self, name: str) -> Any:
        return getattr(self.metadata, name, None)

    def _instance_colors(self, classes: Sequence[int] | None, count: int) -> list[RGB]:
        """A colour per instance by its place in the list, or in mode SEGMENTATION by its class."""
        if self._instance_mode != ColorMode.SEGMENTATION or classes is None:
            return [palette(i) for i in range(count)]
        known = self._meta("thing_colors")
        return [tuple(known[c]) if known else palette(c) for c in classes]

    def _draw_stuff(self, mask: np.ndarray, category: int, alpha: float, area_threshold: int | None) -> None:
        names, colors = self._meta("stuff_classes"), self._meta("stuff_colors")
        self.draw_binary_mask(
            mask,
            color=tuple(colors[category]) if colors and category < len(colors) else palette(category),
            edge_color=_OFF_WHITE,
            text=names[category] if names else str(category),
            alpha=alpha,
            area_threshold=area_threshold,
        )

    def _grey_outside(self, masks: Sequence[np.ndarray]) -> None:
        grey = self.img.mean(axis=2, keepdims=True)  # H, W, 1
        covered = np.any([np.zeros(self.img.shape[:2]), *masks], axis=0)
        self.output.reset_image(np.where(covered[:, :, None], self.img, grey))

    def _convert_masks(self, masks: Any) -> list[np.ndarray]:
        """Masks in any form as arrays (H, W) of 0 and 1, uint8."""
        masks = getattr(masks, "polygons", getattr(masks, "tensor", masks))  # of PolygonMasks, of BitMasks
        return [_pixels(mask, *self.img.shape[:2]) for mask in masks]


def _pixels(mask: Any, height: int, width: int) -> np.ndarray:
    if isinstance(mask, dict):
        if isinstance(mask["counts"], list):
            mask = mask_util.frPyObjects(mask, *mask["size"])
        mask = mask_util.decode(mask)
    elif isinstance(mask, list):
        polygons = [np.asarray(polygon, dtype=float).reshape(-1) for polygon in mask]
        mask = polygons_to_bitmask([polygon for polygon in polygons if len(polygon) >= 6], height, width)
    elif isinstance(mask, torch.Tensor):
        mask = mask.cpu().numpy()
    if np.shape(mask) != (height, width):
        raise ValueError(f"not a mask for an image of {height} x {width}: {np.shape(mask) or type(mask).__name__}")
    return np.asarray(mask).astype(np.uint8)


def _innermost(mask: np.ndarray) -> tuple[int, int]:
    """The pixel (x, y) farthest from the border: where a name goes, as the centre may lie outside."""
    depth = cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    return int(x), int(y)


def _rgb(color: Any) -> RGB:
    """A colour as numbers up to 255, from such or from whatever matplotlib takes (floats in [0, 1])."""
    if not isinstance(color, str) and max(color) > 1:
        return tuple(int(channel) for channel in color[:3])
    from matplotlib.colors import to_rgb

    return tuple(round(255 * channel) for channel in to_rgb(color))


def _labels(
    classes: Sequence[int] | None,
    scores: Sequence[float] | None,
    names: Sequence[str] | None,
    crowd: Sequence[int] | None = None,
) -> list[str] | None:
    """One text per instance: its class, its score in per cent, and whether it is a crowd."""
    parts = []
    if classes is not None:
        parts.append([names[c] if names else str(c) for c in classes])
    if scores is not None:
        parts.append([f"{score:.0%}" for score in scores])
    texts = [" ".join(words) for words in zip(*parts)]
    return [text + "|crowd" * bool(c) for text, c in zip(texts, crowd or [0] * len(texts))] if parts else None


def _read_image(path: str) -> np.ndarray:
    with PathManager.open(path, "rb") as file:
        return np.asarray(Image.open(file))
