"""Pictures of what a model predicts: instances, panoptic and semantic maps, ground truth beside predictions.

Shapes: N instances, H, W image height and width. Images are RGB uint8 [H, W, 3]; pictures come back the same
way, ``scale`` times as large. Drawing happens pixel by pixel with the mask that was predicted, so that
an outline on a picture is the outline that is evaluated.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torchvision.ops import box_iou

from ..d2.structures import BoxMode, Instances
from ..data.catalog import class_names_of, name_of
from . import drawing
from .drawing import PALETTE, Colour

__all__ = ["ColourTracker", "compare", "draw_ground_truth", "draw_instances", "draw_outputs",
           "draw_panoptic", "side_by_side"]  # fmt: skip


def draw_masks(
    image: np.ndarray,
    masks: Sequence[np.ndarray],
    labels: Sequence[str],
    colours: Sequence[Colour],
    *,
    boxes: Sequence[Sequence[float]] | None = None,
    box_outlines: bool = False,
    alpha: float = 0.45,
    scale: int = 1,
) -> np.ndarray:
    """Return ``image``, ``scale`` times as large, with the masks painted on it, outlined and labelled.

    Args:
        image: RGB uint8 [H, W, 3].
        masks: bool [H, W] each; the last one is painted on top. May be empty where ``boxes`` are given.
        labels: a text per instance; "" for none.
        colours: a colour per instance.
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
    for mask, colour in zip(large, colours):
        drawing.paint_mask(canvas, mask, colour, alpha)
        drawing.outline_mask(canvas, mask, colour, width)
    if box_outlines or not large:
        for box, colour in zip(boxes, colours):
            drawing.draw_box(canvas, box, colour, width)
    # The instance painted last is the most important one: its tag has the first choice of a place.
    return drawing.draw_labels(canvas, boxes[::-1], labels[::-1], colours[::-1], size=size)


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
    colours: Sequence[Colour] | None = None,
    box_outlines: bool = False,
    scale: int = 1,
) -> np.ndarray:
    """Return ``image`` with predicted instances, the best-scored one on top.

    Args:
        image: RGB uint8 [H, W, 3], of the instances' image size.
        instances: ``pred_boxes`` and/or ``pred_masks`` (bool [N, H, W]), ``scores``, ``pred_classes``.
        class_names: names by class index.
        colours: one per instance; by default the palette's in order of score.
        box_outlines: draw boxes as well as masks. Boxes are drawn anyway where there are no masks.
        scale: enlargement of the picture.
    """
    instances = instances.to("cpu")
    count = len(instances)
    classes = instances.pred_classes.tolist() if instances.has("pred_classes") else None
    scores = instances.scores if instances.has("scores") else torch.ones(count)
    order = torch.argsort(scores, stable=True).tolist()  # worst first: the best is painted last
    if colours is None:
        colours = [PALETTE[0]] * count
        for rank, index in enumerate(reversed(order)):
            colours[index] = PALETTE[rank % len(PALETTE)]
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
        [colours[i] for i in order],
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
    colours: Sequence[Colour] | None = None,
    scale: int = 1,
) -> np.ndarray:
    """Return ``image`` with a panoptic map: stuff in the data set's colours, things in the palette's.

    Args:
        image: RGB uint8 [H, W, 3].
        panoptic_seg: int [H, W], segment ids; 0 is void and stays as it is.
        segments_info: per segment ``id``, ``category_id``, ``isthing`` and perhaps ``score`` and ``instance_id``.
        metadata: ``thing_classes``, ``stuff_classes`` and perhaps ``stuff_colors``.
        colours: of the things, by ``instance_id``; by default, and beyond their end, the palette's in turn.
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
            given = colours is not None and 0 <= instance < len(colours)
            painted.append(colours[instance] if given else PALETTE[things % len(PALETTE)])
            things += 1
        else:
            painted.append(_stuff_color(metadata, category))
    return draw_masks(image, masks, labels, painted, alpha=0.55, scale=scale)


def _stuff_color(metadata: Any, category: int) -> Colour:
    known = getattr(metadata, "stuff_colors", None) or []
    if category < len(known):
        return tuple(int(value) for value in known[category])
    return PALETTE[(5 * category + 3) % len(PALETTE)]


def draw_semantic(image: np.ndarray, labels: np.ndarray, metadata: Any, *, scale: int = 1) -> np.ndarray:
    """Return ``image`` with a semantic map on it, large classes first.

    Args:
        labels: class indices (H, W); indices beyond ``metadata.stuff_classes``, such as 255, mean no class.
        metadata: of a data set, for ``stuff_classes`` and ``stuff_colors``.
    """
    names = class_names_of(metadata, "stuff_classes")
    classes, areas = np.unique(labels, return_counts=True)
    shown = [c for c in classes[np.argsort(-areas, kind="stable")].tolist() if 0 <= c < (len(names) or 255)]
    masks = [labels == c for c in shown]
    return draw_masks(
        image,
        masks,
        [name_of(names, c) for c in shown],
        [_stuff_color(metadata, c) for c in shown],
        alpha=0.55,
        scale=scale,
    )


def draw_outputs(
    image: np.ndarray, outputs: dict, metadata: Any, *, colours: Sequence[Colour] | None = None, scale: int = 1
) -> np.ndarray:
    """Return ``image`` with one model output on it: its panoptic map, else its instances, else its semantic map.

    ``outputs`` is what a Detectron2 model gives for one image; RGB uint8 comes back.
    """
    if "panoptic_seg" in outputs:
        panoptic_seg, segments_info = outputs["panoptic_seg"]
        return draw_panoptic(image, panoptic_seg, segments_info or [], metadata, colours=colours, scale=scale)
    if "instances" in outputs:
        return draw_instances(image, outputs["instances"], class_names_of(metadata), colours=colours, scale=scale)
    if "sem_seg" in outputs:
        return draw_semantic(image, outputs["sem_seg"].argmax(dim=0).cpu().numpy(), metadata, scale=scale)
    raise ValueError(f"nothing to draw: the outputs hold {sorted(outputs)}, none of instances, panoptic_seg, sem_seg")


def draw_ground_truth(
    image: np.ndarray,
    record: dict,
    class_names: Sequence[str] = (),
    *,
    colours: Sequence[Colour] = PALETTE,
    scale: int = 1,
) -> np.ndarray:
    """Return ``image`` with the annotations of ``record``, one dict of a registered data set.

    The i-th annotation has the i-th of ``colours``, in turn. ``record["annotations"]`` are Detectron2's: ``bbox`` with
    ``bbox_mode``, ``category_id``, and a ``segmentation`` as polygons, run lengths or a bool array. Crowds are labelled
    as such. Where one annotation has no mask, boxes are drawn for all.
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
        [colours[i % len(colours)] for i in order],
        boxes=[boxes[i] for i in order],
        scale=scale,
    )


