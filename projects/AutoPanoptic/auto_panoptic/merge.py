"""The two rules by which Auto-Panoptic's supplement and its released code merge instances and stuff.

D instances of one image, H, W the size of the result.
"""

import torch

from adet_ext.modeling.panoptic import PanopticMerger, claim_pixels

__all__ = ["RULES", "CodeMerger", "SupplementMerger", "build_merger"]

_SURE = 0.725  # of two instances with higher scores than this, the smaller goes first
_ALMOST_ALL = 1 - 1e-9  # of a mask's pixels are covered: none is left


class SupplementMerger(PanopticMerger):
    """Of the instances that are sure, large and not covered by better ones, the smaller goes first.

    The supplement sorts them by increasing area and does not say who gets a pixel that two of them have. Here the
    smaller one keeps it: the other way round it would often vanish. Stuff has no limit of its area.
    """

    def __init__(self, *, confidence_threshold: float, overlap_threshold: float, instance_area_limit: float):
        """
        Args:
            instance_area_limit: the minimum pixels of an instance.
        """
        super().__init__(
            confidence_threshold=confidence_threshold, overlap_threshold=overlap_threshold, stuff_area_limit=0
        )
        self.instance_area_limit = instance_area_limit

    def claim(
        self, masks: torch.Tensor, scores: torch.Tensor, order: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        area = masks.sum(dim=(1, 2))
        order = order[area[order] >= self.instance_area_limit]
        _, accepted = claim_pixels(masks, self.overlap_threshold, order)
        order = order[accepted]
        order = order[area[order].sort(stable=True).indices]
        ids, accepted = claim_pixels(masks, _ALMOST_ALL, order)
        return ids, order[accepted]


class CodeMerger(PanopticMerger):
    """Instances with scores above 0.725 go first, the smallest before all; then the others, the best before all.

    An instance is dropped where those before it have too many of its pixels, and stuff where too few are left for it.
    """

    def claim(
        self, masks: torch.Tensor, scores: torch.Tensor, order: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        sure = scores[order] > _SURE
        first = order[sure]
        first = first[masks.sum(dim=(1, 2))[first].sort(stable=True).indices]
        return super().claim(masks, scores, torch.cat([first, order[~sure]]))


RULES = ("supplement", "code")


def build_merger(cfg) -> PanopticMerger:
    """Return the rule of MODEL.AUTO_PANOPTIC.MERGE with the limits of the config; raise ValueError for another name."""
    node, limits = cfg.MODEL.AUTO_PANOPTIC, cfg.MODEL.PANOPTIC_FPN.COMBINE
    if node.MERGE not in RULES:
        raise ValueError(f"MODEL.AUTO_PANOPTIC.MERGE must be {' or '.join(RULES)}; got {node.MERGE!r}")
    if node.MERGE == "code":
        return CodeMerger.from_config(cfg)
    return SupplementMerger(
        confidence_threshold=limits.INSTANCES_CONFIDENCE_THRESH,
        overlap_threshold=limits.OVERLAP_THRESH,
        instance_area_limit=node.INSTANCE_AREA_LIMIT,
    )
