"""Predict for a service: requests of any sizes, few shapes in the network, nothing prepared while a request waits.

N images, H x W a bucket (a frame of the network), h x w an image in it, D detections an image.
"""

import contextlib
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ..d2.config import CfgNode
from ..d2.data import transforms as T
from ..engine.predictor import Predictor, check_image
from ..errors import UserError
from ..modeling.one_stage import OneStageDetector
from .cuda_graphs import CudaGraphs
from .exported import fit, image_result
from .panoptic import map_stride
from .wrapper import TensorModel, resize_images

__all__ = ["BUCKETS", "PRECISIONS", "ServingPredictor", "computes_in_bfloat16"]

BUCKETS = ((800, 1088), (1088, 800), (800, 1344), (1344, 800))
PRECISIONS = ("float32", "bfloat16", "float16", "auto")


def computes_in_bfloat16() -> bool:
    """Return whether this CPU multiplies in bfloat16 (AMX or AVX512-BF16), not just stores it."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.10 does not have it
    return any(capabilities.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))  # the last one on ARM


class ServingPredictor(Predictor):
    """A :class:`Predictor` that passes images through the network in frames of a few sizes, batch by batch.

    Example::

        predictor = ServingPredictor(load_config("BlendMask/R_50_1x.yaml", ["MODEL.WEIGHTS", "model.pth"]), batch=4)
        predictor.warm_up()
        several = predictor([first, second, third])       # Detectron2's outputs, in this order

    An image is resized as INPUT of the config says, and further down if no bucket holds it. It goes into the smallest
    bucket that does, and those of one bucket go through the network together. Every shape has been through the network
    before the first request, in :meth:`warm_up`. On a GPU, images are uploaded as bytes, resized there, and the network
    is one CUDA graph for each bucket and number of images. Several threads may call one predictor; they take turns.
    """

    def __init__(
        self,
        cfg: CfgNode,
        model: nn.Module | None = None,
        *,
        buckets: Sequence[tuple[int, int]] = BUCKETS,
        batch: int = 4,
        threads: int | None = None,
        precision: str = "float32",
    ):
        """
        Args:
            cfg, model: see :class:`Predictor`.
            buckets: (H, W) each, multiples of the model's size divisibility.
            batch: the most images in one pass.
            threads: of PyTorch on the CPU, set for the whole process; None: as they are.
            precision: what convolutions compute in. "auto": "float16" on a GPU, "bfloat16" on a CPU that multiplies
                in it, else "float32".

        Raises:
            UserError: an argument is not as above, or the model is not one of this package's detectors.
        """
        super().__init__(cfg, model)
        if not isinstance(self.model, OneStageDetector):
            raise UserError(f"model must be one of this package's detectors; got {type(self.model).__name__}")
        if batch < 1:
            raise UserError(f"batch must be 1 or more; got {batch}")
        if threads is not None:
            if threads < 1:
                raise UserError(f"threads must be 1 or more; got {threads}")
            torch.set_num_threads(threads)
        self.device = self.model.device
        self.buckets = _checked(buckets, max(self.model.backbone.size_divisibility, 1))
        self.batch = batch
        self.precision = _precision(precision, self.device)
        self.tensor_model = TensorModel(self.model).eval()
        self.stride = map_stride(self.model)
        self._turn = threading.Lock()
        self._graphs = CudaGraphs(self._network) if self.device.type == "cuda" else None

    def warm_up(self, rounds: int = 2) -> None:
        """Pass gray images of every bucket and number through the network ``rounds`` times; on a GPU, record graphs."""
        for height, width in self.buckets:
            for count in self._counts():
                images = torch.full((count, height, width, 3), 128, dtype=torch.uint8).permute(0, 3, 1, 2)
                sizes = torch.tensor([(height, width)] * count)
                for _ in range(rounds):
                    with self.inference(), self._turn:
                        self.tensors(images.to(self.device), sizes.to(self.device))

    def bucket(self, height: int, width: int) -> tuple[int, int] | None:
        """Return the smallest bucket that holds an image of this size; None where none does."""
        holding = [x for x in self.buckets if x[0] >= height and x[1] >= width]
        return min(holding, key=lambda x: x[0] * x[1], default=None)

    def target(self, height: int, width: int) -> tuple[int, int]:
        """Return the size that an image of height x width has in the network: the config's, or the largest that a
        bucket holds."""
        size = fit(height, width, None, self.min_size, self.max_size)
        if self.bucket(*size) is not None:
            return size
        sizes = (fit(height, width, frame, self.min_size, self.max_size) for frame in self.buckets)
        return max(sizes, key=lambda x: x[0] * x[1])

    def tensors(self, images: torch.Tensor, sizes: torch.Tensor) -> dict[str, torch.Tensor]:
        """Run the network without waiting for the device.

        Args:
            images, sizes: see :meth:`TensorModel.forward`; (N, 3, H, W) of one bucket, on the model's device.

        Returns:
            see :meth:`TensorModel.forward`. Tensors of a CUDA graph are valid until the next call.
        """
        return self._network(images, sizes) if self._graphs is None else self._graphs(images, sizes)

    def _network(self, images: torch.Tensor, sizes: torch.Tensor) -> dict[str, torch.Tensor]:
        lower = contextlib.nullcontext()
        if self.precision != "float32":
            # Without the cache, as a CUDA graph must not keep tensors that were made outside of it.
            dtype = getattr(torch, self.precision)
            lower = torch.autocast(self.device.type, dtype=dtype, cache_enabled=False)
        with lower:
            return self.tensor_model(images, sizes)

    def prepare(self, image: np.ndarray) -> dict[str, Any]:
        """Return the input for one BGR uint8 [h, w, 3] image: ``image`` (uint8 [3, h, w]), on the CPU at the size that
        the network sees, for a GPU as it is; ``size``, what the network sees; and the image's size."""
        check_image(image)
        height, width = image.shape[:2]
        resized = self.resize(image) if self.device.type == "cpu" else image
        return {**self._input(resized, height, width), "size": self.target(height, width)}

    def resize(self, image: np.ndarray) -> np.ndarray:
        """Return the image at the size that the network sees."""
        size = self.target(*image.shape[:2])
        return T.ResizeTransform(*image.shape[:2], *size).apply_image(image) if size != image.shape[:2] else image

    def _input(self, resized: np.ndarray, height: int, width: int) -> dict[str, Any]:
        if self.cfg.INPUT.FORMAT == "RGB":
            resized = resized[:, :, ::-1]
        image = torch.from_numpy(np.array(resized, order="C")).permute(2, 0, 1)  # 3, h, w; channels last in memory
        return {"image": image, "height": height, "width": width}

    def _run(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        images = [self._placed(x) for x in inputs]
        groups: dict[tuple[int, int], list[int]] = {}
        for i, image in enumerate(images):
            groups.setdefault(self.bucket(*image.shape[1:]), []).append(i)
        results: list[dict[str, Any]] = [{}] * len(inputs)
        with self.inference():
            for bucket, places in groups.items():
                for start in range(0, len(places), self.batch):
                    part = places[start : start + self.batch]
                    sizes = [tuple(images[i].shape[1:]) for i in part]
                    packed = self._packed([images[i] for i in part], sizes, bucket)
                    with self._turn:
                        found = self.tensors(*packed)
                        for row, i in enumerate(part):
                            mine = {name: value[row] for name, value in found.items()}
                            results[i] = image_result(self.cfg, self.stride, mine, inputs[i], sizes[row])
        return results

    def _placed(self, x: dict[str, Any]) -> torch.Tensor:
        """Return an input's image (3, h, w) on the model's device at the size that the network sees."""
        image = x["image"]
        if self.device.type == "cuda":
            image = image.pin_memory().to(self.device, non_blocking=True)
        given = tuple(image.shape[1:])
        size = x.get("size", given)
        if self.bucket(*size) is None:
            raise UserError(
                f"an image must fit into a bucket; got {size[0]} x {size[1]} pixels. Do not resize it before"
            )
        return image if size == given else resize_images(image[None].float(), size)[0].to(torch.uint8)

    def _packed(
        self, images: list[torch.Tensor], sizes: list[tuple[int, int]], bucket: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images (N, 3, H, W) uint8, channels last, and their sizes (N, 2); where graphs are, N is one of
        :meth:`_counts`, and what is missing is black."""
        count = min(n for n in self._counts() if n >= len(images))
        frames = torch.zeros((count, *bucket, 3), dtype=torch.uint8, device=self.device).permute(0, 3, 1, 2)
        for frame, image in zip(frames, images):
            frame[:, : image.shape[1], : image.shape[2]] = image
        all_sizes = torch.tensor(sizes + [bucket] * (count - len(sizes)))
        if self.device.type == "cuda":
            all_sizes = all_sizes.pin_memory().to(self.device, non_blocking=True)
        return frames, all_sizes

    def _counts(self) -> list[int]:
        """Return the numbers of images that go through the network together: all on the CPU; on a GPU, where each needs
        a graph, powers of two and the largest."""
        if self._graphs is None:
            return list(range(1, self.batch + 1))
        return sorted({min(2**power, self.batch) for power in range(self.batch.bit_length() + 1)})


def _checked(buckets: Sequence[tuple[int, int]], step: int) -> list[tuple[int, int]]:
    found = [tuple(bucket) for bucket in buckets]
    if not found:
        raise UserError("buckets must have one size or more; got none")
    for bucket in found:
        if len(bucket) != 2 or any(length < 2 * step or length % step for length in bucket):
            raise UserError(
                f"buckets must be of two multiples of {step} from {2 * step} on; got {' x '.join(map(str, bucket))}"
            )
    return found


def _precision(asked: str, device: torch.device) -> str:
    if asked not in PRECISIONS:
        raise UserError(f"precision must be {', '.join(PRECISIONS)}; got {asked}")
    if asked == "auto":
        if device.type == "cuda":
            return "float16"
        return "bfloat16" if computes_in_bfloat16() else "float32"
    if device.type == "cpu" and asked == "float16":
        raise UserError("precision must be float32, bfloat16 or auto on a CPU; got float16")
    if device.type == "cpu" and asked == "bfloat16" and not computes_in_bfloat16():
        raise UserError(
            "precision must be float32 or auto on this CPU, which has neither AMX nor AVX512-BF16; got bfloat16"
        )
    return asked
