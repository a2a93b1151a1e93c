"""Load YAML config files, follow ``_BASE_`` and apply overrides."""

import os
from collections.abc import Sequence

from ..d2.config import CfgNode as CN
from ..d2.config import get_cfg as _engine_cfg
from .errors import check_overrides, explained
from .keys import add_adet_config

__all__ = ["find_config", "get_cfg", "load_config"]


def get_cfg() -> CN:
    """A config with Detectron2's defaults and this package's."""
    cfg = _engine_cfg()
    add_adet_config(cfg)
    return cfg


def load_config(path: str, opts: Sequence[str] = ()) -> CN:
    """Load a YAML file, following ``_BASE_``, then apply ``opts`` (KEY VALUE KEY VALUE ...).

    ``path`` is a file, or the name of a packaged config such as ``BlendMask/R_50_1x.yaml``.

    Raises:
        UserError: the file is missing or no YAML, or a key or a value does not fit; with the nearest key.
    """
    path = find_config(path)
    cfg = get_cfg()
    with explained(cfg, path):
        cfg.merge_from_file(path, allow_unsafe=False)  # Detectron2 would let a YAML tag call any function
    check_overrides(cfg, opts)
    for key, value in zip(opts[0::2], opts[1::2]):
        with explained(cfg, f"the command line ({key} {value})"):
            cfg.merge_from_list([key, value])
    return cfg


def find_config(path: str) -> str:
    """``path`` itself if it is a file, else the packaged config of that name.

    Raises:
        UserError: neither is there; with near matches.
    """
    if os.path.isfile(path):
        return path
    from ..model_zoo import get_config_file

    return get_config_file(path)
