"""The door to Detectron2: the one place of the package that imports it.

Each module beside this one hands on names under Detectron2's own spelling, either Detectron2's objects or
those of the embedded engine in :mod:`adet_ext.d2.embedded`. Code above the door cannot tell which it got.

``ADET_EXT_ENGINE`` chooses: ``auto`` (the default) takes Detectron2 where it imports and the embedded engine
elsewhere, ``detectron2`` insists on the former, ``embedded`` on the latter.
"""

import importlib
import importlib.util
import logging
import os

__all__ = ["ENGINE", "REASON", "DETECTRON2_ERROR"]

# What has to work before Detectron2 counts as usable: its compiled operators break first when it was
# built for another torch, and they are not imported by ``import detectron2`` alone.
_PROBES = ("detectron2", "detectron2._C", "detectron2.modeling", "detectron2.data", "detectron2.engine")


def _probe_detectron2() -> str:
    """Return "" where Detectron2 imports as a whole, else the reason why not, as one sentence."""
    if importlib.util.find_spec("detectron2") is None:
        return "Detectron2 is not installed"
    for name in _PROBES:
        try:
            importlib.import_module(name)
        except Exception as error:  # a binary for another torch may raise anything, not only ImportError
            first_line = (str(error).strip().splitlines() or ["no message"])[0]
            return f"Detectron2 is installed but {name} does not import: {type(error).__name__}: {first_line}"
    return ""


def _choose() -> tuple[str, str, str]:
    """Return (engine, why it was chosen, what is wrong with Detectron2 or "")."""
    wish = os.environ.get("ADET_EXT_ENGINE", "auto").strip().lower() or "auto"
    if wish not in ("auto", "detectron2", "embedded"):
        raise ValueError(f"ADET_EXT_ENGINE is {wish!r}; set it to auto, detectron2 or embedded")
    if wish == "embedded":
        return "embedded", "ADET_EXT_ENGINE=embedded", ""
    problem = _probe_detectron2()
    if not problem:
        return "detectron2", "Detectron2 is installed and imports", ""
    if wish == "detectron2":
        raise ImportError(f"ADET_EXT_ENGINE=detectron2, but {problem[0].lower()}{problem[1:]}")
    if "not installed" not in problem:
        logging.getLogger(__name__).warning("%s; going on with the embedded engine", problem)
    return "embedded", problem, problem


ENGINE, REASON, DETECTRON2_ERROR = _choose()
