"""The loss: the mean over labeled pixels, at the predictions' size or at the labels'."""

import pytest
import torch
from torch.nn import functional as F
from video_cells.losses import labels_at, segmentation_loss


def test_labels_are_those_at_the_centers():
    labels = torch.arange(36).view(1, 6, 6)
    assert labels_at(labels, (2, 2)).tolist() == [[[7, 10], [25, 28]]]
    assert labels_at(labels, (6, 6)) is labels


@pytest.mark.parametrize("full_size", [False, True])
def test_the_loss_is_the_mean_over_labeled_pixels(full_size):
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 12, 15))
    labels[0, :9] = 255
    found = segmentation_loss(logits, labels, 255, full_size=full_size)
    if full_size:
        logits = F.interpolate(logits, (12, 15), mode="bilinear", align_corners=False)
    else:
        labels = labels[:, 1::3, 1::3]
    known = labels != 255
    picked = logits.log_softmax(1).permute(0, 2, 3, 1)[known].gather(1, labels[known][:, None])
    torch.testing.assert_close(found, -picked.mean())


def test_without_labels_the_loss_is_zero_and_so_is_its_gradient():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = segmentation_loss(logits, torch.full((1, 8, 8), 255), 255)
    loss.backward()
    assert loss == 0 and not logits.grad.any()
