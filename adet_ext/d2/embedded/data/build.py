"""Loaders: data set names and a config in, an iterable of batches (lists of dicts) out."""

import functools
import itertools
import logging
import operator
from collections import Counter
from collections.abc import Callable, Iterable

import torch
import torch.utils.data as torchdata

from ..config import configurable
from ..utils.comm import get_world_size
from ..utils.env import seed_all_rng
from .catalog import DatasetCatalog, MetadataCatalog
from .common import AspectRatioGroupedDataset, DatasetFromList, MapDataset, ToIterableDataset
from .dataset_mapper import DatasetMapper
from .detection_utils import check_metadata_consistency
from .samplers import InferenceSampler, RepeatFactorTrainingSampler, TrainingSampler

logger = logging.getLogger(__name__)


def trivial_batch_collator(batch: list) -> list:
    """The batch as it is: images of different sizes cannot be stacked."""
    return batch


def _reset_seed(worker_id: int) -> None:
    """Give a loader worker its own numpy and random seeds: a forked worker starts with its parent's."""
    seed_all_rng(torch.initial_seed() % 2**31 + worker_id)


def print_instances_class_histogram(dataset_dicts: list[dict], class_names: list[str]) -> None:
    """Log how many instances (crowds not counted) each class has.

    Raises:
        ValueError: a category id is not in [0, number of classes).
    """
    counts: Counter = Counter()
    for d in dataset_dicts:
        for a in d["annotations"]:
            if not a.get("iscrowd", 0):
                if not 0 <= a["category_id"] < len(class_names):
                    raise ValueError(
                        f"image {d.get('image_id', d.get('file_name'))} has an instance of class "
                        f"{a['category_id']}, but the data set has {len(class_names)} classes, from 0 on"
                    )
                counts[a["category_id"]] += 1
    rows = [f"  {name}: {counts[i]}" for i, name in enumerate(class_names)]
    table = "\n".join(rows + [f"  total: {sum(counts.values())}"])
    _log_once(f"Instances per class, {len(class_names)} classes:\n{table}")


@functools.cache
def _log_once(message: str) -> None:
    logger.info(message)


def get_detection_dataset_dicts(names: "str | list[str]", filter_empty: bool = True) -> list[dict]:
    """Load data sets by name and chain them; they must agree on their ``thing_classes``.

    ``filter_empty`` leaves out images without an annotation that is not a crowd region (of data sets that have
    annotations).
    """
    names = [names] if isinstance(names, str) else list(names)
    if not names:
        raise ValueError("no data set is named; set DATASETS.TRAIN and DATASETS.TEST")
    datasets = [DatasetCatalog.get(name) for name in names]
    for name, dicts in zip(names, datasets):
        assert len(dicts), f"data set '{name}' has no images"
    dataset_dicts = list(itertools.chain.from_iterable(datasets))

    if "annotations" in dataset_dicts[0]:
        if filter_empty:
            kept = [d for d in dataset_dicts if any(a.get("iscrowd", 0) == 0 for a in d["annotations"])]
            left_out = len(dataset_dicts) - len(kept)
            logger.info("left out %d images without usable annotations; %d remain", left_out, len(kept))
            dataset_dicts = kept
        class_names = MetadataCatalog.get(names[0]).get("thing_classes")
        if class_names is not None:
            check_metadata_consistency("thing_classes", names)
            print_instances_class_histogram(dataset_dicts, class_names)
    assert len(dataset_dicts), f"no image of {', '.join(names)} has a usable annotation"
    return dataset_dicts


def _mapped(dataset: "list[dict] | torchdata.Dataset", mapper: Callable | None) -> torchdata.Dataset:
    if isinstance(dataset, list):
        dataset = DatasetFromList(dataset, copy=False)
    return dataset if mapper is None else MapDataset(dataset, mapper)


