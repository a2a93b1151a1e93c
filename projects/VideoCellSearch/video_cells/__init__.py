"""Dynamic cells for semantic video segmentation (thesis chapter 6 and appendix A).

Importing the package registers its model, its encoder and its trainer, and its config keys with ``adet_ext.config``.
"""

from adet_ext.config import add_project_keys
from adet_ext.engine.trainers import add_project_trainer

from . import encoder, segmentor
from .config import add_video_config
from .decoder_genotype import DecoderGenotype
from .genotype import CellGenotype, load_genotype
from .trainer import VideoTrainer

add_project_keys(add_video_config)
add_project_trainer("VideoSegmentor", VideoTrainer)

__all__ = [
    "CellGenotype",
    "DecoderGenotype",
    "VideoTrainer",
    "add_video_config",
    "encoder",
    "load_genotype",
    "segmentor",
]
