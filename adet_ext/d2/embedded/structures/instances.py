"""The instances of one image, as named fields of equal length."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Instances:
    """N instances of an image of ``image_size`` (height, width): every attribute is a field of length N.

    Fields are tensors, :class:`Boxes`, masks or lists. Assigning an attribute sets a field, indexing selects
    instances in all of them, and ``to`` moves those that can move. A field of another length raises
    ``AssertionError``, a missing one ``AttributeError`` (as an attribute) or ``KeyError`` (by ``get``).
    """

    def __init__(self, image_size: tuple[int, int], **fields: Any):
        self._image_size = image_size
        self._fields: dict[str, Any] = {}
        for name, value in fields.items():
            self.set(name, value)

    @property
    def image_size(self) -> tuple[int, int]:
        return self._image_size

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
        else:
            self.set(name, value)

    def __getattr__(self, name: str) -> Any:
        # Unpickling and copying ask for "_fields" before it exists.
        if name == "_fields" or name not in self._fields:
            raise AttributeError(f"these instances have no field '{name}'")
        return self._fields[name]

    def set(self, name: str, value: Any) -> None:
        """Set the field ``name``, new or not."""
        length = len(value)
        if self._fields and len(self) != length:
            raise AssertionError(f"field '{name}' has length {length}, but there are {len(self)} instances")
        self._fields[name] = value

    def has(self, name: str) -> bool:
        return name in self._fields

    def get(self, name: str) -> Any:
        return self._fields[name]

    def remove(self, name: str) -> None:
        del self._fields[name]

    def get_fields(self) -> dict[str, Any]:
        """Return the fields by name: the dictionary itself, not a copy."""
        return self._fields

    def to(self, *args: Any, **kwargs: Any) -> "Instances":
        """Return the instances with ``to`` applied to every field that has it."""
        moved = Instances(self._image_size)
        for name, value in self._fields.items():
            moved.set(name, value.to(*args, **kwargs) if hasattr(value, "to") else value)
        return moved

    def __getitem__(self, item: int | slice | Tensor | Sequence[int]) -> "Instances":
        if type(item) is int:
            if not -len(self) <= item < len(self):
                raise IndexError(f"there are {len(self)} instances, from 0 on; got number {item}")
            item = slice(item, None, len(self))  # one row, also for fields whose items are not rows
        chosen = Instances(self._image_size)
        for name, value in self._fields.items():
            chosen.set(name, value[item])
        return chosen

    def __len__(self) -> int:
        for value in self._fields.values():
            return value.__len__()  # len() would turn a traced length into a constant
        raise NotImplementedError("instances without any field have no length")

    def __iter__(self):
        raise NotImplementedError("Instances cannot be iterated over; index them, or iterate over a field")

    @staticmethod
    def cat(instance_lists: Sequence["Instances"]) -> "Instances":
        """Join the instances of several objects, which must have the same image size and fields."""
        if len(instance_lists) == 0 or not all(isinstance(one, Instances) for one in instance_lists):
            raise AssertionError("Instances.cat takes at least one Instances and nothing else")
        first = instance_lists[0]
        if len(instance_lists) == 1:
            return first
        for other in instance_lists[1:]:
            if other.image_size != first.image_size:
                raise AssertionError(f"image sizes differ: {first.image_size} and {other.image_size}")
        joined = Instances(first.image_size)
        for name, example in first.get_fields().items():
            values = [one.get(name) for one in instance_lists]
            if isinstance(example, Tensor):
                values = torch.cat(values, dim=0)
            elif isinstance(example, list):
                values = list(itertools.chain(*values))
            elif hasattr(type(example), "cat"):
                values = type(example).cat(values)
            else:
                raise ValueError(f"field '{name}' is of type {type(example).__name__}, which cannot be joined")
            joined.set(name, values)
        return joined

    def __str__(self) -> str:
        height, width = self._image_size
        fields = ", ".join(f"{name}: {value}" for name, value in self._fields.items())
        number = len(self) if self._fields else 0
        size = f"image_height={height}, image_width={width}"
        return f"Instances(num_instances={number}, {size}, fields=[{fields}])"

    __repr__ = __str__
