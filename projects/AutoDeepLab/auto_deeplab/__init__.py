"""Auto-DeepLab (Liu et al. 2019) and the dense prediction cell (Chen et al. 2018): searched semantic networks.

Importing the package registers its backbone, head and search network with the engine, and its config keys with
``adet_ext.config``.
"""

from adet_ext.config import add_project_keys

from . import backbone, head, supernet
from .config import add_auto_deeplab_config
from .genotype import Genotype, load_genotype

add_project_keys(add_auto_deeplab_config)

__all__ = ["Genotype", "add_auto_deeplab_config", "backbone", "head", "load_genotype", "supernet"]
