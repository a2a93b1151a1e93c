"""Find the packaged configs by name.

A config's name is its path below ``configs/``, such as ``BlendMask/R_50_1x.yaml``. Files called ``Base-*`` are parts
of others; ``studies/`` compares several. No trained weights are published for any of them; see
MODEL_ZOO.md.
"""

import difflib
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import yaml

from .d2.config import CfgNode
from .errors import UserError

__all__ = ["config_digest", "config_folder", "get_config", "get_config_file", "list_configs"]

_PACKAGE = Path(__file__).resolve().parent


def config_folder() -> Path:
    """Return the folder of the configs: inside the package if installed, beside it in a checkout."""
    for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs"):
        if folder.is_dir():
            return folder
    raise UserError(f"the configs must be in {_PACKAGE} or beside it; got neither. Install the package again")


def list_configs() -> list[str]:
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


def get_config(name: str, trained: bool = False) -> CfgNode:
    """Return the config called ``name``, on top of the engine's and this package's defaults.

    Args:
        name: see :func:`list_configs`.
        trained: ask for ``MODEL.WEIGHTS`` to be trained weights. None are published, so this raises.

    Raises:
        UserError: no such config, or ``trained``.
    """
    from .config import load_config

    cfg = load_config(get_config_file(name))
    if trained:
        raise UserError(
            f"no trained weights are published for {name}; train it, or set MODEL.WEIGHTS to a checkpoint of yours"
        )
    return cfg


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
