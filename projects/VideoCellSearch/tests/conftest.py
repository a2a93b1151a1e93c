"""The project's small config, and what else its tests share."""

import pytest
import torch
import video_cells  # noqa: F401  (registers its model and keys)

from adet_ext.config import get_cfg
from adet_ext.d2.modeling import build_model

# The whole of arch2 at a width of 8, for three classes.
TINY = [
    *("MODEL.META_ARCHITECTURE", "VideoSegmentor", "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""),
    *("MODEL.BACKBONE.NAME", "build_video_mnv2_backbone", "MODEL.BACKBONE.FREEZE_AT", "0"),
    *("MODEL.PIXEL_MEAN", "[123.675, 116.28, 103.53]", "MODEL.PIXEL_STD", "[58.395, 57.12, 57.375]"),
    *("MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3", "MODEL.SEM_SEG_HEAD.IGNORE_VALUE", "255", "MODEL.VIDEO.WIDTH", "8"),
    *("INPUT.FORMAT", "RGB"),
]

# A cell that takes every input, operation and aggregation.
EVERYTHING = [
    [0, 1, 5, 0, 3],
    [2, 3, 2, 1, 2],
    [5, 4, 4, 3, 1],
    [6, 1, 4, 4, 5],
    [7, 2, 0, 4, 4],
    [8, 9, 4, 4, 0],
]


@pytest.fixture(scope="session")
def tiny_config():
    """Return a small config with overrides KEY, VALUE, ..."""

    def make(*overrides: str):
        cfg = get_cfg()
        cfg.merge_from_list([*TINY, *overrides])
        return cfg

    return make


@pytest.fixture
def tiny_model(tiny_config):
    """Build the model of :func:`tiny_config`, with the same weights every time."""

    def make(*overrides: str):
        torch.manual_seed(0)
        return build_model(tiny_config(*overrides))

    return make


@pytest.fixture
def cell_file(tmp_path):
    """Write a cell's rows of numbers as a genotype, and return its path."""
    from video_cells.genotype import CellGenotype, save_genotype

    def write(rows=EVERYTHING):
        path = str(tmp_path / "cell.json")
        save_genotype(CellGenotype.from_numbers(rows), path)
        return path

    return write


@pytest.fixture
def clip():
    """Return a clip of T frames of H x W with labels of three classes, some of which do not count."""

    def make(frames=3, height=64, width=96, seed=0, first_labeled=True):
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(0, 3, (frames, height // 8, width // 8), generator=generator)
        labels = labels.repeat_interleave(8, 1).repeat_interleave(8, 2)
        images = (labels[:, None] * 80 + torch.randint(0, 60, (frames, 3, height, width), generator=generator)).byte()
        labels[:, :8] = 255
        if not first_labeled:
            labels[0] = 255
        return {
            "frames": images,
            "sem_segs": labels,
            "file_names": [f"{t}.png" for t in range(frames)],
            "sequence": "a",
            "height": height,
            "width": width,
        }

    return make
