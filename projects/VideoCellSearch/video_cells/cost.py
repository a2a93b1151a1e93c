"""``cost``: what a frame costs the static network, and what a later one costs with the cell: the paper's Table 6.5."""

import argparse
import time
from collections.abc import Callable, Sequence

import torch
from torch import nn

from adet_ext import load_config
from adet_ext.benchmark.cost import Cost, measure
from adet_ext.benchmark.paired import ratios, spread
from adet_ext.d2.config import CfgNode
from adet_ext.d2.modeling import build_model
from adet_ext.errors import UserError
from adet_ext.utils.table import text_table

from .segmentor import VideoSegmentor

__all__ = ["build_parser", "count_frame", "main", "time_frames"]


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of ``cost``."""
    parser = argparse.ArgumentParser(prog="python -m video_cells cost", description=__doc__)
    parser.add_argument(
        "--config-file", required=True, metavar="FILE", help="a config; MODEL.VIDEO.CELL names the cell"
    )
    parser.add_argument("--size", action="append", metavar="WxH", help="of a frame (480x360); may be repeated")
    parser.add_argument("--rounds", type=int, default=10, metavar="N", help="timed rounds, after two more (10)")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides")
    return parser


class _Frame(nn.Module):
    """A model on one frame of a stream: the first one, or a later one."""

    def __init__(self, model: VideoSegmentor, height: int, width: int, later: bool):
        super().__init__()
        self.model = model
        self._image = torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(0)).byte()
        self._state = None
        if later:
            with torch.no_grad():
                _, self._state = model.step(self._image, None)

    def forward(self) -> torch.Tensor:
        return self.model.step(self._image, self._state)[0]


def count_frame(cfg: CfgNode, height: int, width: int, later: bool) -> Cost:
    """Return parameters and multiply-adds of a first or a later frame."""
    return measure(_Frame(_build(cfg), height, width, later), [])


def time_frames(cfg: CfgNode, height: int, width: int, rounds: int, warmup: int = 2) -> tuple[list[float], list[float]]:
    """Return the seconds of a first and of a later frame, from uint8 frame to scores of its size, round by round.

    In each round both run once, in alternating order, so that a slow minute affects both.
    """
    model = _build(cfg)
    frames = [_Frame(model, height, width, later) for later in (False, True)]
    seconds: tuple[list[float], list[float]] = ([], [])
    for i in range(-warmup, rounds):
        order = (0, 1) if i % 2 == 0 else (1, 0)
        for which in order:
            found = _seconds(frames[which])
            if i >= 0:
                seconds[which].append(found)
    return seconds


@torch.inference_mode()
def _seconds(run: Callable[[], torch.Tensor]) -> float:
    start = time.perf_counter()
    run().max().item()  # waits for a GPU
    return time.perf_counter() - start


def _build(cfg: CfgNode) -> VideoSegmentor:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS, cfg.MODEL.VIDEO.AUX_WEIGHT = "", 0.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_model(cfg).eval()


def main(argv: Sequence[str] | None = None) -> int:
    """Print parameters, multiply-adds and times of a frame with and without the cell."""
    arguments = build_parser().parse_args(argv)
    cfg = load_config(arguments.config_file, arguments.opts)
    if not cfg.MODEL.VIDEO.CELL:
        raise UserError("MODEL.VIDEO.CELL must name the cell to compare with the static network; it is empty")
    if arguments.rounds < 1:
        raise UserError(f"--rounds must be 1 or more; got {arguments.rounds}")
    table = [("size", "frame", "params M", "multiply-adds G", "ms", "quartiles", "to static")]
    for text in arguments.size or ["480x360"]:
        width, height = _size(text)
        first, later = time_frames(cfg, height, width, arguments.rounds)
        for name, is_later, times in (("static", False, first), ("cell", True, later)):
            cost, found = count_frame(cfg, height, width, is_later), spread(times)
            parameters = cost.parameters[""] - (0 if is_later else cost.parameters["model.cell"])
            ratio = f"{ratios(later, first).median:.3f}" if is_later else ""
            row = (f"{parameters / 1e6:.3f}", f"{cost.multiply_adds[''] / 1e9:.3f}", f"{1e3 * found.median:.1f}")
            quartiles = f"{1e3 * found.lower:.1f} to {1e3 * found.upper:.1f}"
            table.append((f"{width} x {height}", name, *row, quartiles, ratio))
    print(text_table(table, left=2))
    print(f"\n{torch.get_num_threads()} threads, {arguments.rounds} rounds; from the frame to scores of its size")
    return 0


def _size(text: str) -> tuple[int, int]:
    """Return width and height of "480x360"."""
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdigit() and int(part) >= 32 for part in parts):
        raise UserError(f"--size must be WIDTHxHEIGHT of 32 pixels or more, such as 480x360; got {text}")
    return int(parts[0]), int(parts[1])