def _corners(annotation: dict) -> list[float]:
    return list(BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS))


def _area(box: Sequence[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def annotation_mask(segmentation: Any, height: int, width: int) -> np.ndarray:
    """Return bool [H, W] from polygons (lists of x, y, x, y ...), COCO run lengths, or a mask."""
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
    tracker, colours = ColourTracker(), None
    annotations = record.get("annotations", ())
    boxes = torch.tensor([_corners(a) for a in annotations], dtype=torch.float).reshape(-1, 4)
    true_colours = tracker.assign(boxes, torch.tensor([a["category_id"] for a in annotations], dtype=torch.long))
    if "instances" in outputs and outputs["instances"].has("pred_boxes"):
        colours = tracker(outputs["instances"])  # a found object has its true one's colour
    panels = [
        drawing.enlarge(image, scale),
        draw_ground_truth(image, record, class_names_of(metadata), colours=true_colours or PALETTE, scale=scale),
        draw_outputs(image, outputs, metadata, colours=colours, scale=scale),
    ]
    return side_by_side(panels, ["image", "ground truth", "prediction"], title)


class ColourTracker:
    """Gives an instance the colour it had in the frame before, so that videos do not flicker.

    An instance inherits the colour of the best-overlapping instance of its class whose box has an IoU of at
    least ``min_iou``; what matches nothing gets the next colour that no instance of the frame has.
    """

    def __init__(self, min_iou: float = 0.4):
        self.min_iou = min_iou
        self._boxes = torch.zeros(0, 4)
        self._classes = torch.zeros(0, dtype=torch.long)
        self._indices: list[int] = []
        self._next = 0

    def __call__(self, instances: Instances) -> list[Colour]:
        """Return a colour for every instance of the next frame, and remember the frame."""
        return self.assign(instances.pred_boxes.tensor.cpu().float(), instances.pred_classes.cpu())

    def assign(self, boxes: torch.Tensor, classes: torch.Tensor) -> list[Colour]:
        """The same for float boxes [N, 4] and int classes [N]."""
        indices = [-1] * len(boxes)
        overlap = box_iou(boxes, self._boxes) * (classes[:, None] == self._classes[None])
        while overlap.numel() and float(overlap.max()) >= self.min_iou:
            now, before = divmod(int(overlap.argmax()), overlap.shape[1])
            indices[now] = self._indices[before]
            overlap[now], overlap[:, before] = -1, -1
        for position, index in enumerate(indices):
            if index < 0:
                for _ in PALETTE:  # at most once around: with more instances than colours, colours repeat
                    index, self._next = self._next, (self._next + 1) % len(PALETTE)
                    if index not in indices:
                        break
                indices[position] = index
        self._boxes, self._classes, self._indices = boxes, classes, indices
        return [PALETTE[index] for index in indices]
