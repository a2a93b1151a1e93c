"""The door to Detectron2: the only place of the package that imports it.

The modules beside this one export Detectron2's names. They are Detectron2's objects or those of the embedded engine in
:mod:`adet_ext.d2.embedded`. The rest of the package does not ask which.

``ADET_EXT_ENGINE`` chooses the engine: ``auto`` (the default) takes Detectron2 if it can be imported, else the embedded
engine; ``detectron2`` and ``embedded`` demand one of the two.
"""

import importlib
import importlib.util
import logging
import os

__all__ = ["ENGINE", "REASON", "DETECTRON2_ERROR"]

# Detectron2 is usable only if these import. Its compiled operators fail if it was built for another torch, and
# ``import detectron2`` does not import them.
_PROBES = ("detectron2", "detectron2._C", "detectron2.modeling", "detectron2.data", "detectron2.engine")


def _probe_detectron2() -> str:
    """Return "" if Detectron2 can be imported completely, else the reason as one sentence."""
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
        raise ValueError(f"ADET_EXT_ENGINE must be auto, detectron2 or embedded; got {wish!r}")
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
