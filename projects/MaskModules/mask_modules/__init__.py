"""Mask modules found by search: the bottom module of BlendMask and DR1Basis as points of one space.

Importing the package registers its bottom module with the engine, and its config keys with ``adet_ext.config``.
"""

from adet_ext.config import add_project_keys

from . import basis
from .config import add_mask_modules_config
from .genotype import MaskGenotype, load_genotype

add_project_keys(add_mask_modules_config)

__all__ = ["MaskGenotype", "add_mask_modules_config", "basis", "load_genotype"]
