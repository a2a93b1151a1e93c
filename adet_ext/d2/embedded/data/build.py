"""Loaders: data set names and a config in, an iterable of batches (lists of dicts) out."""

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
from ..utils.logger import log_first_n
from .catalog import DatasetCatalog, MetadataCatalog
from .common import AspectRatioGroupedDataset, DatasetFromList, MapDataset, ToIterableDataset
from .dataset_mapper import DatasetMapper
from .detection_utils import check_metadata_consistency
from .samplers import InferenceSampler, RepeatFactorTrainingSampler, TrainingSampler

logger = logging.getLogger(__name__)


def trivial_batch_collator(batch: list) -> list:
    """The batch as it is: images of different sizes cannot be stacked."""
    return batch


def worker_init_reset_seed(worker_id: int) -> None:
    """Give a loader worker its own numpy and random seeds: a forked worker starts with its parent's."""
    seed_all_rng(torch.initial_seed() % 2**31 + worker_id)


def filter_images_with_only_crowd_annotations(dataset_dicts: list[dict]) -> list[dict]:
    """The images with at least one annotation that is not a crowd region."""
    kept = [d for d in dataset_dicts if any(a.get("iscrowd", 0) == 0 for a in d["annotations"])]
    logger.info("left out %d images without usable annotations; %d remain", len(dataset_dicts) - len(kept), len(kept))
    return kept


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
    log_first_n(logging.INFO, f"Instances per class, {len(class_names)} classes:\n{table}", key="message")


def get_detection_dataset_dicts(
    names: "str | list[str]",
    filter_empty: bool = True,
    min_keypoints: int = 0,
    proposal_files: list[str] | None = None,
    check_consistency: bool = True,
) -> "list[dict] | torchdata.Dataset":
    """Load data sets by name and chain them.

    Args:
        filter_empty: leave out images without a non-crowd annotation (data sets with annotations only).
        check_consistency: all data sets must have the same ``thing_classes``.

    Returns:
        One list of dicts; or a torch data set, where the catalog gives that.
    """
    if min_keypoints or proposal_files:
        raise ValueError("keypoints and proposal files need Detectron2 (ADET_EXT_ENGINE=detectron2)")
    names = [names] if isinstance(names, str) else list(names)
    if not names:
        raise ValueError("no data set is named; set DATASETS.TRAIN and DATASETS.TEST")
    datasets = [DatasetCatalog.get(name) for name in names]
    if isinstance(datasets[0], torchdata.Dataset):
        return torchdata.ConcatDataset(datasets) if len(datasets) > 1 else datasets[0]
    for name, dicts in zip(names, datasets):
        assert len(dicts), f"data set '{name}' has no images"
    dataset_dicts = list(itertools.chain.from_iterable(datasets))

    if "annotations" in dataset_dicts[0]:
        if filter_empty:
            dataset_dicts = filter_images_with_only_crowd_annotations(dataset_dicts)
        class_names = MetadataCatalog.get(names[0]).get("thing_classes")
        if check_consistency and class_names is not None:
            check_metadata_consistency("thing_classes", names)
            print_instances_class_histogram(dataset_dicts, class_names)
    assert len(dataset_dicts), f"no image of {', '.join(names)} has a usable annotation"
    return dataset_dicts


