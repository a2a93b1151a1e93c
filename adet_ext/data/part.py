"""Register a part of the images of data sets under a name of its own."""

import json
import os
from collections.abc import Sequence

from ..d2.data import MetadataCatalog
from ..d2.utils import PathManager
from .catalog import process_folder, replace_dataset

__all__ = ["register_part"]


def register_part(name: str, source: str, records: Sequence[dict]) -> None:
    """Register ``records`` of data set ``source`` as ``name``, with the metadata of ``source``.

    The panoptic annotations of a part, which PQ is computed with, are those of its images alone: they are written to a
    folder of this process.
    """
    metadata = {key: value for key, value in vars(MetadataCatalog.get(source)).items() if key != "name"}
    if metadata.get("panoptic_json"):
        metadata["panoptic_json"] = _write_part(metadata["panoptic_json"], {record["image_id"] for record in records})
    replace_dataset(name, lambda: list(records), metadata)


def _write_part(path: str, ids: set) -> str:
    with open(PathManager.get_local_path(path), encoding="utf-8") as file:
        whole = json.load(file)
    part = {
        **whole,
        "images": [image for image in whole.get("images", ()) if image["id"] in ids],
        "annotations": [annotation for annotation in whole["annotations"] if annotation["image_id"] in ids],
    }
    part_path = os.path.join(process_folder(), "panoptic.json")
    with open(part_path, "w", encoding="utf-8") as file:
        json.dump(part, file)
    return part_path
