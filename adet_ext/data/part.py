"""Register a part of the images of data sets under a name of its own."""

import json
import os
from collections.abc import Sequence

from ..d2.data import MetadataCatalog
from ..d2.utils import PathManager
from .catalog import process_folder, replace_dataset

__all__ = ["register_part"]


def register_part(name: str, source: str, records: Sequence[dict], *, panoptic: bool = False) -> None:
    """Register ``records`` of data set ``source`` as ``name``, with the metadata of ``source``.

    Args:
        panoptic: whether PQ is computed on the part. Its panoptic annotations, those of its images alone, are then
            written to a folder of this process; else it has none.
    """
    metadata = {key: value for key, value in vars(MetadataCatalog.get(source)).items() if key != "name"}
    whole = metadata.pop("panoptic_json", None)
    if panoptic and whole:
        metadata["panoptic_json"] = _write_part(whole, {record["image_id"] for record in records})
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
