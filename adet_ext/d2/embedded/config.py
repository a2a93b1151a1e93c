"""The config node of fvcore with Detectron2's defaults, and YAML that cannot run code."""

import functools
import inspect
import os
from collections.abc import Callable
from typing import Any

import yaml
from fvcore.common.config import BASE_KEY
from fvcore.common.config import CfgNode as _FvcoreNode

from .utils.file_io import PathManager


class CfgNode(_FvcoreNode):
    """Nested keys, read and written as attributes. Files and command lines can only set existing keys.

    Merging an unknown key raises ``KeyError`` (a file) or ``AssertionError`` (a list of overrides), a value
    of another type ``ValueError``. A file inherits from the file or files in its ``_BASE_``,
    relative to itself. A YAML tag that would run code is refused, even with ``allow_unsafe``.
    """

    @classmethod
    def _open_cfg(cls, filename: str):
        return PathManager.open(filename, "r")

    @classmethod
    def load_yaml_with_base(
        cls, filename: str, allow_unsafe: bool = False, _heirs: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        """Return the content of ``filename`` merged over that of its ``_BASE_`` files (later over earlier)."""
        filename = os.path.expanduser(filename)
        if filename in _heirs:
            raise ValueError(f"{BASE_KEY} goes round in a circle: {' -> '.join((*_heirs, filename))}")
        with cls._open_cfg(filename) as file:
            try:
                own = yaml.load(file, Loader=_Loader)
            except yaml.constructor.ConstructorError as error:
                raise ValueError(
                    f"{filename}: {str(error.problem)}{error.problem_mark or ''}; tags that build Python "
                    "objects are never followed, write the value out"
                ) from error
            except yaml.YAMLError as error:
                raise ValueError(f"{filename} is not valid YAML: {error}") from error
        if own is None:
            own = {}
        if not isinstance(own, dict):
            raise ValueError(f"{filename} holds a {type(own).__name__}; a config file is a mapping of keys")
        bases = own.pop(BASE_KEY, [])
        merged: dict[str, Any] = {}
        for base in [bases] if isinstance(bases, str) else bases:
            base = os.path.expanduser(base)
            if not base.startswith(("/", "http://", "https://")):
                base = os.path.join(os.path.dirname(filename), base)
            _overlay(cls.load_yaml_with_base(base, _heirs=(*_heirs, filename)), merged, base)
        _overlay(own, merged, filename)
        return merged

    def merge_from_file(self, cfg_filename: str, allow_unsafe: bool = False) -> None:
        """Merge the keys of a YAML file. Raise ``FileNotFoundError``, ``KeyError`` or ``ValueError``."""
        if not PathManager.isfile(cfg_filename):
            raise FileNotFoundError(f"Config file '{cfg_filename}' does not exist")
        loaded = type(self)(self.load_yaml_with_base(cfg_filename))
        version = loaded.get("VERSION", 1 if "WEIGHT" in loaded.get("MODEL", {}) else self.VERSION)
        if version != self.VERSION:
            raise ValueError(
                f"{cfg_filename} is written for version {version} of the keys and this is version "
                f"{self.VERSION}; Detectron2 itself converts such a file"
            )
        self.merge_from_other_cfg(loaded)


def _overlay(top: dict, bottom: dict, filename: str, path: str = "") -> None:
    """Merge ``top`` into ``bottom``, key by key in nested mappings."""
    for key, value in top.items():
        if isinstance(value, dict) and key in bottom:
            if not isinstance(bottom[key], dict):
                raise ValueError(f"{filename}: {path}{key} is a group of keys here but a value in the base file")
            _overlay(value, bottom[key], filename, f"{path}{key}.")
        else:
            bottom[key] = value


class _Loader(yaml.SafeLoader):
    """YAML's plain types, and tuples."""


_Loader.add_constructor(
    "tag:yaml.org,2002:python/tuple", lambda loader, node: tuple(loader.construct_sequence(node, deep=True))
)


def get_cfg() -> CfgNode:
    """Return a fresh config with Detectron2's keys and defaults."""
    from .defaults import DEFAULTS  # imported here, because it is built from this module

    return CfgNode(DEFAULTS)


def configurable(init_func: Callable | None = None, *, from_config: Callable | None = None) -> Callable:
    """Let a constructor, or a function, take a config in place of its explicit arguments.

    On ``__init__``: the class gives ``from_config(cfg, ...)``, a classmethod that returns the keyword
    arguments. On a function: ``@configurable(from_config=function)``. A call whose first argument (or
    ``cfg=``) is a :class:`CfgNode` goes through ``from_config``; arguments that ``from_config`` does not know
    are passed on and replace what it returns. Any other call is not changed.
    """
    if init_func is not None:
        if not inspect.isfunction(init_func) or init_func.__name__ != "__init__" or from_config is not None:
            raise TypeError("@configurable without arguments belongs on an __init__")

        @functools.wraps(init_func)
        def init(self, *args, **kwargs):
            translate = getattr(type(self), "from_config", None)
            if not inspect.ismethod(translate):
                raise AttributeError(f"{type(self).__name__} is configurable and needs a classmethod from_config")
            if _takes_config(args, kwargs):
                init_func(self, **_explicit_arguments(translate, args, kwargs))
            else:
                init_func(self, *args, **kwargs)

        return init
    if from_config is None:
        return configurable

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def call(*args, **kwargs):
            if _takes_config(args, kwargs):
                return function(**_explicit_arguments(from_config, args, kwargs))
            return function(*args, **kwargs)

        call.from_config = from_config
        return call

    return decorate


def _takes_config(args: tuple, kwargs: dict) -> bool:
    return isinstance(args[0] if args else kwargs.get("cfg"), _FvcoreNode) or isinstance(kwargs.get("cfg"), _FvcoreNode)


def _explicit_arguments(from_config: Callable, args: tuple, kwargs: dict) -> dict:
    parameters = inspect.signature(from_config).parameters
    if next(iter(parameters), None) != "cfg":
        raise TypeError(f"the first argument of {from_config.__qualname__} must be named cfg")
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values()):
        return from_config(*args, **kwargs)
    known = {name: value for name, value in kwargs.items() if name in parameters}
    others = {name: value for name, value in kwargs.items() if name not in parameters}
    return {**from_config(*args, **known), **others}
