"""Draw predictions: instances, panoptic and semantic maps, ground truth beside predictions.

Shapes: D instances, H, W image height and width. Images are RGB uint8 (H, W, 3), and so are the pictures, ``scale``
times as large. Masks are drawn as predicted, pixel by pixel, so that the outline on a picture is the one evaluated.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..d2.structures import BoxMode, Instances
from ..data.catalog import class_names_of, name_of
from . import drawing
from .drawing import PALETTE, Color
from .tracker import ColorTracker

__all__ = [
    "compare",
    "draw_ground_truth",
    "draw_instances",
    "draw_outputs",
    "draw_panoptic",
    "side_by_side",
    "stuff_color",
]


def draw_masks(
    image: np.ndarray,
    masks: Sequence[np.ndarray],
    labels: Sequence[str],
    colors: Sequence[Color],
    *,
    boxes: Sequence[Sequence[float]] | None = None,
    box_outlines: bool = False,
    alpha: float = 0.45,
    scale: int = 1,
) -> np.ndarray:
    """Return ``image``, ``scale`` times as large, with the masks painted on it, outlined and labeled.

    Args:
        image: RGB uint8 (H, W, 3).
        masks: bool (H, W) each; the last one is painted on top. May be empty if ``boxes`` are given.
        labels: a text per instance; "" for none.
        colors: a color per instance.
        boxes: where the labels go; by default the masks' own boxes.
        box_outlines: draw the boxes too.
        alpha: opacity of the painted masks, 0 to 1.
        scale: enlargement of the picture, for images too small to write on.
    """
    canvas = drawing.enlarge(np.ascontiguousarray(image), scale).copy()
    longer = max(canvas.shape[:2])
    width = 1 + longer // 600  # a line's soft edges add about a pixel on either side
    if boxes is None:
        boxes = [_box_of(mask) for mask in masks]
    boxes = [np.asarray(box, dtype=float) * scale for box in boxes]
    size = int(np.clip(longer / 45, 11, 22))
    large = [drawing.enlarge_mask(np.asarray(mask, dtype=bool), scale) for mask in masks]
    for mask, color in zip(large, colors):
        drawing.paint_mask(canvas, mask, color, alpha)
        drawing.outline_mask(canvas, mask, color, width)
    if box_outlines or not large:
        for box, color in zip(boxes, colors):
            drawing.draw_box(canvas, box, color, width)
    # The instance painted last is the most important one, so its tag is placed first.
    return drawing.draw_labels(canvas, boxes[::-1], labels[::-1], colors[::-1], size=size)


def _box_of(mask: np.ndarray) -> tuple[float, float, float, float]:
    extent = drawing.extent_of(np.asarray(mask))
    if extent is None:
        return 0.0, 0.0, 0.0, 0.0
    rows, columns = extent
    return columns.start, rows.start, columns.stop, rows.stop


def draw_instances(
    image: np.ndarray,
    instances: Instances,
    class_names: Sequence[str] = (),
    *,
    colors: Sequence[Color] | None = None,
    box_outlines: bool = False,
    scale: int = 1,
) -> np.ndarray:
    """Return ``image`` with predicted instances, the best-scored one on top.

    Args:
        image: RGB uint8 (H, W, 3), of the instances' image size.
        instances: ``pred_boxes`` and/or ``pred_masks`` (bool (D, H, W)), ``scores``, ``pred_classes``.
        class_names: names by class index.
        colors: one per instance; by default the palette's in order of score.
        box_outlines: draw boxes as well as masks. Boxes are drawn anyway if there are no masks.
        scale: enlargement of the picture.
    """
    instances = instances.to("cpu")
    count = len(instances)
    classes = instances.pred_classes.tolist() if instances.has("pred_classes") else None
    scores = instances.scores if instances.has("scores") else torch.ones(count)
    order = torch.argsort(scores, stable=True).tolist()  # worst first: the best is painted last
    if colors is None:
        colors = [PALETTE[0]] * count
        for rank, index in enumerate(reversed(order)):
            colors[index] = PALETTE[rank % len(PALETTE)]
    labels = []
    for index in range(count):
        name = name_of(class_names, classes[index]) if classes is not None else ""
        labels.append(f"{name} {100 * scores[index]:.0f}%" if instances.has("scores") else name)
    masks = instances.pred_masks.numpy().astype(bool) if instances.has("pred_masks") else None
    boxes = instances.pred_boxes.tensor.tolist() if instances.has("pred_boxes") else None
    return draw_masks(
        image,
        [masks[i] for i in order] if masks is not None else [],
        [labels[i] for i in order],
        [colors[i] for i in order],
        boxes=[boxes[i] for i in order] if boxes is not None else None,
        box_outlines=box_outlines,
        scale=scale,
    )


def draw_panoptic(
    image: np.ndarray,
    panoptic_seg: torch.Tensor,
    segments_info: Sequence[dict],
    metadata: Any,
    *,
    colors: Sequence[Color] | None = None,
    scale: int = 1,
) -> np.ndarray:
    """Return ``image`` with a panoptic map: stuff in the data set's colors, things in the palette's.

    Args:
        image: RGB uint8 (H, W, 3).
        panoptic_seg: int (H, W), segment ids; 0 is void and stays as it is.
        segments_info: per segment ``id``, ``category_id``, ``isthing`` and perhaps ``score`` and ``instance_id``.
        metadata: ``thing_classes``, ``stuff_classes`` and perhaps ``stuff_colors``.
        colors: of the things, by ``instance_id``; by default, and beyond their end, the palette's in turn.
    """
    ids = panoptic_seg.cpu().numpy()
    masks, labels, painted = [], [], []
    things = 0
    for segment in sorted(segments_info, key=lambda s: bool(s.get("isthing"))):  # things over stuff
        category, is_thing = int(segment["category_id"]), bool(segment.get("isthing"))
        names = class_names_of(metadata, "thing_classes" if is_thing else "stuff_classes")
        score = segment.get("score")
        masks.append(ids == segment["id"])
        labels.append(name_of(names, category) + (f" {100 * score:.0f}%" if score is not None else ""))
        if is_thing:
            instance = segment.get("instance_id", -1)
            given = colors is not None and 0 <= instance < len(colors)
            painted.append(colors[instance] if given else PALETTE[things % len(PALETTE)])
            things += 1
        else:
            painted.append(stuff_color(metadata, category))
    return draw_masks(image, masks, labels, painted, alpha=0.55, scale=scale)


def stuff_color(metadata: Any, category: int) -> Color:
    """Return the color of a stuff class: the data set's, or one of the palette."""
    known = getattr(metadata, "stuff_colors", None) or []
    if category < len(known):
        return tuple(int(value) for value in known[category])
    return PALETTE[(5 * category + 3) % len(PALETTE)]


