"""Find the packaged configs and the trained models by name.

A config's name is its path below ``configs/``, such as ``BlendMask/R_50_1x.yaml``. Files called ``Base-*`` are parts
of others; ``studies/`` compares several. Trained models have names such as ``people/blendmask``; see
:mod:`adet_ext.trained` for where their files are, and MODEL_ZOO.md::

    model = model_zoo.get("people/blendmask", trained=True)     # an nn.Module that predicts
    predictor = Predictor(model_zoo.get_config("people/blendmask", trained=True))
"""

import difflib
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from .d2.config import CfgNode
from .errors import UserError
from .trained import find_trained, list_trained

if TYPE_CHECKING:
    from torch import nn

__all__ = ["config_digest", "config_folder", "get", "get_config", "get_config_file", "list", "list_configs"]

_PACKAGE = Path(__file__).resolve().parent


def config_folder() -> Path:
    """Return the folder of the configs: inside the package if installed, beside it in a checkout."""
    for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs"):
        if folder.is_dir():
            return folder
    raise UserError(f"the configs must be in {_PACKAGE} or beside it; got neither. Install the package again")


def list_configs() -> "list[str]":
    """Return the names of all configs that build a model, sorted."""
    folder = config_folder()
    names = (path.relative_to(folder) for path in folder.rglob("*.yaml") if not path.name.startswith("Base-"))
    return sorted(name.as_posix() for name in names if name.parts[0] != "studies")


def get_config_file(name: str) -> str:
    """Return the file of the config called ``name``, ready for ``cfg.merge_from_file``.

    Raises:
        UserError: no config has this name; the message has the nearest ones.
    """
    path = config_folder() / name
    if path.suffix == ".yaml" and path.is_file():
        return str(path)
    raise UserError(f"there is no config {name!r} in {config_folder()}; {_near(name)}")


def get_config(name: str, trained: bool = False, opts: Sequence[str] = ()) -> CfgNode:
    """Return the config called ``name``, on top of the engine's and this package's defaults.

    Args:
        name: see :func:`list_configs`.
        trained: the config of a trained model, see :func:`list`, with ``MODEL.WEIGHTS`` its file and
            ``MODEL.DEVICE`` the GPU where there is one.

        opts: overrides KEY VALUE ..., which have the last word.

    Raises:
        UserError: no such config or trained model, or a file of it is missing or altered.
    """
    import torch

    from .config import load_config

    if not trained:
        return load_config(get_config_file(name), opts)
    found = find_trained(name)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return load_config(found.config, ["MODEL.WEIGHTS", found.weights, "MODEL.DEVICE", device, *opts])


def get(name: str, trained: bool = False, device: str | None = None) -> "nn.Module":
    """Build the model called ``name``; with ``trained``, load its weights and put it in evaluation mode.

    Args:
        name, trained: see :func:`get_config`.
        device: "cpu" or "cuda"; by default the config's, for trained models the GPU where there is one.

    Raises:
        UserError: as :func:`get_config`.
    """
    from .d2.modeling import build_model
    from .engine.checkpoint import AdetCheckpointer

    cfg = get_config(name, trained)
    if device is not None:
        cfg.MODEL.DEVICE = device
    model = build_model(cfg)
    if trained:
        AdetCheckpointer(model).load_to_predict(cfg.MODEL.WEIGHTS)
        model.eval()
    return model


def list() -> Sequence[str]:  # noqa: A001  (called as model_zoo.list())
    """Return the names of the trained models.

    Raises:
        UserError: there is no zoo, or it cannot be reached.
    """
    return sorted(list_trained())


def config_digest(path: str | Path, overrides: Sequence[str] = ()) -> str:
    """Return a fingerprint of a config file, of those it is based on, and of the overrides.

    Line ends do not count. The file must be one that loads.
    """
    hasher = hashlib.sha256("\0".join(overrides).encode())
    while path:
        text = Path(path).read_bytes()
        hasher.update(text.replace(b"\r\n", b"\n"))
        base = (yaml.safe_load(text) or {}).get("_BASE_")
        path = os.path.join(os.path.dirname(path), os.path.expanduser(base)) if base else ""
    return hasher.hexdigest()[:16]


def _near(name: str) -> str:
    names = list_configs()
    wanted = name.lower().removesuffix(".yaml")
    by_key = {known.lower().removesuffix(".yaml"): known for known in names}
    near = difflib.get_close_matches(wanted, by_key, n=3, cutoff=0.5)
    # A name without its folder, or with another project's folder, is nearest by its last part.
    near += [key for key in by_key if key.rsplit("/", 1)[-1] == wanted.rsplit("/", 1)[-1] and key not in near]
    if near:
        return "did you mean " + " or ".join(by_key[key] for key in near[:4]) + "?"
    return f"there are {len(names)}: {', '.join(names[:5])}, ..."
