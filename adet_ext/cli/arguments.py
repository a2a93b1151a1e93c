"""Parse command lines that end in config overrides KEY VALUE."""

import argparse
import re
import sys
from collections.abc import Sequence

__all__ = ["parse_with_overrides"]

# MODEL.WEIGHTS, and MODEL.WEIGHTS=FILE, which is refused later with the right form.
_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)+(=.*)?")
_TOP_KEYS = ("CUDNN_BENCHMARK", "FLOAT32_PRECISION", "OUTPUT_DIR", "SEED", "VERSION", "VIS_PERIOD")


def parse_with_overrides(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse ``argv``, with everything from the first config key on in ``opts``.

    argparse alone gives words after an option of several values, such as ``--class-names cat dog MODEL.WEIGHTS FILE``,
    to that option.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    start = next((i for i, word in enumerate(words) if _is_key(word)), len(words))
    arguments = parser.parse_args(words[:start])
    arguments.opts = [*(getattr(arguments, "opts", None) or []), *words[start:]]
    return arguments


def _is_key(word: str) -> bool:
    return bool(_KEY.fullmatch(word)) or word.partition("=")[0] in _TOP_KEYS
