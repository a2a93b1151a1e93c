"""NAS-FCOS (thesis chapter 7): decoders of FCOS that a search has found.

Importing the package registers its backbones and proposal generators with the engine, and its config keys with
``adet_ext.config``.
"""

from adet_ext.config import add_project_keys

from . import deform_fpn, fpn, head, retinanet
from .config import add_nas_fcos_config
from .genotype import FPNGenotype, HeadGenotype, load_genotype

add_project_keys(add_nas_fcos_config)

__all__ = [
    "FPNGenotype",
    "HeadGenotype",
    "add_nas_fcos_config",
    "deform_fpn",
    "fpn",
    "head",
    "load_genotype",
    "retinanet",
]
