"""Two global catalogs by data set name: its loading function and its metadata."""

import types
from collections import UserDict
from collections.abc import Callable


class _Catalog(UserDict):
    def list(self) -> list[str]:
        return list(self.keys())

    def remove(self, name: str) -> None:
        self.pop(name)

    def __repr__(self) -> str:
        return f"{type(self).__name__[1:]}({', '.join(self)})"


class _DatasetCatalog(_Catalog):
    """The function of each data set name, without arguments, that returns its list of dicts."""

    def register(self, name: str, func: Callable[[], list[dict]]) -> None:
        """Add ``func`` under ``name``.

        Raises:
            AssertionError: ``func`` cannot be called, or the name is taken (``remove`` it first).
        """
        assert callable(func), f"data set '{name}' needs a function that returns its dicts, got {type(func)}"
        assert name not in self, f"data set '{name}' is already registered; DatasetCatalog.remove it first"
        self[name] = func

    def get(self, name: str) -> list[dict]:
        """Load the data set. Its function is called each time."""
        if name not in self.data:
            raise KeyError(f"data set '{name}' is not registered; registered are: {', '.join(self)}")
        return self[name]()


class Metadata(types.SimpleNamespace):
    """The constants of one data set: class names, colors, id maps, file paths, evaluator type.

    An attribute can be set again only to an equal value. Different values in two parts of a program are a mistake.
    """

    name: str = "N/A"

    def __getattr__(self, key: str):
        known = ", ".join(k for k in self.__dict__ if k != "name") or "nothing"
        raise AttributeError(f"the metadata of data set '{self.name}' has no '{key}' (it has {known})")

    def __setattr__(self, key: str, value) -> None:
        if key in self.__dict__:
            old = self.__dict__[key]
            assert old == value, (
                f"'{key}' of data set '{self.name}' is {old} already and cannot become {value}; "
                "MetadataCatalog.remove the data set first"
            )
        super().__setattr__(key, value)

    def as_dict(self) -> dict:
        """Return all attributes as a new dict."""
        return dict(self.__dict__)

    def set(self, **attributes) -> "Metadata":
        for key, value in attributes.items():
            setattr(self, key, value)
        return self

    def get(self, key: str, default=None):
        return getattr(self, key, default)


class _MetadataCatalog(_Catalog):
    """The :class:`Metadata` of each data set name: one object per name, made at the first ``get``."""

    def get(self, name: str) -> Metadata:
        assert len(name), "a data set name cannot be empty"
        if name not in self.data:
            self[name] = Metadata(name=name)
        return self[name]


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()
