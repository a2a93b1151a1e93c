"""Prediction on images and videos: overlays, instances as COCO JSON, and label maps."""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from ..data.catalog import class_names_of
from ..engine.predictor import Predictor, confident, on_cpu
from ..engine.streaming import predict_apart
from ..errors import UserError
from ..evaluation.coco_json import image_ids, to_results, write_results
from ..utils.files import make_folder
from ..utils.frame_folder import open_frames
from ..utils.image_io import read_image, write_image
from ..visualize.predictions import draw_outputs
from .arguments import parse_with_overrides
from .demo_video import VideoRun, add_video_options, check_video_options, video_target
from .inputs import add_model, find_images, given_classes, image_targets, keep_inputs, load_predictor, metadata_of

__all__ = ["build_parser", "main"]


def build_parser() -> argparse.ArgumentParser:
    """The command line of the demo."""
    parser = argparse.ArgumentParser(
        description="Predict on images or a video; write overlays and, on request, COCO JSON.",
        epilog="Exit status: 0 all went well, 1 some images could not be read, 2 nothing could be done.",
    )
    add_model(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", nargs="+", metavar="PATH", help="image files, folders, or quoted globs")
    source.add_argument("--video-input", metavar="PATH", help="a video, or a folder of its frames")
    parser.add_argument("--output", metavar="PATH", help="folder for the overlays; or the file, for one image or video")
    parser.add_argument("--json", metavar="FILE", help="write all instances here, in COCO's result format")
    parser.add_argument("--no-draw", action="store_true", help="no overlays: only --json and the times")
    add_video_options(parser)
    parser.add_argument("--batch-size", type=int, default=1, metavar="N", help="images in one pass through the net (1)")
    return parser


def main(argv: Sequence[str] | None = None, predictor: Predictor | None = None) -> int:
    """Run the demo and return its exit status; ``predictor`` stands in for the config's, in tests and notebooks.

    Raises:
        UserError: nothing could be done, and why.
    """
    arguments = parse_with_overrides(build_parser(), argv)
    if arguments.batch_size < 1:
        raise UserError(f"--batch-size must be 1 or more; got {arguments.batch_size}")
    if not (arguments.json or arguments.label_maps) and (arguments.no_draw or not arguments.output):
        raise UserError("there is nothing to write: give --output or --json, or --label-maps for a video")
    check_video_options(arguments)
    # What can be wrong with the paths is found before minutes go into loading a model.
    if arguments.input:
        paths = find_images(arguments.input)
        targets = image_targets(paths, None if arguments.no_draw else arguments.output)
    else:
        with open_frames(arguments.video_input):
            paths, targets = [arguments.video_input], [video_target(arguments)]
    keep_inputs(paths, [*targets, arguments.json])
    for target in {os.path.dirname(path) for path in [*targets, arguments.json] if path}:
        make_folder(target)
    if predictor is None:
        predictor = load_predictor(
            arguments.config_file, arguments.opts, arguments.confidence_threshold, given_classes(arguments)
        )
    session = _Session(predictor, arguments)
    if arguments.input:
        session.images(paths, targets)
    else:
        session.video(paths[0], targets[0])
    return session.finish()


class _Session:
    """One run of the demo: what is predicted with, what has been found, and how long each part took."""

    def __init__(self, predictor: Predictor, arguments: argparse.Namespace):
        self.predictor, self.arguments = predictor, arguments
        self.metadata = metadata_of(predictor, arguments)
        self.names = class_names_of(self.metadata)
        ids = getattr(self.metadata, "thing_dataset_id_to_contiguous_id", None) or {}
        self.category_ids = sorted(ids, key=ids.get)
        self.results: list[dict[str, Any]] = []
        self.seconds: dict[str, list[float]] = {"read": [], "net": [], "draw": []}
        self.broken = 0
        self.written: list[str] = []
        self.run: VideoRun | None = None

    def images(self, paths: Sequence[str], targets: Sequence[str | None]) -> None:
        """Predict on images, batch by batch; an image that cannot be read is reported and left out."""
        size, ids = self.arguments.batch_size, image_ids(paths)
        with tqdm(total=len(paths), unit="image", disable=None) as bar:
            for start in range(0, len(paths), size):
                batch = []
                for index in range(start, min(start + size, len(paths))):
                    begin = time.perf_counter()
                    try:
                        batch.append((index, read_image(paths[index])))
                        self.seconds["read"].append(time.perf_counter() - begin)
                    except UserError as error:
                        self.broken += 1
                        with bar.external_write_mode(file=sys.stderr):
                            print(f"error: {error}", file=sys.stderr)
                outputs = self._predict([image for _, image in batch])
                for (index, image), output in zip(batch, outputs):
                    begin = time.perf_counter()
                    self._collect(output, ids[index], paths[index])
                    if targets[index]:
                        write_image(targets[index], self._draw(image, output))
                        self.written.append(targets[index])
                    self.seconds["draw"].append(time.perf_counter() - begin)
                bar.update(min(size, len(paths) - start))

    def video(self, path: str, target: str | None) -> None:
        """Predict on a video, or a folder of frames, and write it with the overlays at the same frame rate."""
        self.run = VideoRun(
            self.predictor, self.arguments, self.metadata, lambda output, n: self._collect(output, n, path), self._draw
        )
        self.run(path, target)
        self.broken += self.run.broken
        self.written += [place for place in (self.arguments.label_maps, target) if place]

    def finish(self) -> int:
        """Write the JSON, say what was done and how long it took, and return the exit status."""
        if self.arguments.json:
            write_results(self.results, self.arguments.json)
            self.written.append(self.arguments.json)
        if self.run:
            print(self.run.timing())
        elif self.seconds["net"]:
            print(_timing(self.seconds, self.arguments.batch_size))
        if self.written:
            more = f" and {len(self.written) - 1} more" if len(self.written) > 1 else ""
            print(f"wrote {self.written[-1]}{more}")
        if self.broken:
            noun = ("frame" if self.run else "image") + ("" if self.broken == 1 else "s")
            print(f"{self.broken} {noun} could not be read", file=sys.stderr)
        return 1 if self.broken else 0

    def _predict(self, images: list[np.ndarray]) -> list[dict[str, Any]]:
        """Outputs on the CPU with low scores left out; resizing and the way to and from the device count as net."""
        if not images:
            return []
        begin = time.perf_counter()
        outputs = [on_cpu(output) for output in predict_apart(self.predictor, images)]
        elapsed = time.perf_counter() - begin
        self.seconds["net"] += [elapsed / len(images)] * len(images)
        return [confident(output, self.arguments.confidence_threshold) for output in outputs]

    def _collect(self, output: dict[str, Any], image_id: int, path: str) -> None:
        if not self.arguments.json:
            return
        if "instances" not in output:
            raise UserError("--json needs a model that predicts instances; this one gives " + ", ".join(sorted(output)))
        self.results += to_results(output["instances"], image_id, path, self.names, self.category_ids)

    def _draw(self, image: np.ndarray, output: dict[str, Any], colors: list | None = None) -> np.ndarray:
        rgb = np.ascontiguousarray(image[:, :, ::-1])
        return draw_outputs(rgb, output, self.metadata, colors=colors)[:, :, ::-1]


def _timing(seconds: dict[str, list[float]], batch_size: int) -> str:
    """One line: medians per image, the first batch (which warms up) named apart."""
    net = seconds["net"]
    steady = net[batch_size:] or net
    parts = [f"net {1000 * statistics.median(steady):.1f} ms"]
    if seconds["read"]:
        parts.insert(0, f"read {1000 * statistics.median(seconds['read']):.1f} ms")
    parts.append(f"draw and write {1000 * statistics.median(seconds['draw']):.1f} ms")
    warm = f"; first net {1000 * net[0]:.1f} ms" if len(net) > batch_size else "; no warm-up"
    return f"{len(net)} images, median per image at batch {batch_size}: {', '.join(parts)}{warm}"
