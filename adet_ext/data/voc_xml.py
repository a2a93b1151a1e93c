"""The reader of one XML annotation file of PASCAL VOC's format."""

import dataclasses
import math
import xml.etree.ElementTree as ElementTree

from ..errors import UserError
from .annotation_form import short
from .json_file import read_bytes

__all__ = ["Fault", "VocImage", "VocObject", "read_voc_xml"]

_SIDES = ("xmin", "ymin", "xmax", "ymax")


class Fault(Exception):
    """What is wrong with a file: its kind, for a report, and a sentence with the remedy."""

    def __init__(self, kind: str, sentence: str):
        super().__init__(sentence)
        self.kind = kind


@dataclasses.dataclass(frozen=True)
class VocObject:
    """An object as the file has it.

    Attributes:
        name: of its class.
        box: xmin, ymin, xmax, ymax in pixels, which VOC counts from 1, both ends in the box.
        difficult: whether it is marked as hard to recognize.
    """

    name: str
    box: tuple[float, float, float, float]
    difficult: bool


@dataclasses.dataclass(frozen=True)
class VocImage:
    """Size in pixels and objects of an image, in the order of the file."""

    width: int
    height: int
    objects: tuple[VocObject, ...]


def read_voc_xml(path: str) -> VocImage:
    """Return what the file at ``path`` says.

    A file that declares a document type is refused: VOC's have none, and entities that such a declaration defines can
    grow to any size when they are put in.

    Raises:
        Fault: the file is missing, broken, or not of VOC's format.
    """
    try:
        content = read_bytes(path)
    except UserError as error:
        sentence = str(error).removeprefix(f"{path}: ")
        if sentence.startswith("there is no such"):
            raise Fault(
                "annotation file missing", "there is no such file; restore it, or take the image out of the list"
            ) from error
        raise Fault("annotation file unreadable", sentence) from error
    root = _parse(content)
    if root.tag != "annotation":
        raise Fault("not VOC", f"its root is <{root.tag}>, not VOC's <annotation>; convert it to VOC's format")
    width, height = (_side(root, key) for key in ("width", "height"))
    return VocImage(width, height, tuple(_object(o, i) for i, o in enumerate(root.findall("object"), 1)))


def _parse(content: bytes) -> ElementTree.Element:
    # Without the zeros UTF-16 and UTF-32 are searched too; other encodings that the parser takes have ASCII's bytes.
    if b"<!DOCTYPE" in content.replace(b"\0", b""):
        raise Fault("document type", "it declares a document type (<!DOCTYPE), which VOC's files have not; remove it")
    try:
        return ElementTree.fromstring(content)
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the latter two: an unknown encoding
        raise Fault("not XML", f"this is not XML ({error}); check that it is the right file and complete") from error


def _text(element: ElementTree.Element | None, path: str) -> str | None:
    found = None if element is None else element.find(path)
    return None if found is None else (found.text or "").strip()


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _side(root: ElementTree.Element, key: str) -> int:
    text = _text(root, f"size/{key}")
    value = _number(text)
    if value is None or not math.isfinite(value) or value != int(value) or not 0 < value < 2**31:
        got = "nothing" if text is None else short(text)
        raise Fault("size", f"size/{key} must be a positive whole number of pixels; got {got}. Correct the file")
    return int(value)


def _object(element: ElementTree.Element, number: int) -> VocObject:
    """Return an object; parts of it, as VOC's layout task has them, are passed over."""
    name = _text(element, "name")
    if not name:
        raise Fault("object malformed", f"object {number} has no name; give it that of its class")
    texts = {side: _text(element, f"bndbox/{side}") for side in _SIDES}
    numbers = {side: _number(text) for side, text in texts.items()}
    wrong = [side for side in _SIDES if numbers[side] is None]
    if wrong:
        got = texts[wrong[0]]
        raise Fault(
            "object malformed",
            f"object {number} ({name}): bndbox/{wrong[0]} must be a number; got "
            f"{'nothing' if got is None else short(got)}. Correct the file",
        )
    difficult = _text(element, "difficult") or "0"
    if difficult not in ("0", "1"):
        raise Fault(
            "object malformed",
            f"object {number} ({name}): difficult must be 0 or 1; got {short(difficult)}. Correct it",
        )
    return VocObject(name, tuple(numbers[side] for side in _SIDES), difficult == "1")