def draw_semantic(image: np.ndarray, labels: np.ndarray, metadata: Any, *, scale: int = 1) -> np.ndarray:
    """Return ``image`` with a semantic map on it, large classes first.

    Args:
        labels: class indices (H, W); indices beyond ``metadata.stuff_classes``, such as 255, mean no class.
        metadata: of a data set, for ``stuff_classes``, else ``thing_classes``, and ``stuff_colors``.
    """
    names = class_names_of(metadata, "stuff_classes") or class_names_of(metadata)
    classes, areas = np.unique(labels, return_counts=True)
    shown = [c for c in classes[np.argsort(-areas, kind="stable")].tolist() if 0 <= c < (len(names) or 255)]
    masks = [labels == c for c in shown]
    return draw_masks(
        image,
        masks,
        [name_of(names, c) for c in shown],
        [stuff_color(metadata, c) for c in shown],
        alpha=0.55,
        scale=scale,
    )


def draw_outputs(
    image: np.ndarray, outputs: dict, metadata: Any, *, colors: Sequence[Color] | None = None, scale: int = 1
) -> np.ndarray:
    """Return ``image`` with one model output on it: its panoptic map, else its instances, else its semantic map.

    ``outputs`` is the output of a Detectron2 model for one image.
    """
    if "panoptic_seg" in outputs:
        panoptic_seg, segments_info = outputs["panoptic_seg"]
        return draw_panoptic(image, panoptic_seg, segments_info or [], metadata, colors=colors, scale=scale)
    if "instances" in outputs:
        return draw_instances(image, outputs["instances"], class_names_of(metadata), colors=colors, scale=scale)
    if "sem_seg" in outputs:
        return draw_semantic(image, outputs["sem_seg"].argmax(dim=0).cpu().numpy(), metadata, scale=scale)
    raise ValueError(f"outputs must have panoptic_seg, instances or sem_seg to draw; got {sorted(outputs)}")


