"""The project's small config, and what else its tests share."""

from pathlib import Path

import auto_deeplab  # noqa: F401  (registers its models and keys)
import cv2
import numpy as np
import pytest

from adet_ext.data.catalog import replace_dataset

PROJECT = Path(__file__).resolve().parents[1]

SMALL = [
    *("MODEL.DEVICE", "cpu", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3", "MODEL.AUTO_DEEPLAB.WIDTH", "2"),
    *("MODEL.ATROUS_HEAD.WIDTH", "8", "MODEL.ATROUS_HEAD.FINE_WIDTH", "4", "INPUT.FORMAT", "RGB"),
    *("MODEL.AUTO_DEEPLAB.SEARCH.LAYERS", "3", "MODEL.AUTO_DEEPLAB.SEARCH.BLOCKS", "2"),
    *("MODEL.AUTO_DEEPLAB.SEARCH.WIDTH", "2", "MODEL.AUTO_DEEPLAB.SEARCH.STEM", "[4, 8]"),
]


@pytest.fixture
def small_arguments():
    """Return the file of a config's name, and the overrides that make it small, for commands."""
    return lambda name="Base-AutoDeepLab": (str(PROJECT / "configs" / f"{name}.yaml"), list(SMALL))


@pytest.fixture
def semantic_set(tmp_path):
    """Register six images of three stripes, which their colors tell apart, and return the set's name."""
    records = []
    for i in range(6):
        labels = (np.arange(64)[:, None] + 8 * i) // 24 % 3 * np.ones((1, 64), int)
        image = np.uint8([[200, 30, 30], [30, 200, 30], [30, 30, 200]])[labels]
        labels[0] = 255
        cv2.imwrite(str(tmp_path / f"{i}.png"), image[..., ::-1])
        cv2.imwrite(str(tmp_path / f"{i}_labels.png"), np.uint8(labels))
        record = {"file_name": str(tmp_path / f"{i}.png"), "sem_seg_file_name": str(tmp_path / f"{i}_labels.png")}
        records.append({**record, "image_id": i, "height": 64, "width": 64})
    metadata = {"evaluator_type": "sem_seg", "stuff_classes": ["a", "b", "c"], "ignore_label": 255}
    replace_dataset("stripes", lambda: [dict(record) for record in records], metadata)
    return "stripes"
