"""The demo's way through a video: read, predict, draw and write frame by frame, in memory that does not grow."""

import argparse
import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from tqdm import tqdm

from ..engine.predictor import Predictor, confident, on_cpu
from ..engine.streaming import FramePredictor, predicted_classes
from ..errors import UserError
from ..utils import video
from ..utils.files import make_folder
from ..utils.frame_folder import open_frames
from ..utils.image_io import write_image
from ..visualize.semantic_video import SemanticPainter, beside
from ..visualize.tracker import ColorTracker

__all__ = ["VideoRun", "add_video_options", "check_video_options", "video_target"]

_PARTS = ("read", "network", "draw", "write")


def add_video_options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that only videos have."""
    parser.add_argument(
        "--label-maps",
        metavar="DIR",
        help="video, semantic models: write the class of every pixel here, a PNG for each frame",
    )
    parser.add_argument(
        "--side-by-side",
        action="store_true",
        help="video, models with a state: show every frame as if it were the first, and beside it as it is",
    )


def check_video_options(arguments: argparse.Namespace) -> None:
    """Refuse options of videos that do not fit the others, before a model is loaded.

    Raises:
        UserError: naming the option.
    """
    for option, value in (("--label-maps", arguments.label_maps), ("--side-by-side", arguments.side_by_side)):
        if value and not arguments.video_input:
            raise UserError(f"{option} needs --video-input")
    if arguments.label_maps:
        place = os.path.realpath(arguments.label_maps)
        if os.path.isdir(arguments.video_input or "") and place == os.path.realpath(arguments.video_input):
            raise UserError(f"--label-maps {arguments.label_maps} is the folder of the frames; choose another")
        make_folder(arguments.label_maps, "--label-maps")


def video_target(arguments: argparse.Namespace) -> str | None:
    """Return the file that the overlays go to, None for none."""
    if arguments.no_draw or not arguments.output:
        return None
    if arguments.output.lower().endswith(video.SUFFIXES):
        return arguments.output
    name = os.path.basename(os.path.abspath(arguments.video_input))
    stem = name if os.path.isdir(arguments.video_input) else os.path.splitext(name)[0]
    return os.path.join(arguments.output, stem + ".mp4")


class VideoRun:
    """Predict on a video and write its overlays and label maps.

    Args:
        metadata: names and colors of the classes.
        collect: gets the outputs of a frame, and its number from 1 on.
        draw: makes the overlay of other than purely semantic outputs: ``draw(frame, outputs, colors)``.
    """

    def __init__(
        self,
        predictor: Predictor,
        arguments: argparse.Namespace,
        metadata: Any,
        collect: Callable[[dict, int], None],
        draw: Callable[[np.ndarray, dict, list | None], np.ndarray],
    ):
        self.arguments, self.metadata, self.collect, self.draw = arguments, metadata, collect, draw
        self.predict = FramePredictor(predictor)
        self.static = FramePredictor(predictor, static=True) if arguments.side_by_side else None
        if self.static and not self.predict.has_state:
            raise UserError("--side-by-side needs a model that takes a state from frame to frame; this one has none")
        self.tracker = ColorTracker()
        self.painter: SemanticPainter | None = None
        self.seconds = dict.fromkeys(_PARTS, 0.0)
        self.first_network = 0.0
        self.frames = self.broken = 0

    def __call__(self, path: str, target: str | None) -> None:
        """Go through the video at ``path``; ``target`` is the video of overlays, None for none.

        Raises:
            UserError: nothing can be read, or something cannot be written.
        """
        with contextlib.ExitStack() as stack:
            source = stack.enter_context(open_frames(path))
            bar = stack.enter_context(tqdm(total=source.frames or None, unit="frame", disable=None))
            write = None
            if target:
                write = stack.enter_context(video.video_writer(target, source.fps, path))
            for frame in self._timed(source):
                picture = self._frame(frame, source.name, drawn=target is not None)
                with self._time("write"):
                    if write:
                        write(picture)
                bar.update(1)
            self.broken = source.broken
        if not self.frames:
            raise UserError(f"{path}: no frame could be read")

    def _frame(self, frame: np.ndarray, name: str, drawn: bool) -> np.ndarray:
        """Predict on a frame, and return the picture to write, if any."""
        self.frames += 1
        begin = time.perf_counter()
        outputs = self.predict(frame)
        labels = predicted_classes(outputs)
        static = predicted_classes(self.static(frame)) if self.static else None
        if labels is None:
            outputs = confident(on_cpu(outputs), self.arguments.confidence_threshold)
        elapsed = time.perf_counter() - begin
        self.seconds["network"] += elapsed
        if self.frames == 1:
            self.first_network = elapsed
        self.collect(outputs, self.frames)
        if self.arguments.label_maps:
            if labels is None:
                raise UserError("--label-maps needs a semantic model; this one gives " + ", ".join(sorted(outputs)))
            with self._time("write"):
                write_image(os.path.join(self.arguments.label_maps, f"{name}.png"), labels)
        with self._time("draw"):
            if not drawn:
                return frame
            if labels is not None:
                return self._semantic(frame, outputs["sem_seg"].shape[0], labels, static)
            instances = outputs.get("instances")
            colors = self.tracker(instances) if instances is not None and instances.has("pred_boxes") else None
            return self.draw(frame, outputs, colors)

    def _semantic(self, frame: np.ndarray, classes: int, labels: np.ndarray, static: np.ndarray | None) -> np.ndarray:
        self.painter = self.painter or SemanticPainter(self.metadata, classes)
        picture = self.painter.overlay(frame, labels)
        if static is not None:
            picture = beside([self.painter.overlay(frame, static), picture], ["static", "dynamic"])
        return self.painter.with_legend(picture)

    def _timed(self, source: Any) -> Iterator[np.ndarray]:
        frames = iter(source)
        while True:
            with self._time("read"):
                frame = next(frames, None)
            if frame is None:
                return
            yield frame

    @contextlib.contextmanager
    def _time(self, part: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.seconds[part] += time.perf_counter() - begin

    def timing(self) -> str:
        """Return one line: frames per second in all, and of each part alone; the first pass, a warm-up, named apart."""
        network, count = self.seconds["network"], self.frames
        if count > 1:
            network, count = network - self.first_network, count - 1
        means = {part: self.seconds[part] / self.frames for part in _PARTS} | {"network": network / count}
        rates = [f"{part} {_rate(mean)} ({1000 * mean:.1f} ms)" for part, mean in means.items()]
        warm = f"; first network pass {1000 * self.first_network:.1f} ms" if self.frames > 1 else "; no warm-up"
        total = sum(means.values())
        return f"{self.frames} frames, {_rate(total)} frames a second; each part alone: {', '.join(rates)}{warm}"


def _rate(seconds: float) -> str:
    return f"{1 / seconds:.1f}" if seconds > 0 else "-"