def build_batch_data_loader(
    dataset: torchdata.Dataset,
    sampler: torchdata.Sampler | None,
    total_batch_size: int,
    *,
    aspect_ratio_grouping: bool = False,
    num_workers: int = 0,
    collate_fn: Callable | None = None,
    drop_last: bool = True,
    seed: int | None = None,
    **kwargs,
) -> Iterable[list]:
    """Batches of ``total_batch_size / processes`` elements of ``dataset`` in the order of ``sampler``.

    Args:
        sampler: None if, and only if, ``dataset`` is iterable.
        aspect_ratio_grouping: wide images with wide ones, the others with the others.
        seed: of the loader's own generator, which seeds its workers; None uses torch's.
        kwargs: go to torch's DataLoader.
    """
    world_size = get_world_size()
    assert total_batch_size > 0 and total_batch_size % world_size == 0, (
        f"{world_size} processes cannot share a batch of {total_batch_size}; change SOLVER.IMS_PER_BATCH"
    )
    batch_size = total_batch_size // world_size
    if isinstance(dataset, torchdata.IterableDataset):
        assert sampler is None, "an iterable data set has its own order; give no sampler"
    else:
        dataset = ToIterableDataset(dataset, sampler, shard_chunk_size=batch_size)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    kwargs.update(num_workers=num_workers, worker_init_fn=worker_init_reset_seed, generator=generator)
    if not aspect_ratio_grouping:
        collate = trivial_batch_collator if collate_fn is None else collate_fn
        return torchdata.DataLoader(dataset, batch_size, drop_last=drop_last, collate_fn=collate, **kwargs)
    assert drop_last, "aspect_ratio_grouping leaves out incomplete batches; it needs drop_last"
    loader = torchdata.DataLoader(dataset, collate_fn=operator.itemgetter(0), **kwargs)  # one by one
    grouped = AspectRatioGroupedDataset(loader, batch_size)
    return grouped if collate_fn is None else MapDataset(grouped, collate_fn)


def _training_sampler(cfg, dataset) -> torchdata.Sampler | None:
    if isinstance(dataset, torchdata.IterableDataset):
        return None
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
    mapper: Callable,
    sampler: torchdata.Sampler | None = None,
    total_batch_size: int,
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
    collate_fn: Callable | None = None,
    **kwargs,
) -> Iterable[list]:
    """An endless stream of training batches; also ``build_detection_train_loader(cfg, mapper=...)``.

    Arguments as of :func:`build_batch_data_loader`; ``mapper`` None passes the dicts on as they are, and
    the default sampler is a :class:`TrainingSampler`.
    """
    if isinstance(dataset, list):
        dataset = DatasetFromList(dataset, copy=False)
    if mapper is not None:
        dataset = MapDataset(dataset, mapper)
    if sampler is None and not isinstance(dataset, torchdata.IterableDataset):
        sampler = TrainingSampler(len(dataset))
    return build_batch_data_loader(
        dataset,
        sampler,
        total_batch_size,
        aspect_ratio_grouping=aspect_ratio_grouping,
        num_workers=num_workers,
        collate_fn=collate_fn,
        **kwargs,
    )


def _test_loader_from_config(cfg, dataset_name: "str | list[str]", mapper=None) -> dict:
    dataset = get_detection_dataset_dicts(dataset_name, filter_empty=False)
    iterable = isinstance(dataset, torchdata.IterableDataset)
    return {
        "dataset": dataset,
        "mapper": DatasetMapper(cfg, False) if mapper is None else mapper,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
        "sampler": None if iterable else InferenceSampler(len(dataset)),
    }


@configurable(from_config=_test_loader_from_config)
def build_detection_test_loader(
    dataset: "list[dict] | torchdata.Dataset",
    *,
    mapper: Callable,
    sampler: torchdata.Sampler | None = None,
    batch_size: int = 1,
    num_workers: int = 0,
    collate_fn: Callable | None = None,
) -> torchdata.DataLoader:
    """Every element once, over all processes together; also ``build_detection_test_loader(cfg, name)``.

    ``batch_size`` is per process; the last batch may be smaller.
    """
    if isinstance(dataset, list):
        dataset = DatasetFromList(dataset, copy=False)
    if mapper is not None:
        dataset = MapDataset(dataset, mapper)
    if isinstance(dataset, torchdata.IterableDataset):
        assert sampler is None, "an iterable data set has its own order; give no sampler"
    elif sampler is None:
        sampler = InferenceSampler(len(dataset))
    collate = trivial_batch_collator if collate_fn is None else collate_fn
    return torchdata.DataLoader(
        dataset, batch_size, sampler=sampler, drop_last=False, num_workers=num_workers, collate_fn=collate
    )
