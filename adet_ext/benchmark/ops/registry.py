"""The cases of all operators."""

import importlib
import pkgutil

from .case import Case

__all__ = ["all_cases"]


def all_cases() -> list[Case]:
    """Every module ``cases_*`` beside this one has a function ``cases() -> list[Case]``."""
    folder = importlib.import_module(__package__)
    names = sorted(m.name for m in pkgutil.iter_modules(folder.__path__) if m.name.startswith("cases_"))
    found: list[Case] = []
    for name in names:
        found += importlib.import_module(f"{__package__}.{name}").cases()
    return found
