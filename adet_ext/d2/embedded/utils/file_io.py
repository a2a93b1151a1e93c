"""One path manager for the whole package: local paths, http(s) URLs, and the addresses in Detectron2's configs."""

from collections.abc import Callable

from iopath.common.file_io import HTTPURLHandler, PathHandler
from iopath.common.file_io import PathManager as _PathManager

_HOST = "https://dl.fbaipublicfiles.com/"
_CATALOG = {
    "MSRA/R-50": "MSRA/R-50.pkl",
    "MSRA/R-101": "MSRA/R-101.pkl",
    "FAIR/R-50-GN": "47261647/R-50-GN.pkl",
    "FAIR/R-101-GN": "47592356/R-101-GN.pkl",
    "FAIR/X-101-32x8d": "20171220/X-101-32x8d.pkl",
    "FAIR/X-101-64x4d": "FBResNeXt/X-101-64x4d.pkl",
    "FAIR/X-152-32x8d-IN5k": "25093814/X-152-32x8d-IN5k.pkl",
}


class _Published(PathHandler):
    """Addresses that begin with ``prefix``, of files on a public host. ``url`` maps the rest to a URL."""

    def __init__(self, prefix: str, url: Callable[[str], str]):
        super().__init__()
        self._prefix, self._url = prefix, url

    def _get_supported_prefixes(self) -> list[str]:
        return [self._prefix]

    def _get_local_path(self, path: str, **kwargs) -> str:
        return PathManager.get_local_path(self._url(path.removeprefix(self._prefix)), **kwargs)

    def _open(self, path: str, mode: str = "r", **kwargs):
        return PathManager.open(self._url(path.removeprefix(self._prefix)), mode, **kwargs)


def _catalog_url(path: str) -> str:
    """``ImageNetPretrained/<name>``: Caffe2's ImageNet weights."""
    name = path.removeprefix("ImageNetPretrained/")
    if name not in _CATALOG:
        raise KeyError(f"the catalog has {', '.join(_CATALOG)}")
    return f"{_HOST}detectron/ImageNetPretrained/{_CATALOG[name]}"


PathManager = _PathManager()
PathManager.register_handler(HTTPURLHandler())
PathManager.register_handler(_Published("detectron2://", lambda path: f"{_HOST}detectron2/{path}"))
PathManager.register_handler(_Published("catalog://", _catalog_url))
