"""Choose the font of a text: the packaged one, or an installed one for scripts that it lacks."""

import functools
import logging
import os

from PIL import ImageFont

__all__ = ["font"]

logger = logging.getLogger(__name__)


def font(size: int, text: str = "") -> ImageFont.FreeTypeFont:
    """Return a font of ``size`` pixels that has all characters of ``text``.

    It is DejaVu Sans, which comes with matplotlib and has Latin, Greek and Cyrillic letters; for Chinese, Japanese,
    Korean and others the first installed font that has them. If none has, boxes are drawn instead, and a warning says
    so once per set of characters.
    """
    return _load(_file_for(frozenset(text) - {"\n"}), size)


@functools.lru_cache(maxsize=32)
def _load(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


@functools.lru_cache(maxsize=1024)
def _file_for(characters: frozenset[str]) -> str:
    import matplotlib

    packaged = os.path.join(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")
    missing = characters - _characters(packaged)
    return (_installed(missing) if missing else None) or packaged


@functools.lru_cache(maxsize=256)
def _installed(missing: frozenset[str]) -> str | None:
    """Return an installed font that has all of ``missing`` and Latin letters, or None."""
    from matplotlib import font_manager

    for path in sorted(font_manager.findSystemFonts()):
        if missing | {"a", "%"} <= _characters(path):
            return path
    logger.warning(
        "no installed font has %s, so boxes are drawn instead; install one that does, such as Noto Sans CJK",
        " ".join(sorted(missing)),
    )
    return None


@functools.lru_cache(maxsize=4096)
def _characters(path: str) -> frozenset[str]:
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(map(chr, FT2Font(path).get_charmap()))
    except Exception:  # FreeType's errors differ by version; a broken font has no characters
        return frozenset()
