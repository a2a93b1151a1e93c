"""One contestant of a benchmark, in a process of its own. Requests and answers are lines of JSON.

In its own process each contestant has its own engine, chosen by ``ADET_EXT_ENGINE`` before anything is imported.
"""

import importlib.util
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from ..config import load_config
from ..d2 import ENGINE
from ..d2.modeling import build_model
from ..errors import UserError, one_line
from ..export.files import is_exported, open_exported
from .calibrate import calibrate, count_detections
from .rivals import TorchvisionMaskRCNN, compiled

__all__ = ["Contestant", "main"]

# Prefixes: of configs of Detectron2's own model zoo, and of configs whose network torch.compile runs.
_DETECTRON2, _COMPILED = "detectron2:", "compiled:"
_TORCHVISION = "torchvision:mask_rcnn_R_50_FPN"


class Contestant:
    """A model and its inputs, timed forward pass by forward pass."""

    def __init__(self):
        self.model: torch.nn.Module = None
        self.inputs: list[dict] = []
        self.stages: dict[str, float] = {}

    def build(
        self,
        *,
        config: str,
        opts: list[str],
        height: int,
        width: int,
        batch: int,
        images: list[str],
        threads: int | None,
        device: str,
        seed: int,
    ) -> dict[str, Any]:
        """Make the model and its inputs. Weights are random unless ``opts`` names MODEL.WEIGHTS."""
        if threads:
            torch.set_num_threads(threads)
        torch.manual_seed(seed)
        named = "MODEL.WEIGHTS" in opts and config != _TORCHVISION or is_exported(config)
        if config == _TORCHVISION:
            self.model = TorchvisionMaskRCNN().eval()
        elif is_exported(config):
            self.model = open_exported(config)
            self.model.cfg.INPUT.MIN_SIZE_TEST = 0  # the inputs have their size
        else:
            cfg = load_config(_config_file(config.removeprefix(_COMPILED)), [*opts, "MODEL.DEVICE", device])
            self.model = build_model(cfg).eval()
            if named:
                from ..engine.checkpoint import AdetCheckpointer

                AdetCheckpointer(self.model).load(cfg.MODEL.WEIGHTS)
            if config.startswith(_COMPILED):
                compiled(self.model)
        self.inputs = _read(images, height, width) or _noise(batch, height, width, seed)
        self._watch_stages()
        return {
            "engine": ENGINE,
            "class": type(self.model).__name__,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name() if device.startswith("cuda") else "CPU",
            "trained": named,
        }

    def calibrate(self, *, low: int, high: int) -> dict[str, Any]:
        return {"detections": calibrate(self.model, self.inputs, low, high)}

    def save(self, *, path: str) -> dict[str, Any]:
        torch.save(self.model.state_dict(), path)
        return {}

    def load(self, *, path: str) -> dict[str, Any]:
        self.model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        return {}

    def time(self) -> dict[str, Any]:
        """Time one forward pass in milliseconds, as a whole and by stages, and return what it found."""
        self.stages = dict.fromkeys(("preprocess", "backbone", "postprocess"), 0.0)
        with torch.inference_mode():
            start = self._now()
            outputs = self.model(self.inputs)
            total = self._now() - start
        instances = outputs[0]["instances"]
        boxes = instances.pred_boxes.area().sqrt() if len(instances) else torch.zeros(1)
        return {
            "total": total,
            **self.stages,
            "heads": total - sum(self.stages.values()),
            "detections": count_detections(outputs),
            "box": float(boxes.mean()),
        }

    def _now(self) -> float:
        if self.model.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() * 1e3

    def _watch_stages(self) -> None:
        """Add up the time before and after the network and in the backbone with its FPN.

        Detectron2 calls its post-processing by the class, we by the object; patching the class serves both.
        """
        methods = {"preprocess": ["preprocess_image"], "postprocess": ["_postprocess", "postprocess"]}
        for stage, names in methods.items():
            for name in names:
                for owner in type(self.model).__mro__:
                    if name in vars(owner):
                        self._wrap(owner, name, stage)
                        break
        # Detectron2's Panoptic-FPN has no such method: it calls these functions, by their names in its module.
        module = sys.modules[type(self.model).__module__]
        if hasattr(module, "combine_semantic_and_instance_outputs"):
            names = ("detector_postprocess", "sem_seg_postprocess", "combine_semantic_and_instance_outputs")
            for name in names:
                self._wrap(module, name, "postprocess")
        start = [0.0]
        backbone = getattr(self.model, "backbone", None)
        if backbone is not None:
            backbone.register_forward_pre_hook(lambda module, args: start.__setitem__(0, self._now()))
            backbone.register_forward_hook(lambda module, args, output: self._add("backbone", start[0]))

    def _wrap(self, owner: type | ModuleType, name: str, stage: str) -> None:
        original = vars(owner)[name]
        function = original.__func__ if isinstance(original, staticmethod) else original

        def timed(*args, **kwargs):
            start = self._now()
            result = function(*args, **kwargs)
            self._add(stage, start)
            return result

        setattr(owner, name, staticmethod(timed) if isinstance(original, staticmethod) else timed)

    def _add(self, stage: str, start: float) -> None:
        self.stages[stage] = self.stages.get(stage, 0.0) + self._now() - start


def _config_file(name: str) -> str:
    if not name.startswith(_DETECTRON2):
        return name
    spec = importlib.util.find_spec("detectron2")
    if spec is None or ENGINE != "detectron2":
        raise UserError(f"Detectron2 must be installed for {name}; got the {ENGINE} engine")
    path = Path(spec.origin).parent / "model_zoo" / "configs" / name.removeprefix(_DETECTRON2)
    if not path.is_file():
        raise UserError(f"{name} must be a config of the installed Detectron2; got no file {path}")
    return str(path)


def _noise(batch: int, height: int, width: int, seed: int) -> list[dict]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (batch, 3, height, width), generator=generator, dtype=torch.uint8)
    return [{"image": image, "height": height, "width": width} for image in images]


def _read(paths: list[str], height: int, width: int) -> list[dict]:
    """Read images in BGR, resized to ``height`` x ``width``; results are asked for at their own size."""
    import cv2

    inputs = []
    for path in paths:
        image = cv2.imread(path)
        if image is None:
            raise UserError(f"{path} must be an image; got something that cannot be read")
        resized = torch.from_numpy(cv2.resize(image, (width, height))).permute(2, 0, 1).contiguous()  # (3, H, W)
        inputs.append({"image": resized, "height": image.shape[0], "width": image.shape[1]})
    return inputs


def main() -> None:
    """Answer requests from the standard input until it ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    contestant = Contestant()
    for line in sys.stdin:
        request = json.loads(line)
        action: Callable = getattr(contestant, request.pop("do"))
        try:
            answer = action(**request)
        except (UserError, ValueError) as error:
            answer = {"error": one_line(error)}
        except Exception as error:  # handed to the parent, which ends the benchmark
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {one_line(error)}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
