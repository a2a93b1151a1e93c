"""Load data sets by name and check that they fit together."""

import functools
import itertools
import logging
from collections import Counter

from .catalog import DatasetCatalog, MetadataCatalog
from .detection_utils import check_metadata_consistency

logger = logging.getLogger(__name__)


def trivial_batch_collator(batch: list) -> list:
    """Return the batch unchanged, because images of different sizes cannot be stacked."""
    return batch


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
    """Load data sets by name and join them. Their ``thing_classes`` must be equal.

    ``filter_empty`` leaves out images without annotations other than crowds, if the data sets have annotations.
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
