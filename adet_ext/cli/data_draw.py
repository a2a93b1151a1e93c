"""``data draw``: annotations, or what the training loader yields, as pictures."""

import argparse
import os
from collections.abc import Iterator, Sequence

import numpy as np

from ..config import get_cfg, load_config
from ..d2.config import CfgNode
from ..d2.data import MetadataCatalog, detection_utils
from ..d2.structures import BoxMode, Instances, PolygonMasks
from ..data.catalog import class_names_of
from ..data.frame_folders import register_frame_folders
from ..data.loader import build_train_loader, dataset_dicts
from ..data.register import register_dataset
from ..errors import UserError, one_line
from ..utils.files import make_folder
from ..utils.image_io import read_as, write_image
from ..visualize import drawing
from ..visualize.predictions import draw_ground_truth
from .data_draw_semantic import is_semantic, semantic_pictures

__all__ = ["OUTSIDE", "add_draw", "draw"]

_SHEET = "contact_sheet.png"
OUTSIDE = "accept image files outside the folder IMAGES"


def add_draw(commands) -> None:
    """Add the sub-command ``draw``."""
    pictures = commands.add_parser("draw", help="draw annotations, or what the training loader yields, as PNG files")
    pictures.add_argument("--config-file", default="", metavar="FILE", help="a YAML file, or a packaged config's name")
    pictures.add_argument(
        "--dataset",
        nargs=3,
        action="append",
        default=[],
        metavar=("NAME", "IMAGES", "ANNOTATIONS"),
        help="a data set in COCO or VOC format to draw instead of the config's; may be repeated",
    )
    pictures.add_argument(
        "--frames",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "FOLDER"),
        help="a data set of sequences of frames to draw; see train --help",
    )
    pictures.add_argument("--allow-outside", action="store_true", help=OUTSIDE)
    pictures.add_argument(
        "--source",
        choices=("annotation", "dataloader"),
        default="annotation",
        help="the annotations as they are, or images and annotations after augmentation (default: annotation)",
    )
    pictures.add_argument("--output-dir", default="./data_pictures", metavar="DIR", help="where the pictures go")
    pictures.add_argument("--num", type=int, default=16, metavar="N", help="how many images to draw (16)")
    pictures.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides, at the end")


def draw(arguments: argparse.Namespace) -> int:
    """Draw ``arguments.num`` images into ``arguments.output_dir``, and a contact sheet of them."""
    if arguments.num < 1:
        raise UserError(f"--num must be 1 or more; got {arguments.num}")
    cfg = _config(arguments)
    folder = make_folder(arguments.output_dir)
    is_loaded = arguments.source == "dataloader"
    if is_semantic(cfg):
        pictures = semantic_pictures(cfg, is_loaded)
    else:
        pictures = _instance_pictures(cfg, is_loaded)
    panels, captions = [], []
    for number, (picture, stem, what) in zip(range(arguments.num), pictures):
        write_image(os.path.join(folder, f"{number:04d}_{stem}.png"), picture[..., ::-1])
        panels.append(picture)
        captions.append(f"{stem}: {what}" if what else stem)
    what = "annotations" if arguments.source == "annotation" else "what the training loader yields"
    title = f"{', '.join(cfg.DATASETS.TRAIN)}: {what}"
    sheet = drawing.sheet(panels, captions, columns=_columns(panels), cell=_cell(panels), title=title)
    write_image(os.path.join(folder, _SHEET), sheet[..., ::-1])
    print(f"{len(panels)} pictures in {folder}; all of them on {os.path.join(folder, _SHEET)}")
    return 0


