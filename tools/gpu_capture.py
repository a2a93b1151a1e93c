#!/usr/bin/env python3
"""Time whole models on a GPU: eager, compiled, and captured in a CUDA graph; compare what they give.

    tools/gpu_capture.py [--config-file FILE ...] [--json FILE]

The part of a model that is measured is predict_tensors, from a normalized image to results of fixed size.
"""

import argparse
import json
import sys
from collections.abc import Callable

import torch

from adet_ext import get_cfg, get_config_file
from adet_ext.d2.modeling import build_model

CONFIGS = ["FCOS/R_50_1x.yaml", "BlendMask/R_50_1x.yaml", "SmalMask/R_50_1x.yaml", "DR1Mask/R_101_3x.yaml"]
ROUNDS = 30


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", nargs="+", default=CONFIGS, metavar="FILE")
    parser.add_argument("--json", metavar="FILE", help="write the numbers here as well")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("gpu_capture: torch must see a GPU; it sees none.")
        return 2
    found = {name: measure(name) for name in options.config_file}
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=1)
    return any(isinstance(value, str) for ways in found.values() for value in ways.values())


@torch.no_grad()
def measure(name: str) -> dict[str, float | str]:
    """Return milliseconds of each way of running a config's model, or why it does not run."""
    cfg = get_cfg()
    cfg.merge_from_file(get_config_file(name))
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.DEVICE = "cuda"
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    images = torch.randn(1, 3, 800, 1088, device="cuda").contiguous(memory_format=torch.channels_last)
    expected = scores_of(model, images)
    ways = {"eager": lambda: lambda: scores_of(model, images)}
    ways["compiled"] = lambda: compiled_model(model, images)
    ways["captured"] = lambda: captured(model, images)
    results: dict[str, float | str] = {}
    for way, make in ways.items():
        try:
            run = make()
            torch.testing.assert_close(run(), expected, atol=1e-2, rtol=1e-2)
            results[way] = milliseconds(run)
        except Exception as error:  # a compiler's and a capture's are of many kinds
            results[way] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        print(f"{name} {way}: {results[way]}", flush=True)
    return results


def scores_of(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    return model.predict_tensors(images).detections.scores


def compiled_model(model: torch.nn.Module, images: torch.Tensor) -> Callable[[], torch.Tensor]:
    compiled = torch.compile(model.predict_tensors, fullgraph=True)
    return lambda: compiled(images).detections.scores


def captured(model: torch.nn.Module, images: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Capture inference in a CUDA graph, after runs on a side stream that make what is kept."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            scores_of(model, images)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        scores = scores_of(model, images)

    def run() -> torch.Tensor:
        graph.replay()
        return scores

    return run


def milliseconds(run: Callable[[], torch.Tensor]) -> float:
    """Return the median time of a run, by the device's clock."""
    times = []
    for _ in range(ROUNDS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return sorted(times[5:])[len(times[5:]) // 2]


if __name__ == "__main__":
    sys.exit(main())
