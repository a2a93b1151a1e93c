"""Read JSON annotation files. Validation, training, evaluation and preparation use this one reader."""

import json
import locale
from typing import Any

from ..d2.utils import PathManager
from ..errors import UserError

__all__ = ["read_json", "reads_alike_everywhere"]


def read_json(path: str) -> Any:
    """Return the content of a JSON file in UTF-8, UTF-16 or UTF-32, with or without a byte-order mark.

    Raises:
        UserError: the file is missing, cannot be read or is not JSON, with the place.
    """
    return parse_json(read_bytes(path), path)


def read_bytes(path: str) -> bytes:
    """Return the bytes of the file at ``path``.

    Raises:
        UserError: the file is missing or cannot be read.
    """
    try:
        with PathManager.open(path, "rb") as file:
            return file.read()
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such annotation file; check the path") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: it cannot be read ({reason}); check the path") from error


def parse_json(content: bytes, path: str) -> Any:
    """Return the parsed ``content`` of the file at ``path``.

    Raises:
        UserError: it is not JSON, with the place.
    """
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}: {error.msg}"
    except RecursionError:
        place = "its lists are nested too deeply"
    except ValueError as error:  # bytes that are not text, and numbers of thousands of digits
        place = str(error).partition(";")[0]
    raise UserError(f"{path}: this is not JSON ({place}); check that it is the right file and complete")


def reads_alike_everywhere(content: bytes) -> bool:
    """Whether ``json.load(open(path))``, as evaluators call it, reads ``content`` as :func:`parse_json` does."""
    if content.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")) or b"\x00" in content[:4]:
        return False
    return content.isascii() or locale.getpreferredencoding(False).lower().replace("-", "") == "utf8"
