"""Data loaders of training and evaluation.

Training reads the batches of :class:`~.batches.TrainingBatches`. Every sample is augmented from its own seed, so that
the numbers of processes and workers, and an interruption, do not change the result.

n: images of the data set.
"""

import contextlib
import logging
import random
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
import torch.utils.data as torchdata

from ..d2.config import CfgNode
from ..d2.data import (
    DatasetCatalog,
    DatasetFromList,
    InferenceSampler,
    MetadataCatalog,
    RepeatFactorTrainingSampler,
    get_detection_dataset_dicts,
    trivial_batch_collator,
)
from ..d2.utils import comm
from ..errors import UserError, one_line
from .batches import TrainingBatches
from .clips import holds_sequences, test_clips, training_clips
from .mapper import AdetDatasetMapper
from .semantic_mapper import SemanticMapper
from .semantic_sets import VIDEO
from .voc import check_voc_files

__all__ = ["build_test_loader", "build_train_loader", "dataset_dicts"]

logger = logging.getLogger(__name__)

_MAPPER_TRIES = 10


class _Failure:
    """The message of a UserError from a worker. torch would wrap the error in the worker's traceback."""

    def __init__(self, message: str):
        self.message = message


class _Samples(torchdata.Dataset):
    """Map (position, index) to a mapped dict, augmented from ``seed`` and ``position`` alone.

    If the mapper returns None, another image is drawn from the same seed.
    """

    def __init__(self, dataset: torchdata.Dataset, mapper: Callable[[dict], dict | None], seed: int):
        self.dataset, self.mapper, self.seed = dataset, mapper, seed

    def __getitem__(self, key: tuple[int, int]):
        position, index = key
        with _seeded(self.seed, position):
            try:
                for _ in range(_MAPPER_TRIES):
                    sample = self.mapper(self.dataset[index])
                    if sample is not None:
                        return sample
                    index = np.random.randint(len(self.dataset))
            except UserError as error:
                return _Failure(str(error))
        return _Failure(f"the mapper returned nothing for {_MAPPER_TRIES} images in a row; the last was number {index}")


class _Mapped(torchdata.Dataset):
    """A mapped data set for evaluation."""

    def __init__(self, dataset: torchdata.Dataset, mapper: Callable[[dict], dict]):
        self.dataset, self.mapper = dataset, mapper

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int):
        try:
            return self.mapper(self.dataset[index])
        except UserError as error:
            return _Failure(str(error))


class _Loader(torchdata.DataLoader):
    """A DataLoader that raises the UserErrors of its workers unchanged."""

    def __iter__(self) -> Iterator[list[dict]]:
        for batch in super().__iter__():
            for sample in batch:
                if isinstance(sample, _Failure):
                    raise UserError(sample.message)
            yield batch


@contextlib.contextmanager
def _seeded(seed: int, position: int) -> Iterator[None]:
    """Seed python's, NumPy's and torch's generators from (seed, position), and restore their states at the end.

    Without workers this runs in the training process, whose own random numbers must not change.
    """
    state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    words = np.random.SeedSequence([seed, position]).generate_state(3).tolist()
    random.seed(words[0])
    np.random.seed(words[1])
    torch.default_generator.manual_seed(words[2])  # of the CPU only; torch.manual_seed would also seed the GPUs
    try:
        yield
    finally:
        random.setstate(state[0])
        np.random.set_state(state[1])
        torch.set_rng_state(state[2])


