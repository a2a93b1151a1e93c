"""The band of pixels along the borders between classes."""

import cv2
import numpy as np

__all__ = ["trimap"]


def trimap(labels: np.ndarray, width: int, ignore: int) -> np.ndarray:
    """Return the pixels near a border between two classes of the ground truth, bool (H, W).

    A border pixel has one of its four neighbors in another class; pixels of no class make no border. The band has the
    pixels whose centers are at most ``width`` - 1 pixels from the center of a border pixel (Euclidean distance). Along
    a straight border it is thus ``width`` pixels wide on either side. IoU over this band is trimap IoU (tIoU); pixels
    of no class in the band do not count there either. The thesis gives the width, 3, but no construction (Table 6.4);
    this is the usual one.

    Args:
        labels: uint8 (H, W).
        width: in pixels, 1 or more.
        ignore: the label of no class.
    """
    border = np.zeros(labels.shape, bool)
    for one, other in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[1:], np.s_[:-1])):
        differ = (labels[one] != labels[other]) & (labels[one] != ignore) & (labels[other] != ignore)
        border[one] |= differ
        border[other] |= differ
    if not border.any():
        return border
    distance = cv2.distanceTransform((~border).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return distance <= width - 1 + 1e-4
