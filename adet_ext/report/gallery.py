"""Draw a trained model's predictions on held-out images, in a folder with an index for the report."""

import dataclasses
import json
import os
import statistics
import time

import numpy as np

from ..d2.data import DatasetCatalog, MetadataCatalog
from ..engine.predictor import Predictor, confident, on_cpu
from ..errors import UserError, one_line
from ..utils.files import make_folder, written_beside
from ..utils.image_io import read_as, write_image
from ..visualize import drawing
from ..visualize.explain import explain, explainable
from ..visualize.predictions import compare, draw_outputs

__all__ = ["Gallery", "make_gallery"]

INDEX = "index.json"


@dataclasses.dataclass
class Gallery:
    """What :func:`make_gallery` wrote to a folder, as in its ``index.json``.

    Attributes:
        dataset: the data set's name.
        threshold: scores from which instances are drawn.
        overview: file name of the contact sheet of predictions.
        comparisons: (file name, caption) of pictures of image, ground truth and prediction.
        blendings: (file name, caption) of pictures of bases and attentions; empty for models without them.
        inference_ms: median time per image at batch 1, from resizing to masks, without the first image.
    """

    dataset: str
    threshold: float
    overview: str = ""
    comparisons: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    blendings: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    inference_ms: float = 0.0

    @staticmethod
    def load(folder: str) -> "Gallery | None":
        """Read the index of ``folder``; None if it has none."""
        path = os.path.join(folder, INDEX)
        if not os.path.isfile(path):
            return None
        try:
            with open(path, encoding="utf-8") as file:
                return Gallery(**json.load(file))
        except (ValueError, TypeError) as error:
            raise UserError(f"{path} must be an index of pictures; got: {one_line(error)}. Remove it") from error


def make_gallery(
    predictor: Predictor,
    dataset: str,
    folder: str,
    *,
    count: int = 12,
    blendings: int = 3,
    threshold: float = 0.5,
    side: int = 384,
) -> Gallery:
    """Predict on ``count`` images of a registered data set and write pictures and their index to ``folder``.

    Args:
        predictor: the model.
        dataset: a registered name; images are evenly spaced over it.
        folder: made if missing.
        count: images to show.
        blendings: how many of them to show with bases and attentions, if the model has those.
        threshold: scores from which instances are drawn.
        side: pictures of smaller images are enlarged by a whole factor to about this longer side.
    """
    metadata = MetadataCatalog.get(dataset)
    records = DatasetCatalog.get(dataset)
    if not records:
        raise UserError(f"a data set must have images to show; got none in {dataset}")
    make_folder(folder)
    if count < 1:
        raise UserError(f"the number of pictures must be 1 or more; got {count}")
    chosen = [records[i] for i in np.unique(np.linspace(0, len(records) - 1, count).astype(int))]
    gallery, overview, seconds = Gallery(dataset, threshold), [], []
    for number, record in enumerate(chosen):
        image = read_as(record["file_name"], "BGR")
        start = time.perf_counter()
        outputs = on_cpu(predictor(image))
        seconds.append(time.perf_counter() - start)
        outputs = confident(outputs, threshold)
        rgb = np.ascontiguousarray(image[:, :, ::-1])
        scale = max(1, round(side / max(image.shape[:2])))
        caption = os.path.basename(str(record["file_name"]))
        overview.append(draw_outputs(rgb, outputs, metadata, scale=scale))
        name = f"compare_{number:02d}.png"
        picture = compare(rgb, record, outputs, metadata, scale=scale)
        write_image(os.path.join(folder, name), picture[:, :, ::-1])
        gallery.comparisons.append((name, caption))
        if number < blendings and explainable(predictor.model):
            pictures = explain(predictor, image, metadata, threshold=threshold, count=0, side=side)
            if "blending" in pictures:
                name = f"blending_{number:02d}.png"
                write_image(os.path.join(folder, name), pictures["blending"][:, :, ::-1])
                gallery.blendings.append((name, caption))
    gallery.inference_ms = 1000 * statistics.median(seconds[1:] or seconds)
    gallery.overview = "overview.png"
    cell = (side * 3 // 4, side * 3 // 4)
    sheet = drawing.sheet(overview, columns=4, cell=cell, gap=8)
    write_image(os.path.join(folder, gallery.overview), sheet[:, :, ::-1])
    index = os.path.join(folder, INDEX)
    with written_beside(index) as beside, open(beside, "w", encoding="utf-8") as file:
        json.dump(dataclasses.asdict(gallery), file, indent=1)
    return gallery
