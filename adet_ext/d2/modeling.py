"""Registries of model parts, the backbones, and what turns raw outputs into results."""

from . import ENGINE

if ENGINE == "detectron2":
    from detectron2.modeling import (
        BACKBONE_REGISTRY,
        META_ARCH_REGISTRY,
        PROPOSAL_GENERATOR_REGISTRY,
        Backbone,
        build_backbone,
        build_model,
        build_proposal_generator,
        build_sem_seg_head,
        detector_postprocess,
    )
    from detectron2.modeling.backbone.fpn import (
        FPN,
        LastLevelMaxPool,
        LastLevelP6P7,
        build_resnet_fpn_backbone,
        build_retinanet_resnet_fpn_backbone,
    )
    from detectron2.modeling.backbone.resnet import (
        BasicBlock,
        BasicStem,
        BottleneckBlock,
        DeformBottleneckBlock,
        ResNet,
        build_resnet_backbone,
    )
    from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
    from detectron2.modeling.postprocessing import sem_seg_postprocess
else:
    from .embedded.modeling import (
        BACKBONE_REGISTRY,
        FPN,
        META_ARCH_REGISTRY,
        PROPOSAL_GENERATOR_REGISTRY,
        Backbone,
        BasicBlock,
        BasicStem,
        BottleneckBlock,
        DeformBottleneckBlock,
        LastLevelMaxPool,
        LastLevelP6P7,
        ResNet,
        SemSegFPNHead,
        build_backbone,
        build_model,
        build_proposal_generator,
        build_resnet_backbone,
        build_resnet_fpn_backbone,
        build_retinanet_resnet_fpn_backbone,
        build_sem_seg_head,
        detector_postprocess,
        sem_seg_postprocess,
    )

__all__ = [
    "BACKBONE_REGISTRY",
    "Backbone",
    "BasicBlock",
    "BasicStem",
    "BottleneckBlock",
    "DeformBottleneckBlock",
    "FPN",
    "LastLevelMaxPool",
    "LastLevelP6P7",
    "META_ARCH_REGISTRY",
    "PROPOSAL_GENERATOR_REGISTRY",
    "ResNet",
    "SemSegFPNHead",
    "build_backbone",
    "build_model",
    "build_proposal_generator",
    "build_resnet_backbone",
    "build_resnet_fpn_backbone",
    "build_retinanet_resnet_fpn_backbone",
    "build_sem_seg_head",
    "detector_postprocess",
    "sem_seg_postprocess",
]
