"""Segment ids of panoptic maps, as numbers and as the colors of a PNG."""

import numpy as np

__all__ = ["id2rgb", "rgb2id"]


def rgb2id(color: np.ndarray) -> np.ndarray:
    """Return (H, W) uint32 ids, R + 256 G + 65536 B, of (H, W, 3) uint8 colors."""
    color = color.astype(np.uint32)
    return color[..., 0] + 256 * color[..., 1] + 65536 * color[..., 2]


def id2rgb(ids: np.ndarray) -> np.ndarray:
    """Return (H, W, 3) uint8 colors of (H, W) ids below 2**24."""
    ids = ids.astype(np.uint32)
    return np.stack([ids & 255, (ids >> 8) & 255, (ids >> 16) & 255], axis=-1).astype(np.uint8)
