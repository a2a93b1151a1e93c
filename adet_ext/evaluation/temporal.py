"""How often predictions keep their class along the optical flow.

H, W height and width of a frame. A flow is float32 (H, W, 2): where a pixel of one frame is in the other, as (x, y)
offsets in pixels.
"""

import cv2
import numpy as np

__all__ = ["agreement_along_flow", "optical_flow"]

_RETURN = 1.0  # pixels that forward and backward flow may differ by


def optical_flow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return where each pixel of ``first`` is in ``second``, by OpenCV's dense inverse search.

    Args:
        first, second: uint8 (H, W, 3) in one order of channels.
    """
    gray = [cv2.cvtColor(np.ascontiguousarray(x), cv2.COLOR_BGR2GRAY) for x in (first, second)]
    if min(gray[0].shape) < 32:  # below the size of its patches on its coarsest level
        return cv2.calcOpticalFlowFarneback(*gray, None, 0.5, 3, 9, 3, 5, 1.1, 0)
    # A new estimator each time: one that has seen images of another size keeps its choice of scales for them.
    return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(*gray, None)


def agreement_along_flow(
    before: np.ndarray, now: np.ndarray, labels_before: np.ndarray, labels_now: np.ndarray
) -> tuple[int, int]:
    """Return for how many pixels of ``now`` the class is that of their place in ``before``, and how many there are.

    A pixel is counted if its place in ``before`` is inside the image, and the flow back from there returns to within a
    pixel of it. That leaves out what comes into sight.

    Args:
        before, now: consecutive frames, uint8 (H, W, 3).
        labels_before, labels_now: their predicted classes, uint8 (H, W).
    """
    back, forth = optical_flow(now, before), optical_flow(before, now)
    rows, columns = np.indices(labels_now.shape, np.float32)
    x, y = columns + back[..., 0], rows + back[..., 1]
    nearest_x, nearest_y = np.rint(x).astype(np.int64), np.rint(y).astype(np.int64)
    height, width = labels_now.shape
    inside = (nearest_x >= 0) & (nearest_x < width) & (nearest_y >= 0) & (nearest_y < height)
    nearest_x, nearest_y = nearest_x.clip(0, width - 1), nearest_y.clip(0, height - 1)
    miss = back + forth[nearest_y, nearest_x]  # H, W, 2
    counted = inside & (np.hypot(miss[..., 0], miss[..., 1]) <= _RETURN)
    same = labels_now == labels_before[nearest_y, nearest_x]
    return int(np.count_nonzero(same & counted)), int(np.count_nonzero(counted))
