"""Building blocks of networks: convolutions, norms, RoIAlign, suppression, mask pasting."""

from . import ENGINE

if ENGINE == "detectron2":
    from detectron2.layers import (
        CNNBlockBase,
        Conv2d,
        DeformConv,
        FrozenBatchNorm2d,
        ModulatedDeformConv,
        NaiveSyncBatchNorm,
        ROIAlign,
        ShapeSpec,
        batched_nms,
        cat,
        get_norm,
        paste_masks_in_image,
    )

    from .deform import serve_cpu

    serve_cpu()
else:
    from .embedded.layers import (
        CNNBlockBase,
        Conv2d,
        DeformConv,
        FrozenBatchNorm2d,
        ModulatedDeformConv,
        NaiveSyncBatchNorm,
        ROIAlign,
        ShapeSpec,
        batched_nms,
        cat,
        get_norm,
        paste_masks_in_image,
    )

__all__ = [
    "CNNBlockBase",
    "Conv2d",
    "DeformConv",
    "FrozenBatchNorm2d",
    "ModulatedDeformConv",
    "NaiveSyncBatchNorm",
    "ROIAlign",
    "ShapeSpec",
    "batched_nms",
    "cat",
    "get_norm",
    "paste_masks_in_image",
]
