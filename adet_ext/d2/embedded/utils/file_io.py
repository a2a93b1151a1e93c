"""One path manager for the whole package: local paths, http(s) URLs, and Detectron2's model-zoo scheme."""

from iopath.common.file_io import HTTPURLHandler, PathHandler
from iopath.common.file_io import PathManager as _PathManager


class _ModelZooHandler(PathHandler):
    """``detectron2://some/file.pkl``, as the published configs name weights, read from its public host."""

    PREFIX = "detectron2://"
    HOST = "https://dl.fbaipublicfiles.com/detectron2/"

    def _url(self, path: str) -> str:
        return self.HOST + path[len(self.PREFIX) :]

    def _get_supported_prefixes(self) -> list[str]:
        return [self.PREFIX]

    def _get_local_path(self, path: str, **kwargs) -> str:
        return PathManager.get_local_path(self._url(path), **kwargs)

    def _open(self, path: str, mode: str = "r", **kwargs):
        return PathManager.open(self._url(path), mode, **kwargs)


PathManager = _PathManager()
PathManager.register_handler(HTTPURLHandler())
PathManager.register_handler(_ModelZooHandler())
