"""Load YAML config files, follow ``_BASE_`` and apply overrides."""

import os
from collections.abc import Callable, Sequence
from typing import Any

from ..d2.config import CfgNode as CN
from ..d2.config import get_cfg as _engine_cfg
from ..errors import UserError
from .errors import check_overrides, explained, kind_of, shortened
from .files import read_config_file
from .keys import add_adet_config
from .values import fitted, fitted_tree

__all__ = ["add_project_keys", "find_config", "get_cfg", "load_config", "project_keys"]

_PROJECTS: list[Callable[[CN], None]] = []


def add_project_keys(add_config: Callable[[CN], None]) -> None:
    """Let :func:`get_cfg` and :func:`load_config` know the keys that ``add_config(cfg)`` adds.

    A project calls this when it is imported, as it registers its models then. Adding the same function twice changes
    nothing.
    """
    if add_config not in _PROJECTS:
        _PROJECTS.append(add_config)


def project_keys() -> tuple[Callable[[CN], None], ...]:
    """Return what :func:`add_project_keys` was given.

    A process that is started with them as an argument imports the projects, because functions are pickled by name.
    """
    return tuple(_PROJECTS)


def get_cfg() -> CN:
    """A config with Detectron2's defaults, this package's, and those of the projects that are imported."""
    cfg = _engine_cfg()
    add_adet_config(cfg)
    for add_config in _PROJECTS:
        add_config(cfg)
    return cfg


def load_config(path: str, opts: Sequence[str] = ()) -> CN:
    """Load a YAML file, following ``_BASE_``, then apply ``opts`` (KEY VALUE KEY VALUE ...).

    ``path`` is a file, or the name of a packaged config such as ``BlendMask/R_50_1x.yaml``.

    Raises:
        UserError: the file is missing or no YAML, or a key or a value does not fit; with the nearest key.
    """
    path = find_config(path)
    cfg = get_cfg()
    values = fitted_tree(cfg, read_config_file(path), path)
    if values.get("VERSION", cfg.VERSION) not in (1, cfg.VERSION):
        raise UserError(f"{path}: VERSION must be {cfg.VERSION}; got {shortened(values['VERSION'])}")
    with explained(cfg, path):
        # Detectron2's merge_from_file, which knows old versions of its keys, with our reader of the file.
        cfg.__dict__["load_yaml_with_base"] = lambda *args, **kwargs: values
        cfg.merge_from_file(path)
    del cfg.__dict__["load_yaml_with_base"]
    check_overrides(cfg, opts)
    for key, value in zip(opts[0::2], opts[1::2]):
        default = _default(cfg, key)
        with explained(cfg, f"the command line ({shortened(f'{key} {value}')})"):
            if value in (None, "None") and default is not None:
                raise UserError(f"{key} must be {kind_of(default)}; got {value}")
            cfg.merge_from_list([key, fitted(default, value)])
    return cfg


def _default(cfg: CN, key: str) -> Any:
    for part in key.split("."):
        cfg = cfg.get(part) if isinstance(cfg, CN) else None
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
