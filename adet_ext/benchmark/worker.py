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
from ..export.exported import ExportedModel
from ..export.files import is_exported, open_exported
from .calibrate import calibrate, count_detections
from .inputs import make_inputs
from .rivals import COMPILED, TORCHVISION, TorchvisionMaskRCNN, compiled

__all__ = ["STAGES", "Contestant", "main"]

_DETECTRON2 = "detectron2:"  # before the name of a config of Detectron2's own model zoo

# Of a pass through a model; "heads" is what is left. What runs in one graph (compiled, exported) is not divided.
STAGES = ("preprocess", "backbone", "heads", "nms", "masks", "postprocess")
# Methods whose time is a stage, by the names of the parts that have them, here and in torchvision and Detectron2.
_PARTS = {
    "nms": (
        "proposal_generator.detect", "proposal_generator.predict_proposals", "roi_heads.box_predictor.inference",
        "model.rpn.filter_proposals", "model.roi_heads.postprocess_detections",
    ),
    "masks": (
        "branch_fields", "roi_heads._forward_mask", "model.roi_heads.mask_roi_pool.forward",
        "model.roi_heads.mask_head.forward", "model.roi_heads.mask_predictor.forward",
    ),
    "postprocess": ("model.transform.postprocess",),
}  # fmt: skip


class Contestant:
    """A model and its inputs, timed forward pass by forward pass."""

    def __init__(self):
        self.model: torch.nn.Module = None
        self.inputs: list[dict] = []
        self.paths: list[str] = []
        self.size = (0, 0)
        self.passes = 0
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
        named = "MODEL.WEIGHTS" in opts and config != TORCHVISION or is_exported(config)
        if config == TORCHVISION:
            self.model = TorchvisionMaskRCNN().eval()
        elif is_exported(config):
            self.model = open_exported(config)
            self.model.cfg.INPUT.MIN_SIZE_TEST = 0  # the inputs have their size
        else:
            cfg = load_config(_config_file(config.removeprefix(COMPILED)), [*opts, "MODEL.DEVICE", device])
            self.model = build_model(cfg).eval()
            if named:
                from ..engine.checkpoint import AdetCheckpointer

                AdetCheckpointer(self.model).load(cfg.MODEL.WEIGHTS)
            if config.startswith(COMPILED):
                compiled(self.model)
        self.paths, self.size = images, (height, width)
        self.inputs = make_inputs(images, height, width, batch, seed)
        self._watch_stages(in_one_graph=config.startswith(COMPILED))
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
        with torch.inference_mode():
            total, outputs = self._pass(self.inputs)
        instances = outputs[0]["instances"]
        boxes = instances.pred_boxes.area().sqrt() if len(instances) else torch.zeros(1)
        return {
            "total": total,
            **self.stages,
            "detections": count_detections(outputs),
            "box": float(boxes.mean()),
        }

    def steps(self) -> dict[str, Any]:
        """Time one picture's way from its file to a drawing in milliseconds; each call takes the next picture."""
        from .steps import Stopwatch, predict_from_file  # with drawing, which other requests do not need

        path = self.paths[self.passes % len(self.paths)]
        self.passes += 1
        watch = Stopwatch(self._now)
        with torch.inference_mode():
            outputs = predict_from_file(path, self.size, lambda inputs: self._pass(inputs)[1], watch)
        network = watch.times.pop("model")
        stages = dict(self.stages)
        if isinstance(self.model, ExportedModel):  # which resizes and pads itself
            watch.times["resize"] += stages["preprocess"]
            network -= stages["preprocess"]
        inside = {"nms": stages["nms"], "masks": stages["masks"], "paste": stages["postprocess"]}
        times = {**watch.times, **inside, "network": network - sum(inside.values())}
        return {"total": sum(times.values()), **times, "detections": count_detections([outputs])}

    def _pass(self, inputs: list[dict]) -> tuple[float, list[dict]]:
        """Run the model; return its time, of which ``stages`` has the parts, and its outputs."""
        self.stages = dict.fromkeys(STAGES, 0.0)
        start = self._now()
        outputs = self.model(inputs)
        total = self._now() - start
        self.stages["heads"] = total - sum(self.stages.values())
        return total, outputs

    def _now(self) -> float:
        if self.model.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() * 1e3

    def _watch_stages(self, in_one_graph: bool) -> None:
        """Add up the time before and after the network and, unless it is one graph, in its parts.

        Detectron2 calls its post-processing by the class, we by the object; patching the class serves both.
        """
        methods = {"preprocess": ["preprocess_image", "packed"], "postprocess": ["_postprocess", "postprocess"]}
        for stage, names in methods.items():
            for name in names:
                for owner in type(self.model).__mro__:
                    if name in vars(owner):
                        self._wrap(owner, name, stage)
                        break
        # Detectron2's Panoptic-FPN has no such method: it calls these functions, by their names in its module; so does
        # an exported model.
        module = sys.modules[type(self.model).__module__]
        if hasattr(module, "combine_semantic_and_instance_outputs"):
            names = ("detector_postprocess", "sem_seg_postprocess", "combine_semantic_and_instance_outputs")
            for name in names:
                self._wrap(module, name, "postprocess")
        if isinstance(self.model, ExportedModel):
            self._wrap(module, "image_result", "postprocess")
        if in_one_graph:
            return
        for stage, names in _PARTS.items():
            for name in names:
                self._watch_part(name, stage)
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

    def _watch_part(self, name: str, stage: str) -> None:
        """Time a method of one of the model's parts, where the model has it."""
        *parts, method = name.split(".")
        owner = self.model
        for part in parts:
            owner = getattr(owner, part, None)
        original = getattr(owner, method, None)
        if original is None:
            return

        def timed(*args, **kwargs):
            start = self._now()
            result = original(*args, **kwargs)
            self._add(stage, start)
            return result

        setattr(owner, method, timed)

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
