"""The sequences of the search (thesis 6.4.1): split into meta-train and meta-val, and read frame by frame.

H, W: height and width of a frame.
"""

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from adet_ext.d2.config import CfgNode
from adet_ext.data.clips import training_clips
from adet_ext.data.loader import dataset_dicts
from adet_ext.data.scene_augmentation import SceneAugmentation
from adet_ext.data.semantic_mapper import SemanticMapper
from adet_ext.errors import UserError

__all__ = ["Frames", "Split", "read_frames", "split"]


class Split(NamedTuple):
    """Sequences of the two sets, as numbers in the list that was split."""

    train: list[int]
    val: list[int]


def split(sequences: Sequence[Sequence[str]], val_fraction: float, seed: int) -> Split:
    """Return a random split into meta-train and meta-val, which have no frame in common.

    Sequences are drawn for meta-val, none of which shares a frame with another, until they have their share of all
    frames. Meta-train has all sequences that share no frame with them; where sequences do not overlap, that is all
    others.

    Args:
        sequences: the files of each.

    Raises:
        UserError: a set would have no sequence.
    """
    order = list(range(len(sequences)))
    random.Random(f"split {seed}").shuffle(order)
    wanted = val_fraction * len({file for sequence in sequences for file in sequence})
    val, taken = [], set()
    for number in order:
        if taken.isdisjoint(sequences[number]) and (not val or len(taken) + len(sequences[number]) <= wanted):
            val.append(number)
            taken.update(sequences[number])
    train = [number for number in range(len(sequences)) if taken.isdisjoint(sequences[number])]
    if not val or not train:
        raise UserError(
            f"the search must have sequences to train on and others to validate on; got {len(sequences)} and "
            f"MODEL.VIDEO.SEARCH.VAL_FRACTION {val_fraction}. Add sequences, or change it"
        )
    return Split(train, sorted(val))


class Frames:
    """The frames of some sequences, each once, however many sequences it is in.

    Attributes:
        sequences: the numbers of the frames of each sequence, in their order in time.
        files: of all frames.
    """

    def __init__(self, clips: Sequence[dict], mapper: SemanticMapper):
        self._mapper, self._records, numbers = mapper, [], {}
        self.sequences: list[list[int]] = []
        for clip in clips:
            for file, labels in zip(clip["file_names"], clip["sem_seg_file_names"]):
                if file not in numbers:
                    numbers[file] = len(self._records)
                    self._records.append({**clip, "file_names": [file], "sem_seg_file_names": [labels]})
            self.sequences.append([numbers[file] for file in clip["file_names"]])
        self.files = list(numbers)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Return ``frames`` uint8 (1, 3, H', W') and ``sem_segs`` int64 (1, H', W'); those of meta-val (1, H, W)."""
        return self._mapper({**self._records[number], "scored": [True]})


def read_frames(cfg: CfgNode, seed: int) -> tuple[Frames, Frames]:
    """Return the frames of meta-train and meta-val.

    Raises:
        UserError: a data set is missing, wrong, or too small.
    """
    node = cfg.MODEL.VIDEO.SEARCH
    if cfg.INPUT.VIDEO.FRAMES < 2:
        raise UserError(f"INPUT.VIDEO.FRAMES must be 2 or more for a search; got {cfg.INPUT.VIDEO.FRAMES}")
    clips = training_clips(dataset_dicts(cfg.DATASETS.TRAIN, "DATASETS.TRAIN", filter_empty=False), cfg)
    if node.SEQUENCES > len(clips):
        raise UserError(
            f"MODEL.VIDEO.SEARCH.SEQUENCES must be at most {len(clips)}, the sequences of "
            f"{', '.join(cfg.DATASETS.TRAIN)}; got {node.SEQUENCES}. Lower it"
        )
    if node.SEQUENCES:
        clips = [clips[i] for i in sorted(random.Random(seed).sample(range(len(clips)), node.SEQUENCES))]
    parts = split([clip["file_names"] for clip in clips], node.VAL_FRACTION, seed)
    return tuple(
        Frames([clips[i] for i in numbers], _mapper(cfg, trains)) for numbers, trains in zip(parts, (True, False))
    )


def _mapper(cfg: CfgNode, is_train: bool) -> SemanticMapper:
    keys = cfg.INPUT.SEMANTIC
    padding = SceneAugmentation(
        longer_side=keys.LONGER_SIDE,
        pad_to=keys.PAD_TO if is_train else 0,
        pad_color=tuple(cfg.MODEL.PIXEL_MEAN) if keys.PAD_VALUE == "mean" else (0, 0, 0),
    )
    return SemanticMapper(
        is_train=is_train,
        augmentation=padding,
        image_format=cfg.INPUT.FORMAT,
        num_classes=cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
    )
