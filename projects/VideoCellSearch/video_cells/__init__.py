"""Dynamic cells for semantic video segmentation (thesis chapter 6 and appendix A).

Importing the package registers its model and its encoder with the engine, and its config keys with
``adet_ext.config``.
"""

from adet_ext.config import add_project_keys

from . import encoder, segmentor
from .config import add_video_config
from .decoder_genotype import DecoderGenotype
from .genotype import CellGenotype, load_genotype

add_project_keys(add_video_config)

__all__ = ["CellGenotype", "DecoderGenotype", "add_video_config", "encoder", "load_genotype", "segmentor"]
