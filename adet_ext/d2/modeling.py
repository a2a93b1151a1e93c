"""Registries of model parts, backbones, and post-processing."""

from typing import Any

from fvcore.common.registry import Registry

from . import ENGINE

if ENGINE == "detectron2":
    from detectron2.modeling import (
        BACKBONE_REGISTRY,
        META_ARCH_REGISTRY,
        PROPOSAL_GENERATOR_REGISTRY,
        SEM_SEG_HEADS_REGISTRY,
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
        SEM_SEG_HEADS_REGISTRY,
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


def _explain_conflicts(registry: Registry) -> None:
    """Name both packages if this one and another, such as AdelaiDet's adet, register the same name."""
    register, ours = registry._do_register, __name__.partition(".")[0]

    def checked(name: str, obj: Any) -> None:
        known = registry._obj_map.get(name)
        owners = [str(getattr(x, "__module__", "")).partition(".")[0] for x in (known, obj)]
        if known is not None and ours in owners:
            if owners[0] != owners[1]:
                raise ImportError(
                    f"the packages {owners[0]} and {owners[1]} both register {name!r} in the registry "
                    f"{registry._name}; import only one of them in a process"
                )
            del registry._obj_map[name]  # our module is imported again after a failed import
        register(name, obj)

    registry._do_register = checked


for _registry in (BACKBONE_REGISTRY, META_ARCH_REGISTRY, PROPOSAL_GENERATOR_REGISTRY, SEM_SEG_HEADS_REGISTRY):
    _explain_conflicts(_registry)

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
    "SEM_SEG_HEADS_REGISTRY",
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
