"""A model of clips, small enough to train in a test."""

import torch
from torch import nn
from torch.nn import functional as F

from adet_ext.d2.modeling import META_ARCH_REGISTRY


@META_ARCH_REGISTRY.register()
class TinyVideoSegmentor(nn.Module):
    """One convolution, applied frame by frame."""

    def __init__(self, cfg):
        super().__init__()
        self.layer = nn.Conv2d(3, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, 3, padding=1)

    def forward(self, batch):
        if self.training:
            frames = torch.cat([x["frames"] for x in batch]).float() / 255 - 0.5
            labels = torch.cat([x["sem_segs"] for x in batch])
            return {"loss_sem_seg": F.cross_entropy(self.layer(frames), labels, ignore_index=255)}
        return [[{"sem_seg": y} for y in self.layer(x["frames"].float() / 255 - 0.5)] for x in batch]