def draw_ground_truth(
    image: np.ndarray,
    record: dict,
    class_names: Sequence[str] = (),
    *,
    colors: Sequence[Color] = PALETTE,
    scale: int = 1,
) -> np.ndarray:
    """Return ``image`` with the annotations of ``record``, one dict of a registered data set.

    The i-th annotation has the i-th of ``colors``, in turn. ``record["annotations"]`` are Detectron2's: ``bbox`` with
    ``bbox_mode``, ``category_id``, and a ``segmentation`` as polygons, run lengths or a bool array. Crowds are labeled
    as such. If an annotation has no mask, boxes are drawn for all.
    """
    height, width = image.shape[:2]
    annotations = list(record.get("annotations", ()))
    boxes = [_corners(annotation) for annotation in annotations]
    order = sorted(range(len(boxes)), key=lambda i: -_area(boxes[i]))  # small ones on top
    masks = []
    if all("segmentation" in annotation for annotation in annotations):
        masks = [annotation_mask(annotations[i]["segmentation"], height, width) for i in order]
    labels = [name_of(class_names, a["category_id"]) + (" (crowd)" if a.get("iscrowd") else "") for a in annotations]
    return draw_masks(
        image,
        masks,
        [labels[i] for i in order],
        [colors[i % len(colors)] for i in order],
        boxes=[boxes[i] for i in order],
        scale=scale,
    )


def _corners(annotation: dict) -> list[float]:
    return list(BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS))


def _area(box: Sequence[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def annotation_mask(segmentation: Any, height: int, width: int) -> np.ndarray:
    """Return bool (H, W) from polygons (lists of x, y, x, y ...), COCO run lengths, or a mask."""
    from pycocotools import mask as coco_mask

    if isinstance(segmentation, list):
        runs = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation, dict):
        counts = segmentation["counts"]
        runs = coco_mask.frPyObjects(segmentation, height, width) if isinstance(counts, list) else segmentation
    else:
        return np.asarray(segmentation, dtype=bool)
    return coco_mask.decode(runs).astype(bool)


def side_by_side(pictures: Sequence[np.ndarray], captions: Sequence[str], title: str = "") -> np.ndarray:
    """Return pictures of one image in a row, each under its caption."""
    return drawing.sheet(pictures, captions, title=title)


def compare(
    image: np.ndarray, record: dict, outputs: dict, metadata: Any, *, scale: int = 1, title: str = ""
) -> np.ndarray:
    """Return image, ground truth and prediction in a row."""
    tracker, colors = ColorTracker(), None
    annotations = record.get("annotations", ())
    boxes = torch.tensor([_corners(a) for a in annotations], dtype=torch.float).reshape(-1, 4)
    true_colors = tracker.assign(boxes, torch.tensor([a["category_id"] for a in annotations], dtype=torch.long))
    if "instances" in outputs and outputs["instances"].has("pred_boxes"):
        colors = tracker(outputs["instances"])  # a found object has its true one's color
    panels = [
        drawing.enlarge(image, scale),
        draw_ground_truth(image, record, class_names_of(metadata), colors=true_colors or PALETTE, scale=scale),
        draw_outputs(image, outputs, metadata, colors=colors, scale=scale),
    ]
    return side_by_side(panels, ["image", "ground truth", "prediction"], title)
