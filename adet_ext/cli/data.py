"""``data``: list, check, prepare and draw data sets."""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence

import numpy as np
from tqdm import tqdm

from ..config import get_cfg, load_config
from ..d2.config import CfgNode
from ..d2.data import DatasetCatalog, MetadataCatalog, detection_utils
from ..d2.structures import BoxMode, Instances, PolygonMasks
from ..data.catalog import class_names_of
from ..data.loader import build_train_loader, dataset_dicts
from ..data.lvis import lvis_splits, prepare_lvis
from ..data.prepare_panoptic import annotated_images, coco_splits, prepare_panoptic
from ..data.register import register_dataset
from ..data.validate import validate_coco
from ..data.validate_voc import is_image_set, validate_voc
from ..errors import UserError, one_line
from ..utils.files import make_folder
from ..utils.image_io import read_as, write_image
from ..visualize import drawing
from ..visualize.predictions import draw_ground_truth
from .arguments import parse_with_overrides
from .data_frames import add_cut_frames, cut_frames

__all__ = ["build_parser", "draw", "main"]

_FILES = ("json_file", "panoptic_json", "sem_seg_root", "image_set", "dirname")  # in the metadata, for the list
_SHEET = "contact_sheet.png"
_OUTSIDE = "accept image files outside the folder IMAGES"


def build_parser() -> argparse.ArgumentParser:
    """The command line of ``data``, with a sub-command for each thing to do."""
    parser = argparse.ArgumentParser(description="List, check, prepare and draw data sets.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", help="names of the registered data sets, and whether their files are here")
    _add_validate(commands)
    _add_prepare_panoptic(commands)
    _add_prepare_lvis(commands)
    add_cut_frames(commands)
    _add_draw(commands)
    return parser


def _add_validate(commands) -> None:
    check = commands.add_parser("validate", help="check a set in COCO or VOC format; exit status 1 if it has errors")
    check.add_argument("name", metavar="NAME", help="what the data set is called; only for the report")
    check.add_argument("images", metavar="IMAGES", help="the folder of its images")
    check.add_argument("annotations", metavar="ANNOTATIONS", help="its JSON file; for VOC, its list of images (.txt)")
    check.add_argument("--allow-outside", action="store_true", help=_OUTSIDE)
    check.add_argument("--examples", type=int, default=5, metavar="N", help="cases shown of each kind of problem (5)")


def _add_prepare_panoptic(commands) -> None:
    stuff = commands.add_parser(
        "prepare-panoptic", help="make the label maps of stuff that panoptic models learn from; can be started again"
    )
    stuff.add_argument(
        "--splits", nargs="+", default=["val2017", "train2017"], metavar="SPLIT", help="of COCO (val2017 train2017)"
    )
    stuff.add_argument(
        "--root", metavar="DIR", help="the folder with coco/ in it (default: that of DETECTRON2_DATASETS, or datasets)"
    )
    stuff.add_argument(
        "--files",
        nargs=3,
        metavar=("JSON", "PANOPTIC", "OUTPUT"),
        help="another data set in COCO's panoptic format: annotations, folder of its PNGs, and that of the maps",
    )
    stuff.add_argument("--workers", type=int, default=os.cpu_count(), metavar="N", help="processes (as many as cores)")


def _add_prepare_lvis(commands) -> None:
    lvis = commands.add_parser(
        "prepare-lvis", help="make LVIS annotations of COCO's categories, on which models of COCO get their AP*"
    )
    lvis.add_argument(
        "--splits", nargs="+", default=["v0.5_val"], metavar="SPLIT", help="of LVIS: v0.5_val (default), v0.5_train"
    )
    lvis.add_argument(
        "--root", metavar="DIR", help="the folder with lvis/ in it (default: that of DETECTRON2_DATASETS, or datasets)"
    )
    lvis.add_argument("--files", nargs=2, metavar=("JSON", "OUTPUT"), help="another LVIS file, and what to make of it")


