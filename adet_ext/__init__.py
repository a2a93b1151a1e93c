"""adet-ext: fully convolutional instance and panoptic segmenters for Detectron2, with or without Detectron2.

Importing the package registers its meta-architectures (``OneStageDetector``, ``SmalMask``, ``SmalMask2``,
``BlendMask`` and ``DR1Mask``), its proposal generator (``FCOS``), its backbones and its built-in data sets with
whichever engine is on. Add two lines to a script written for Detectron2::

    import adet_ext
    adet_ext.add_adet_config(cfg)   # before cfg.merge_from_file(...)
"""

__version__ = "0.1.0"

import warnings

from .utils.threads import is_command, wait_passively

if is_command():  # importing the package leaves the environment of other programs as it is
    wait_passively()

# fvcore, up to its last release, scripts a function when it is imported; nobody who uses this package can act on it.
warnings.filterwarnings("ignore", message=r"`torch\.jit\.script` is deprecated", category=FutureWarning)

from . import modeling  # noqa: E402, F401  (registers the models)
from .config import add_adet_config, get_cfg, load_config  # noqa: E402
from .data import shapes  # noqa: E402, F401  (registers the built-in data sets)
from .model_zoo import get_config_file  # noqa: E402
from .moved import install  # noqa: E402

install()

__all__ = ["add_adet_config", "get_cfg", "get_config_file", "load_config", "__version__"]