def build_train_loader(
    cfg: CfgNode,
    mapper: Callable[[dict], dict | None] | None = None,
    start_iter: int = 0,
    *,
    rank: int | None = None,
    world_size: int | None = None,
) -> Iterable[list[dict]]:
    """Return the endless, resumable training loader of ``cfg``.

    Args:
        mapper: by default that of ``cfg`` and of the kind of data set: :class:`SemanticMapper` for sequences and, with
            ``INPUT.SEMANTIC.ENABLED``, for images with label maps alone, else :class:`AdetDatasetMapper`.
        start_iter: how many batches to skip, without loading them.
        rank, world_size: this process and their number; by default those of the running job.

    With ``cfg.SEED`` below 0, a random seed is drawn that all ranks share. A resumed run continues the stream only with
    the same ``cfg.SEED``, 0 or above.

    Raises:
        UserError: no image to train on, a batch size that processes cannot share, or an unknown sampler.
    """
    rank = comm.get_rank() if rank is None else rank
    world_size = comm.get_world_size() if world_size is None else world_size
    dicts = dataset_dicts(cfg.DATASETS.TRAIN, "DATASETS.TRAIN", cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
    if holds_sequences(cfg.DATASETS.TRAIN):
        dicts = training_clips(dicts, cfg)
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    batches = TrainingBatches(
        len(dicts),
        seed,
        cfg.SOLVER.IMS_PER_BATCH,
        wide=_wide(dicts) if cfg.DATALOADER.ASPECT_RATIO_GROUPING else None,
        repeat_factors=_repeat_factors(cfg, dicts),
        start=start_iter,
        rank=rank,
        world_size=world_size,
    )
    mapper = mapper or _mapper(cfg, cfg.DATASETS.TRAIN, is_train=True)
    return _Loader(
        _Samples(DatasetFromList(dicts, copy=False), mapper, seed),
        batch_sampler=batches,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=trivial_batch_collator,
        # Otherwise iterating would draw from the global generator, at another point in a resumed run.
        generator=torch.Generator(),
    )


def build_test_loader(
    cfg: CfgNode, dataset_name: str, mapper: Callable[[dict], dict] | None = None, batch_size: int = 1
) -> torchdata.DataLoader:
    """Return a loader that gives every image of ``dataset_name`` once, divided among the processes in order.

    Of a set of sequences, it gives the clips of :func:`~.clips.test_clips`.

    Args:
        mapper: by default that of :func:`build_train_loader`, in inference mode.
        batch_size: images of a batch in each process. Timings in papers use 1.
    """
    dicts = dataset_dicts((dataset_name,), "the data set to evaluate", filter_empty=False)
    if holds_sequences((dataset_name,)):
        dicts = test_clips(dicts, cfg)
    mapper = mapper or _mapper(cfg, (dataset_name,), is_train=False)
    return _Loader(
        _Mapped(DatasetFromList(dicts, copy=False), mapper),
        batch_size=batch_size,
        sampler=InferenceSampler(len(dicts)),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=trivial_batch_collator,
    )


def _mapper(cfg: CfgNode, names: Iterable[str], is_train: bool) -> Callable[[dict], dict]:
    kinds = {MetadataCatalog.get(name).get("evaluator_type") for name in names}
    if kinds == {VIDEO} or (kinds == {"sem_seg"} and cfg.INPUT.SEMANTIC.ENABLED):
        return SemanticMapper(cfg, is_train=is_train)
    return AdetDatasetMapper(cfg, is_train=is_train)


def dataset_dicts(names: Iterable[str], key: str, filter_empty: bool) -> list[dict]:
    """Load the data sets ``names`` as one list of dicts.

    Args:
        key: the config key that the names come from, or other words for it; errors start with it.
        filter_empty: leave out images without annotations other than crowds.

    Raises:
        UserError: a name is unknown, its files are missing or wrong, or no image is left.
    """
    names = list(names)
    if not names:
        raise UserError(f"{key} names no data set; give one, such as shapes_train")
    unknown = [name for name in names if name not in DatasetCatalog]
    if unknown:
        raise UserError(
            f"{key}: there is no data set {unknown[0]!r}; register it with --dataset NAME IMAGES ANNOTATIONS, or see "
            "'python -m adet_ext data list'"
        )
    try:
        return _read(names, filter_empty)
    except AssertionError as error:  # Detectron2 raises it if no image is left, among other reasons
        filtered = (
            " (images without annotations other than crowds are left out, see DATALOADER.FILTER_EMPTY_ANNOTATIONS)"
        )
        raise UserError(
            f"{key}: {', '.join(names)} cannot be used: {one_line(error).rstrip('.')}"
            f"{filtered if filter_empty else ''}; check the annotation file, and that iscrowd is 0 for single objects"
        ) from error
    except ImportError as error:  # Detectron2's reader of LVIS files needs the lvis package
        raise UserError(
            f"{key}: {', '.join(names)} cannot be read without a package that does not import ({error}); install it, "
            "for LVIS by pip install --no-deps lvis"
        ) from error
    except FileNotFoundError as error:
        missing = str(error.filename or error)
        raise UserError(
            f"{key}: {missing} is missing; built-in names are read from the folder that the "
            "environment variable DETECTRON2_DATASETS names"
            + ("; 'python -m adet_ext data prepare-lvis' makes this file" if missing.endswith("_cocofied.json") else "")
        ) from error


def _read(names: list[str], filter_empty: bool) -> list[dict]:
    try:
        return get_detection_dataset_dicts(names, filter_empty=filter_empty)
    except (AttributeError, ElementTree.ParseError, IndexError, TypeError, ValueError, OSError):
        check_voc_files(names)  # for Detectron2's own reader of VOC's files, which raises these
        raise


def _wide(dicts: list[dict]) -> np.ndarray | None:
    """Return bool [n], or None if sizes are unknown before loading, as in semantic data sets."""
    if any("width" not in d or "height" not in d for d in dicts):
        logger.info("Images are not grouped by aspect ratio: the data set does not say their sizes.")
        return None
    return np.array([d["width"] > d["height"] for d in dicts])


def _repeat_factors(cfg: CfgNode, dicts: list[dict]) -> np.ndarray | None:
    name = cfg.DATALOADER.SAMPLER_TRAIN
    if name == "TrainingSampler":
        return None
    if name != "RepeatFactorTrainingSampler":
        raise UserError(
            f"DATALOADER.SAMPLER_TRAIN must be TrainingSampler or RepeatFactorTrainingSampler; got {name!r}. For "
            "others use Detectron2's build_detection_train_loader"
        )
    return RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
        dicts, cfg.DATALOADER.REPEAT_THRESHOLD, cfg.DATALOADER.REPEAT_SQRT
    ).numpy()
