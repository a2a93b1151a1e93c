"""Pictures of semantic data sets for ``data draw``: frames under the colors of their classes."""

import os
from collections.abc import Iterator

import numpy as np

from ..d2.config import CfgNode
from ..d2.data import MetadataCatalog
from ..data.loader import build_train_loader, dataset_dicts
from ..data.semantic_mapper import read_classes_map
from ..utils.image_io import read_image
from ..visualize.semantic_video import SemanticPainter

__all__ = ["is_semantic", "semantic_pictures"]


def is_semantic(cfg: CfgNode) -> bool:
    """Whether the first training set has a class for every pixel, and no instances."""
    name = cfg.DATASETS.TRAIN[0] if cfg.DATASETS.TRAIN else ""
    known = name in MetadataCatalog.list()
    return known and MetadataCatalog.get(name).get("evaluator_type") in ("sem_seg", "video_sem_seg")


def semantic_pictures(cfg: CfgNode, is_loaded: bool) -> Iterator[tuple[np.ndarray, str, str]]:
    """Yield pictures, RGB uint8, with a name for a file and a few words about each.

    Args:
        is_loaded: draw what the training loader yields, the frames of a clip in a row; else every frame with labels.
    """
    metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
    classes = len(metadata.stuff_classes)
    painter = SemanticPainter(metadata, classes)
    if is_loaded:
        cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = classes
        yield from _loaded(cfg, painter)
        return
    for record in dataset_dicts(cfg.DATASETS.TRAIN, "DATASETS.TRAIN", filter_empty=False):
        files = record.get("file_names") or [record["file_name"]]
        for path, labels in zip(files, record.get("sem_seg_file_names") or [record["sem_seg_file_name"]]):
            if labels is not None:
                found = read_classes_map(labels, classes, record.get("ignore_label", metadata.ignore_label))
                picture = painter.with_legend(painter.overlay(read_image(path), found))
                yield picture[..., ::-1], _stem(path), record.get("sequence", "")


def _loaded(cfg: CfgNode, painter: SemanticPainter) -> Iterator[tuple[np.ndarray, str, str]]:
    for batch in build_train_loader(cfg):
        for sample in batch:
            images = sample["frames"] if "frames" in sample else sample["image"][None]
            labels = sample["sem_segs"] if "sem_segs" in sample else sample["sem_seg"][None]
            overlays = []
            for image, classes in zip(images.numpy(), labels.numpy().astype(np.uint8)):
                image = image.transpose(1, 2, 0)[..., :: 1 if cfg.INPUT.FORMAT == "BGR" else -1]
                overlays.append(painter.overlay(np.ascontiguousarray(image), classes))
            what = f"{len(overlays)} frames" if "frames" in sample else ""
            yield np.concatenate(overlays, axis=1)[..., ::-1], _stem(sample["file_name"]), what


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]
