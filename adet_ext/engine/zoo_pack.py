"""Put a trained checkpoint into a zoo: half precision, config, record, model card, and the entry of the index."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ..d2.checkpoint import read_checkpoint
from ..d2.config import CfgNode
from ..errors import UserError
from ..trained import FILES, INDEX
from ..utils.files import make_folder, sha256_of, written_beside

__all__ = ["pack"]

_LEFT_OUT = ("seg_head.",)  # of training alone
# What a record must say, besides the figures.
_ABOUT = ("task", "data", "purpose", "limits", "license", "trained", "evaluated_on")


def pack(
    zoo: str, name: str, cfg: CfgNode, checkpoint: str, about: Mapping[str, Any], figures: Mapping[str, float]
) -> dict[str, Any]:
    """Write a model's files below the folder ``zoo`` and its entry in the index; return the record.

    Args:
        name: such as "people/blendmask"; its config is ``configs/people/blendmask.yaml``.
        cfg: what it was trained with, whole. Folders of the machine are left out.
        checkpoint: its file; tensors of floating point are rounded to half precision.
        about: ``task``, ``data``, ``purpose``, ``limits``, ``license`` (texts), ``trained`` (how, on what, with which
            seed, where and how long), ``evaluated_on`` (see :func:`.zoo_evaluation.evaluate_trained`). Of a project's
            model also ``package``, ``config``, its path in the checkout, and ``demo``, what ``demo`` takes for PHOTO.
        figures: in percent, by name, of the rounded weights.

    Raises:
        UserError: ``about`` lacks something, or the folder cannot be written to.
    """
    if missing := [key for key in _ABOUT if key not in about]:
        raise UserError(f"the record of {name} must say {', '.join(missing)}; add it")
    folder = make_folder(os.path.join(zoo, *name.split("/")))
    paths = [os.path.join(folder, file) for file in FILES]
    classes = about["evaluated_on"]["classes"]
    count = save_half(checkpoint, paths[0], classes)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR = "", f"output/{name}"
    _write(paths[1], cfg.dump())
    record = {
        "name": name,
        "config": f"configs/{name}.yaml",
        **about,
        "parameters": count,
        "figures": {key: round(value, 1) for key, value in figures.items()},
    }
    _write(paths[2], json.dumps(record, indent=2) + "\n")
    _write(os.path.join(folder, "README.md"), model_card(record, os.path.getsize(paths[0])))
    _enter(zoo, record, dict(zip(FILES, paths)))
    return record


def save_half(checkpoint: str, target: str, classes: Sequence[str]) -> int:
    """Write the tensors of a checkpoint that predictions need as float16 safetensors; return how many numbers."""
    kept = {}
    for name, value in read_checkpoint(checkpoint)["model"].items():
        value = torch.as_tensor(value)
        if not any(part in name for part in _LEFT_OUT) and not name.endswith("num_batches_tracked"):
            kept[name] = (value.half() if value.is_floating_point() else value).contiguous()
    with written_beside(target) as beside:
        save_file(kept, beside, metadata={"format": "pt", "classes": json.dumps(list(classes))})
        os.chmod(beside, 0o644)  # the library makes files that nobody else may read
    return sum(value.numel() for value in kept.values())


def model_card(record: Mapping[str, Any], size: int) -> str:
    """Return the card of a model: what it is for, what it cannot do, how it was trained, its figures and licenses."""
    trained = "\n".join(f"- {key}: {value}" for key, value in record["trained"].items())
    figures = "\n".join(f"| {key} | {value:.1f} |" for key, value in record["figures"].items())
    program = f"python -m {record.get('package', 'adet_ext')}"
    return (
        f"# {record['name']}\n\n{record['task']}; trained on {record['data']}; classes: "
        f"{', '.join(record['evaluated_on']['classes'])}. {record['parameters'] / 1e6:.1f} million parameters, "
        f"{size / 1e6:.1f} MB in half precision. Config: `{record['config']}`.\n\n"
        f"    {program} demo {record.get('demo', 'PHOTO')} --model {record['name']}\n\n"
        f"**What it is for.** {record['purpose']}\n\n**What it cannot do.** {record['limits']}\n\n"
        f"**License.** {record['license']}\n\n## Figures\n\nOf these half-precision weights, on "
        f"{record['evaluated_on']['name']}, in percent; `{program} zoo eval {record['name']} --data DIR` "
        f"evaluates them again.\n\n| figure | value |\n| --- | ---: |\n{figures}\n\n## Training\n\n{trained}\n"
    )


def _enter(zoo: str, record: Mapping[str, Any], paths: Mapping[str, str]) -> None:
    path = os.path.join(zoo, INDEX)
    index = json.loads(Path(path).read_text(encoding="utf-8")) if os.path.isfile(path) else {}
    index[record["name"]] = {
        "task": record["task"],
        "data": record["data"],
        "figures": record["figures"],
        "bytes": os.path.getsize(paths[FILES[0]]),
        "files": {file: sha256_of(path) for file, path in paths.items()},
        **({"package": record["package"]} if "package" in record else {}),
    }
    _write(path, json.dumps(dict(sorted(index.items())), indent=2) + "\n")


def _write(path: str, text: str) -> None:
    with written_beside(path) as beside:
        Path(beside).write_text(text, encoding="utf-8")
