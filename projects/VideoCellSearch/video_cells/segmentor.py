"""The segmenter of videos: the static network on the first frame of a clip, the dynamic cell on the others (6.3.1).

N clips of T frames of H x W pixels, C classes, W the width of *dec*; h x w the places of a map.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from adet_ext.d2.config import configurable
from adet_ext.d2.layers import ShapeSpec
from adet_ext.d2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from adet_ext.d2.utils import comm
from adet_ext.modeling.context_modules import build_context_module

from .cell import DynamicCell, FrameState
from .decoder import StaticDecoder
from .decoder_genotype import DecoderGenotype
from .encoder import features_by_stride
from .genotype import CellGenotype, load_genotype
from .losses import segmentation_loss

__all__ = ["VideoSegmentor", "build_cell", "build_decoder"]


@META_ARCH_REGISTRY.register()
class VideoSegmentor(nn.Module):
    """Encoder and static decoder, and a dynamic cell where one is named.

    Without a cell, every frame is segmented alone. With it, the static decoder runs on the first frame of a clip and
    never again: the cell gives *dec* of every later frame from the encoder's *layers 2 to 4* and from what the frame
    before has left. Nothing of a clip is kept on the module, so that several threads may use one model.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        decoder: StaticDecoder,
        cell: DynamicCell | None = None,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        ignore_value: int = 255,
        aux_weight: float = 0.3,
        first_frame_weight: float = 0.0,
        full_size_loss: bool = False,
        dynamic: bool = True,
        input_format: str = "RGB",
    ):
        """
        Args:
            backbone: with features at strides 4, 8, 16 and 32.
            pixel_mean, pixel_std: per channel, in the channel order and range (0 to 255) of the frames.
            ignore_value: the label of pixels that do not count.
            aux_weight: of the auxiliary losses of a decoder that has auxiliary classifiers.
            first_frame_weight: of the first frame's loss beside those of the frames that the cell segments.
            full_size_loss: see :func:`~.losses.segmentation_loss`.
            dynamic: whether the cell gets anything from the frame before; see :class:`DynamicCell`.
            input_format: channel order of the frames, for drawing.
        """
        super().__init__()
        self.backbone, self.decoder, self.cell = backbone, decoder, cell
        self.feature_names = features_by_stride(backbone.output_shape())
        self.ignore_value, self.aux_weight, self.first_frame_weight = ignore_value, aux_weight, first_frame_weight
        self.full_size_loss, self.dynamic, self.input_format = full_size_loss, dynamic, input_format
        # Whether training changes the static network; a trainer switches it on after the cell has been trained alone.
        self.static_learns = True
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)
        self.to(memory_format=torch.channels_last)

    @classmethod
    def from_config(cls, cfg) -> dict[str, Any]:
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        return {
            "backbone": backbone,
            "decoder": build_decoder(cfg, shapes),
            "cell": build_cell(cfg, shapes, load_genotype(cfg.MODEL.VIDEO.CELL, CellGenotype))
            if cfg.MODEL.VIDEO.CELL
            else None,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "ignore_value": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
            "aux_weight": cfg.MODEL.VIDEO.AUX_WEIGHT,
            "first_frame_weight": cfg.MODEL.VIDEO.FIRST_FRAME_WEIGHT,
            "full_size_loss": cfg.MODEL.VIDEO.FULL_SIZE_LOSS,
            "dynamic": cfg.MODEL.VIDEO.DYNAMIC,
            "input_format": cfg.INPUT.FORMAT,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def train(self, mode: bool = True) -> "VideoSegmentor":
        """As ``nn.Module.train``; a static network that does not learn stays in evaluation mode."""
        super().train(mode)
        if mode and not self.static_learns:
            self.backbone.eval()
            self.decoder.eval()
        return self

    def let_static_learn(self, learns: bool) -> None:
        """Set whether training changes the static network, its batch norms' statistics too."""
        self.static_learns = learns
        self.train(self.training)

    def forward(self, clips: list[dict]) -> dict[str, torch.Tensor] | list[list[dict[str, torch.Tensor]]]:
        """Run on clips.

        Args:
            clips: ``frames`` uint8 (T, 3, H, W), and in training ``sem_segs`` int64 (T, H, W); in evaluation
                optionally ``height`` and ``width``, the size of the results. In training, clips of a batch have equally
                many frames; smaller ones are padded with pixels that do not count.

        Returns:
            the losses in training; else for each clip a list of T dicts with ``sem_seg``, float logits
            (C, height, width).
        """
        if self.training:
            return self._losses(*self._batch(clips))
        return [self._segmented(clip) for clip in clips]

    def step(self, image: torch.Tensor, state: FrameState | None) -> tuple[torch.Tensor, FrameState]:
        """Segment the next frame of a stream.

        Args:
            image: uint8 (3, H, W).
            state: what the frame before has left; None before the first one. After a frame of another size, the frame
                counts as the first.

        Returns:
            logits (C, H, W), and what this frame leaves.
        """
        features = self.encode(image[None])
        logits, state = self._next(features, state)
        return _enlarged(logits, image.shape[-2:])[0], state

    # Parts, which the search uses too ---------------------------------------------------------------------------------

    def encode(self, frames: torch.Tensor) -> list[torch.Tensor]:
        """Return *layers 1 to 4* of frames (N, 3, H, W), not normalized."""
        x = (frames.to(self.device, non_blocking=True) - self.pixel_mean) / self.pixel_std
        features = self.backbone(x.contiguous(memory_format=torch.channels_last))
        return [features[name] for name in self.feature_names]

    def _next(self, features: Sequence[torch.Tensor], state: FrameState | None) -> tuple[torch.Tensor, FrameState]:
        if state is None or self.cell is None or state.layer4.shape != features[3].shape:
            dec, logits = self.decoder(features)
            return logits, FrameState(features[3], dec)
        return self.cell.step(features[1:], state, self.decoder.classifier, self.dynamic)

    # Evaluation and training ------------------------------------------------------------------------------------------

    def _segmented(self, clip: dict) -> list[dict[str, torch.Tensor]]:
        frames, state, results = clip["frames"], None, []
        size = clip.get("height", frames.shape[-2]), clip.get("width", frames.shape[-1])
        for frame in frames:
            logits, state = self._next(self.encode(frame[None]), state)
            results.append({"sem_seg": _enlarged(logits, size)[0]})
        return results

    def _batch(self, clips: list[dict]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return frames (N, T, 3, H, W) and labels (N, T, H, W)."""
        lengths = {len(clip["frames"]) for clip in clips}
        if len(lengths) > 1 or not all("sem_segs" in clip for clip in clips):
            raise ValueError(
                f"clips of a batch must have equally many frames, and sem_segs in training; got {sorted(lengths)} "
                "frames. Call model.eval() for predictions"
            )
        height, width = (max(clip["frames"].shape[axis] for clip in clips) for axis in (-2, -1))
        mean = self.pixel_mean.round().to(torch.uint8).cpu()  # 3 x 1 x 1
        frames = mean.expand(len(clips), *lengths, 3, height, width).clone()
        labels = torch.full((len(clips), *lengths, height, width), self.ignore_value)
        for i, clip in enumerate(clips):
            h, w = clip["frames"].shape[-2:]
            frames[i, ..., :h, :w] = clip["frames"].cpu()
            labels[i, ..., :h, :w] = clip["sem_segs"].cpu()
        return frames.to(self.device), labels.to(self.device)

    def _losses(self, frames: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        losses = self._static_losses(frames, labels) if self.cell is None else self._cell_losses(frames, labels)
        if comm.get_world_size() > 1:  # distributed training waits for the gradient of every parameter
            losses["loss_sem_seg"] = losses["loss_sem_seg"] + 0 * sum(p.sum() for p in self.parameters())
        return losses

    def _static_losses(self, frames: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        frames, labels = frames.flatten(0, 1), labels.flatten(0, 1)  # N T x ...
        known = (labels != self.ignore_value).flatten(1).any(1)
        known[0] = True  # a batch must not be empty
        labels = labels[known]
        logits, auxiliary = self.decoder.with_auxiliary(self.encode(frames[known]))
        losses = {"loss_sem_seg": self._loss(logits, labels)}
        for i, found in enumerate(auxiliary, 1):  # all at the size of the prediction
            losses[f"loss_aux{i}"] = self.aux_weight * self._loss(_enlarged(found, logits.shape[-2:]), labels)
        return losses

    def _cell_losses(self, frames: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the sum of the cross-entropies of the frames after the first (6.4)."""
        if frames.shape[1] < 2:
            raise ValueError("a clip must have two frames or more, for the cell to learn from; got one")
        with torch.set_grad_enabled(self.static_learns):
            features = self.encode(frames.flatten(0, 1))
            features = [x.unflatten(0, frames.shape[:2]).unbind(1) for x in features]  # T times N x C_i x ...
            dec, first = self.decoder([x[0] for x in features])
        state, total = FrameState(features[3][0], dec), 0
        for t in range(1, frames.shape[1]):
            layers = [x[t] for x in features[1:]]
            logits, state = self.cell.step(layers, state, self.decoder.classifier, self.dynamic)
            total = total + self._loss(logits, labels[:, t])
        losses = {"loss_sem_seg": total}
        if self.first_frame_weight and self.static_learns:
            losses["loss_first_frame"] = self.first_frame_weight * self._loss(first, labels[:, 0])
        return losses

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return segmentation_loss(logits, labels, self.ignore_value, full_size=self.full_size_loss)


def _enlarged(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)


def build_decoder(cfg, shapes: dict[str, ShapeSpec]) -> StaticDecoder:
    """Return the static decoder that MODEL.VIDEO describes, for a backbone's features."""
    node = cfg.MODEL.VIDEO
    return StaticDecoder(
        genotype=load_genotype(node.DECODER, DecoderGenotype),
        in_channels=[shapes[name].channels for name in features_by_stride(shapes)],
        num_classes=cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
        width=node.WIDTH,
        repeats=node.SEP_REPEATS,
        auxiliary=node.AUX_WEIGHT > 0 and not node.CELL,
        auxiliary_cells=node.AUX_CELLS,
        context=build_context_module(cfg, node.WIDTH),
    )


def build_cell(cfg, shapes: dict[str, ShapeSpec], genotype: CellGenotype) -> DynamicCell:
    """Return the dynamic cell of a genotype for a backbone's features."""
    _, *layers = (shapes[name].channels for name in features_by_stride(shapes))
    return DynamicCell(
        genotype=genotype,
        in_channels=[layers[-1], cfg.MODEL.VIDEO.WIDTH, *layers],
        width=cfg.MODEL.VIDEO.WIDTH,
        num_classes=0 if cfg.MODEL.VIDEO.SHARE_CLASSIFIER else cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
    )
