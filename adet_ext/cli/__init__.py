"""The command line: one module per verb, imported only when its verb is used.

A verb's module has ``main(argv: list[str] | None = None) -> int | None``; ``None`` stands for ``sys.argv[1:]``.
"""

import difflib
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence

from ..errors import UserError
from ..utils.stopping import Terminated, terminate_at_once

__all__ = ["VERBS", "main", "project_main", "run", "run_program"]

VERBS = {
    "train": "train a model, or evaluate it with --eval-only",
    "eval": "evaluate a checkpoint",
    "demo": "draw a model's predictions on images, folders or videos",
    "explain": "draw what masks are made of: bases, attentions, components",
    "zoo": "list the trained models and evaluate them against their figures on record",
    "data": "list, check, prepare and draw data sets",
    "bench": "time models against one another in paired rounds",
    "quick": "train a small model, evaluate it and write an HTML report, in one command",
    "report": "write the HTML report of a training",
    "study": "train the rows of an ablation over several seeds and compare",
    "search": "show what an architecture search has found, also while it runs",
    "analyze": "parameters, multiply-adds and activations, per module",
    "export": "write a model to one file for other runtimes: ONNX, or .pt2 of PyTorch",
    "convert": "a SmalMask's checkpoint into a SmalMask2's, or the reverse",
    "env": "versions, the engine that is on and why, native operators",
}

USAGE = "python -m adet_ext VERB [arguments]"


def run(verb: str, argv: Sequence[str] | None = None, package: str = __name__) -> int:
    """Run a verb, a module of ``package``, and return its exit status.

    A :class:`UserError` becomes one sentence on the standard error and status 2; with ``ADET_EXT_DEBUG=1`` its
    traceback comes before it. Ctrl-C and SIGTERM become one sentence and status 130 and 143. Other exceptions are
    defects and pass through.
    """
    name = "adet_ext" if package == __name__ else package
    return run_program(f"{name} {verb}", lambda: _main_of(package, verb)(None if argv is None else list(argv)))


def run_program(name: str, main: Callable[[], int | None]) -> int:
    """Run a program of the package or of a project under the rules of :func:`run`; return its exit status.

    Args:
        name: what its sentences begin with.
    """
    logging.raiseExceptions = False  # a log that cannot be written, to a full disk for example, is no traceback
    try:
        with terminate_at_once():
            return _run(name, main)
    except Terminated as stop:
        print(f"{name}: {stop.message}", file=sys.stderr)
        return 143


def _main_of(package: str, verb: str) -> Callable[[list[str] | None], int | None]:
    return importlib.import_module(f"{package}.{verb}").main


def _run(name: str, main: Callable[[], int | None]) -> int:
    try:
        return main() or 0
    except UserError as error:
        if os.environ.get("ADET_EXT_DEBUG", "") not in ("", "0"):
            traceback.print_exc()
        sys.stdout.flush()
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"{name}: {stop or 'interrupted'}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output went away, as in "... | head". Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def main(argv: Sequence[str] | None = None) -> int:
    """Dispatch ``VERB arguments``; return the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if argv else 2
    if argv[0] in ("-V", "--version"):
        from .. import __version__

        print(f"adet_ext {__version__}")
        return 0
    verb, rest = argv[0], argv[1:]
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the verbs are {', '.join(VERBS)}"
        print(f"adet_ext: there is no verb {verb!r}; {hint}", file=sys.stderr)
        return 2
    sys.argv = [f"python -m adet_ext {verb}", *rest]  # what argparse and the printed command lines show
    return run(verb, rest)


def project_main(package: str, verbs: Mapping[str, str], argv: Sequence[str]) -> int:
    """Run a verb of a project, a module of ``package``, or one of this package; return the exit status.

    Args:
        verbs: the project's own, with what each does; they come before this package's of the same name.
    """
    if argv and argv[0] in verbs:
        return run(argv[0], argv[1:], package=package)
    status = main(argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print("\nverbs of the project:", *(f"  {verb:<9}{what}" for verb, what in verbs.items()), sep="\n")
    return status


def _help() -> str:
    lines = [f"usage: {USAGE}", "", "Fully convolutional segmenters, with or without Detectron2.", "", "verbs:"]
    lines += [f"  {verb:<9}{what}" for verb, what in VERBS.items()]
    lines += [
        "",
        "'python -m adet_ext VERB --help' lists a verb's arguments.",
        "",
        "environment:",
        "  ADET_EXT_ENGINE   auto (default), detectron2 or embedded",
        "  ADET_EXT_DEBUG=1  print the traceback of errors in the input too",
        "  ADET_EXT_OPS      auto (default) or reference: leave the compiled operators out",
    ]
    return "\n".join(lines)
