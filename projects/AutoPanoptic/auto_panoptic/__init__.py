"""Auto-Panoptic (Wu et al., NeurIPS 2020): panoptic segmentation with a searched backbone, heads and attention.

Importing the package registers its models with the engine, and its config keys with ``adet_ext.config``.
"""

from adet_ext.config import add_project_keys

from . import backbone, model, supernet
from .architecture import Architecture, load_architecture
from .config import add_auto_panoptic_config

add_project_keys(add_auto_panoptic_config)

__all__ = ["Architecture", "add_auto_panoptic_config", "backbone", "load_architecture", "model", "supernet"]