def _add_draw(commands) -> None:
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
    pictures.add_argument("--allow-outside", action="store_true", help=_OUTSIDE)
    pictures.add_argument(
        "--source",
        choices=("annotation", "dataloader"),
        default="annotation",
        help="the annotations as they are, or images and annotations after augmentation (default: annotation)",
    )
    pictures.add_argument("--output-dir", default="./data_pictures", metavar="DIR", help="where the pictures go")
    pictures.add_argument("--num", type=int, default=16, metavar="N", help="how many images to draw (16)")
    pictures.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides, at the end")


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``data COMMAND ...`` and return the exit status."""
    arguments = parse_with_overrides(build_parser(), argv)
    if arguments.command == "list":
        return _list()
    if arguments.command == "validate":
        return _validate(arguments)
    if arguments.command == "prepare-panoptic":
        return _prepare_panoptic(arguments)
    if arguments.command == "prepare-lvis":
        return _prepare_lvis(arguments)
    if arguments.command == "cut-frames":
        return cut_frames(arguments)
    return draw(arguments)


def _list() -> int:
    for name in sorted(DatasetCatalog.list()):
        metadata = MetadataCatalog.get(name)
        file = next((f for f in map(metadata.get, _FILES) if f), "")
        here = not file or "://" in file or os.path.exists(file)
        print(f"{name:<40}{file or '-'}" + ("" if here else "  (not here)"))
    print("\nBuilt-in names of COCO and others are read from the folder that DETECTRON2_DATASETS names.")
    return 0


def _validate(arguments: argparse.Namespace) -> int:
    validate = validate_voc if is_image_set(arguments.annotations) else validate_coco
    checked = validate(
        arguments.annotations,
        arguments.images,
        max_examples=max(arguments.examples, 1),
        allow_outside=arguments.allow_outside,
    )
    print(checked.report)
    images = checked.dataset_dicts
    count = sum(len(d["annotations"]) for d in images)
    empty = sum(not d["annotations"] for d in images)
    classes = checked.classes
    names = ", ".join(classes[:12]) + (", ..." if len(classes) > 12 else "")
    print(
        f"{arguments.name}: usable are {len(images)} images ({empty} of them without annotations) with {count} "
        f"annotations of {len(classes)} classes{': ' if names else ''}{names}"
    )
    return 0 if checked.report.ok else 1


def _prepare_panoptic(arguments: argparse.Namespace) -> int:
    if arguments.workers < 1:
        raise UserError(f"--workers must be 1 or more; got {arguments.workers}")
    root = os.path.expanduser(arguments.root or os.environ.get("DETECTRON2_DATASETS", "datasets"))
    sets = [arguments.files] if arguments.files else list(coco_splits(root, arguments.splits))
    totals = [annotated_images(annotations) for annotations, _, _ in sets]  # what is missing is said at once
    broken = 0
    for (annotations, source, target), total in zip(sets, totals):
        with tqdm(total=total, unit="map", desc=os.path.basename(target), disable=None) as bar:
            done = prepare_panoptic(annotations, source, target, workers=arguments.workers, tick=bar.update)
        print(f"{target}: {done.written} label maps written, {done.finished} were there")
        for problem in done.problems[:10]:
            print(f"error: {problem}", file=sys.stderr)
        broken += len(done.problems)
    if broken:
        print(f"{broken} label maps could not be made; once that is put right, start again", file=sys.stderr)
    return 1 if broken else 0


def _prepare_lvis(arguments: argparse.Namespace) -> int:
    root = os.path.expanduser(arguments.root or os.environ.get("DETECTRON2_DATASETS", "datasets"))
    for source, target in [arguments.files] if arguments.files else lvis_splits(root, arguments.splits):
        kept = prepare_lvis(source, target)
        print(f"{target}: {kept.annotations} annotations of {kept.categories} categories in {kept.images} images")
    return 0


def draw(arguments: argparse.Namespace) -> int:
    """Draw ``arguments.num`` images into ``arguments.output_dir``, and a contact sheet of them."""
    if arguments.num < 1:
        raise UserError(f"--num must be 1 or more; got {arguments.num}")
    cfg = _config(arguments)
    folder = make_folder(arguments.output_dir)
    records = _loaded(cfg) if arguments.source == "dataloader" else _annotated(cfg)
    names = class_names_of(MetadataCatalog.get(cfg.DATASETS.TRAIN[0]))
    panels, captions = [], []
    for number, (image, record) in zip(range(arguments.num), records):
        picture = _picture(image, record, names)
        stem = os.path.splitext(os.path.basename(record["file_name"]))[0]
        write_image(os.path.join(folder, f"{number:04d}_{stem}.png"), picture[..., ::-1])
        panels.append(picture)
        count = len(record["annotations"])
        captions.append(f"{stem}: {count} instance{'' if count == 1 else 's'}")
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
    # One picture after the other, the same ones in each call.
    cfg.SEED = max(cfg.SEED, 0)
    cfg.SOLVER.IMS_PER_BATCH = 1
    cfg.DATALOADER.NUM_WORKERS = 0
    return cfg


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
