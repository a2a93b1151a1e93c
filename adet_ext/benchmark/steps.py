"""An image's whole way from its file to the picture that shows what was found, each step timed."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from ..d2.data import transforms as T
from ..evaluation.coco_json import to_results
from ..utils.image_io import read_image
from ..visualize.predictions import draw_outputs

__all__ = ["STEPS", "Stopwatch", "predict_from_file"]

# "network" is all of the model but its parts that follow, which are not divided where they run in one graph; "paste"
# has what makes results of tensors, merging of panoptic maps included.
STEPS = ("read", "decode", "resize", "network", "nms", "masks", "paste", "rle", "draw")


class Stopwatch:
    """Adds up the time between marks, by their names."""

    def __init__(self, now: Callable[[], float]):
        self.now, self.last = now, now()
        self.times: dict[str, float] = defaultdict(float)

    def mark(self, name: str) -> None:
        """Count the time since the last mark as that of ``name``."""
        before, self.last = self.last, self.now()
        self.times[name] += self.last - before


def predict_from_file(
    path: str, size: tuple[int, int], predict: Callable[[list[dict]], list[dict]], watch: Stopwatch
) -> dict[str, Any]:
    """Predict on the picture at ``path``, encode the masks and draw them; return the model's outputs.

    Args:
        size: (height, width) that the network sees.
        predict: a model, whose time is marked as "model".
        watch: gets a mark for each of :data:`STEPS` outside of the model. "decode" reads the file again, from the
            system's memory.
    """
    Path(path).read_bytes()
    watch.mark("read")
    picture = read_image(path)
    watch.mark("decode")
    height, width = picture.shape[:2]
    resized = T.ResizeTransform(height, width, *size).apply_image(picture)
    tensor = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))  # (3, H, W)
    watch.mark("resize")
    (outputs,) = predict([{"image": tensor, "height": height, "width": width}])
    watch.mark("model")
    to_results(outputs["instances"], 0, path, ())
    watch.mark("rle")
    draw_outputs(np.ascontiguousarray(picture[:, :, ::-1]), outputs, SimpleNamespace())
    watch.mark("draw")
    return outputs