def _config(arguments: argparse.Namespace) -> CfgNode:
    if arguments.config_file:
        cfg = load_config(arguments.config_file, arguments.opts)
    else:
        cfg = get_cfg()
        cfg.MODEL.MASK_ON = True
        cfg.DATASETS.TRAIN = ("shapes_train",)
        try:
            cfg.merge_from_list(arguments.opts)
        except (AssertionError, KeyError, ValueError, TypeError) as error:
            raise UserError(f"the command line ({' '.join(arguments.opts)}): {one_line(error)}") from error
    for name, images, annotations in arguments.dataset:
        register_dataset(name, images, annotations, allow_outside=arguments.allow_outside)
    if arguments.dataset:
        cfg.DATASETS.TRAIN = tuple(name for name, _, _ in arguments.dataset)
    for name, place in arguments.frames:
        register_frame_folders(name, place)
    if arguments.frames:
        cfg.DATASETS.TRAIN = tuple(name for name, _ in arguments.frames)
    # One picture after the other, the same ones in each call.
    cfg.SEED = max(cfg.SEED, 0)
    cfg.SOLVER.IMS_PER_BATCH = 1
    cfg.DATALOADER.NUM_WORKERS = 0
    return cfg


def _instance_pictures(cfg: CfgNode, is_loaded: bool) -> Iterator[tuple[np.ndarray, str, str]]:
    """Annotated images as RGB, their names, and how many instances they have."""
    names = class_names_of(MetadataCatalog.get(cfg.DATASETS.TRAIN[0]))
    for image, record in _loaded(cfg) if is_loaded else _annotated(cfg):
        count = len(record["annotations"])
        stem = os.path.splitext(os.path.basename(record["file_name"]))[0]
        yield _picture(image, record, names), stem, f"{count} instance{'' if count == 1 else 's'}"


def _annotated(cfg: CfgNode) -> Iterator[tuple[np.ndarray, dict]]:
    """Images as RGB, with their dataset dicts as they are."""
    for record in dataset_dicts(cfg.DATASETS.TRAIN, "DATASETS.TRAIN", filter_empty=False):
        try:
            image = read_as(record["file_name"], "RGB")
        except (OSError, ValueError) as error:
            raise UserError(f"{record['file_name']}: this image cannot be read: {error}") from error
        yield image, {**record, "annotations": record.get("annotations", [])}


def _loaded(cfg: CfgNode) -> Iterator[tuple[np.ndarray, dict]]:
    """Images as RGB, with what the training loader made of them."""
    for batch in build_train_loader(cfg):
        for sample in batch:
            image = sample["image"].permute(1, 2, 0).numpy()  # H, W, 3
            image = detection_utils.convert_image_to_rgb(image, cfg.INPUT.FORMAT)
            yield image.astype(np.uint8), {**sample, "annotations": _annotations(sample.get("instances"))}


def _annotations(instances: Instances | None) -> list[dict]:
    if instances is None:
        return []
    annotations = []
    for i, box in enumerate(instances.gt_boxes.tensor.tolist()):
        annotation = {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": int(instances.gt_classes[i])}
        if instances.has("gt_masks"):
            masks = instances.gt_masks
            polygons = isinstance(masks, PolygonMasks)
            annotation["segmentation"] = (
                [p.tolist() for p in masks.polygons[i]] if polygons else masks.tensor[i].numpy().astype(bool)
            )
        annotations.append(annotation)
    return annotations


def _picture(image: np.ndarray, record: dict, names: Sequence[str]) -> np.ndarray:
    """The annotated image; beside it the dense labels that the loader yields, if any."""
    scale = max(1, round(400 / max(image.shape[:2])))
    parts = [draw_ground_truth(np.ascontiguousarray(image), record, names, scale=scale)]
    for key in ("basis_sem", "sem_seg"):
        if key in record:
            parts.append(_label_map(record[key].numpy(), scale))
    return np.concatenate(parts, axis=1)


def _label_map(labels: np.ndarray, scale: int) -> np.ndarray:
    colors = np.array([(40, 40, 40), *drawing.PALETTE], np.uint8)
    picture = colors[np.where(labels > 0, 1 + (labels - 1) % len(drawing.PALETTE), 0)]
    picture[labels == 255] = 255  # not labelled
    return picture.repeat(scale, 0).repeat(scale, 1)


def _cell(panels: Sequence[np.ndarray], longest: int = 420) -> tuple[int, int]:
    """(height, width) for the largest panel, its shorter side at most ``longest`` pixels."""
    height, width = max(p.shape[0] for p in panels), max(p.shape[1] for p in panels)
    factor = min(1.0, longest / min(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def _columns(panels: Sequence[np.ndarray]) -> int:
    height, width = _cell(panels)
    return max(1, min(len(panels), round(4 * height / width)))
