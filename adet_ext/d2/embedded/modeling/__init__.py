"""Registries, backbones and post-processing, with Detectron2's names, parameters and numbers."""

from .build import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
    Backbone,
    build_backbone,
    build_model,
    build_proposal_generator,
    build_sem_seg_head,
)
from .fpn import FPN, LastLevelMaxPool, LastLevelP6P7, build_resnet_fpn_backbone, build_retinanet_resnet_fpn_backbone
from .postprocess import detector_postprocess, sem_seg_postprocess
from .resnet import (
    BasicBlock,
    BasicStem,
    BottleneckBlock,
    DeformBottleneckBlock,
    ResNet,
    ResNetBlockBase,
    build_resnet_backbone,
)
from .semantic_seg import SemSegFPNHead
from .semantic_segmentor import SemanticSegmentor