def _training_sampler(cfg, dataset) -> torchdata.Sampler:
    name = cfg.DATALOADER.SAMPLER_TRAIN
    if name == "TrainingSampler":
        return TrainingSampler(len(dataset), seed=cfg.SEED)
    if name == "RepeatFactorTrainingSampler":
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            dataset, cfg.DATALOADER.REPEAT_THRESHOLD, sqrt=cfg.DATALOADER.get("REPEAT_SQRT", True)
        )
        return RepeatFactorTrainingSampler(factors, seed=cfg.SEED)
    raise ValueError(
        f"DATALOADER.SAMPLER_TRAIN is {name!r}; TrainingSampler and RepeatFactorTrainingSampler are here, "
        "others need Detectron2 (ADET_EXT_ENGINE=detectron2)"
    )


def _train_loader_from_config(cfg, mapper=None, *, dataset=None, sampler=None) -> dict:
    if dataset is None:
        filter_empty = cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        dataset = get_detection_dataset_dicts(cfg.DATASETS.TRAIN, filter_empty=filter_empty)
    return {
        "dataset": dataset,
        "sampler": _training_sampler(cfg, dataset) if sampler is None else sampler,
        "mapper": DatasetMapper(cfg, True) if mapper is None else mapper,
        "total_batch_size": cfg.SOLVER.IMS_PER_BATCH,
        "aspect_ratio_grouping": cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
    }


@configurable(from_config=_train_loader_from_config)
def build_detection_train_loader(
    dataset: "list[dict] | torchdata.Dataset",
    *,
    mapper: Callable | None,
    sampler: torchdata.Sampler | None = None,
    total_batch_size: int,
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
    **kwargs,
) -> Iterable[list]:
    """An endless stream of training batches; also ``build_detection_train_loader(cfg, mapper=...)``.

    Args:
        mapper: None passes the dicts on as they are.
        sampler: a :class:`TrainingSampler` unless given.
        total_batch_size: over all processes.
        aspect_ratio_grouping: wide images with wide ones, the others with the others.
        kwargs: go to torch's DataLoader.
    """
    dataset, world_size = _mapped(dataset, mapper), get_world_size()
    sampler = TrainingSampler(len(dataset)) if sampler is None else sampler
    assert total_batch_size > 0 and total_batch_size % world_size == 0, (
        f"{world_size} processes cannot share a batch of {total_batch_size}; change SOLVER.IMS_PER_BATCH"
    )
    batch_size = total_batch_size // world_size
    stream = ToIterableDataset(dataset, sampler, chunk_size=batch_size)
    kwargs.update(num_workers=num_workers, worker_init_fn=_reset_seed)
    if aspect_ratio_grouping:
        one_by_one = torchdata.DataLoader(stream, collate_fn=operator.itemgetter(0), **kwargs)
        return AspectRatioGroupedDataset(one_by_one, batch_size)
    return torchdata.DataLoader(stream, batch_size, drop_last=True, collate_fn=trivial_batch_collator, **kwargs)


def _test_loader_from_config(cfg, dataset_name: "str | list[str]", mapper=None) -> dict:
    return {
        "dataset": get_detection_dataset_dicts(dataset_name, filter_empty=False),
        "mapper": DatasetMapper(cfg, False) if mapper is None else mapper,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
    }


@configurable(from_config=_test_loader_from_config)
def build_detection_test_loader(
    dataset: "list[dict] | torchdata.Dataset",
    *,
    mapper: Callable | None,
    sampler: torchdata.Sampler | None = None,
    batch_size: int = 1,
    num_workers: int = 0,
    collate_fn: Callable = trivial_batch_collator,
) -> torchdata.DataLoader:
    """Every element once, over all processes together; also ``build_detection_test_loader(cfg, name)``.

    ``batch_size`` is per process; the last batch may be smaller.
    """
    dataset = _mapped(dataset, mapper)
    sampler = InferenceSampler(len(dataset)) if sampler is None else sampler
    return torchdata.DataLoader(
        dataset, batch_size, sampler=sampler, drop_last=False, num_workers=num_workers, collate_fn=collate_fn
    )
