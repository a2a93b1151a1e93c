"""Write the report of a training: one HTML file without external resources, for light and dark mode.

    python -m adet_ext report OUTPUT_DIR

It reads the folder's ``metrics.json`` and, if present, ``config.yaml`` and ``pictures/``
(see :mod:`adet_ext.report.gallery`).
"""

import datetime
import html
import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from ..errors import UserError, one_line
from ..utils.durations import duration
from ..utils.files import make_folder, written_beside
from ..utils.machine import processor_name
from .charts import CHART_STYLE, line_chart
from .gallery import Gallery
from .metrics import EVALUATED, Metrics, overall, per_class
from .page import bars, definitions, figure, grid, page, section, tiles

__all__ = ["machine_facts", "make_report"]

_AP_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_AP_TITLES = ("AP", "AP50", "AP75", "AP small", "AP medium", "AP large")
_SHOWN = 6  # comparisons before the rest is folded
# Rows of "What was run": title, and its parts: a format and the key whose value it shows.
_SETTINGS = (
    ("Model", (("{}", "MODEL.META_ARCHITECTURE"), ("{}", "MODEL.BACKBONE.NAME"), ("depth {}", "MODEL.RESNETS.DEPTH"))),
    ("Data", (("trained on {}", "DATASETS.TRAIN"), ("tested on {}", "DATASETS.TEST"))),
    ("Schedule", (("{} iterations", "SOLVER.MAX_ITER"), ("{} images each", "SOLVER.IMS_PER_BATCH"))),
    (
        "Optimizer",
        (("{}", "SOLVER.OPTIMIZER"), ("learning rate {}", "SOLVER.BASE_LR"), ("{}", "SOLVER.LR_SCHEDULER_NAME")),
    ),
    ("Shorter side", (("{} in training", "INPUT.MIN_SIZE_TRAIN"), ("{} in tests", "INPUT.MIN_SIZE_TEST"))),
    ("Started from", (("{}", "MODEL.WEIGHTS"),)),
)


def make_report(
    output_dir: str,
    *,
    title: str = "",
    command: Sequence[str] = (),
    facts: Mapping[str, str] | None = None,
    pictures: str = "pictures",
    name: str = "report.html",
) -> str:
    """Write the report of the training in ``output_dir`` and return its path.

    Args:
        output_dir: a folder with ``metrics.json``; ``config.yaml`` and pictures are used if present.
        title: the heading; by default from the model's name and the test data set's.
        command: the command line that was run.
        facts: further rows for the table of times.
        pictures: the folder of pictures inside ``output_dir``; those that :func:`make_gallery` listed are shown.
        name: the file's name inside ``output_dir``.

    Raises:
        UserError: there are no metrics, or the report cannot be written.
    """
    metrics = Metrics(os.path.join(output_dir, "metrics.json"))
    config_text, config = _read_config(os.path.join(output_dir, "config.yaml"))
    folder = os.path.join(output_dir, pictures)
    gallery = Gallery.load(folder)
    sections = [
        _tiles(metrics, config, gallery),
        _accuracy(metrics),
        _pictures(gallery, folder),
        _curves(metrics),
        _timing(metrics, config, gallery, facts or {}),
        _run(config, config_text, command),
        _table_section("Machine and versions", machine_facts()),
    ]
    title = title or _default_title(config)
    body = "\n".join(part for part in sections if part)
    document = page(title, _subtitle(metrics, config), body, CHART_STYLE)
    make_folder(output_dir)
    path = os.path.join(output_dir, name)
    with written_beside(path) as beside, open(beside, "w", encoding="utf-8") as file:
        file.write(document)
    return path


def machine_facts() -> dict[str, str]:
    """Return the processor, GPUs and versions that a figure depends on; nothing that identifies a person or host."""
    import platform

    import numpy
    import torch
    import torchvision

    import adet_ext

    from ..d2 import ENGINE, REASON

    facts = {
        "Processor": f"{processor_name()}, {os.cpu_count()} cores, torch on {torch.get_num_threads()}",
        "System": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "Engine": f"{ENGINE} ({REASON})",
        "Versions": f"adet-ext {adet_ext.__version__}, torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}, numpy {numpy.__version__}",
    }
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        facts["GPU"] = f"{', '.join(names)}; CUDA {torch.version.cuda}"
    return facts


def _read_config(path: str) -> tuple[str, dict[str, Any]]:
    if not os.path.isfile(path):
        return "", {}
    with open(path, encoding="utf-8") as file:
        text = file.read()
    try:
        loaded = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{path} must be YAML; got: {one_line(error)}. Remove it, or train again") from error
    return text, loaded if isinstance(loaded, dict) else {}


def _value(config: dict[str, Any], key: str, default: Any = None) -> Any:
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            return default
        node = node[part]
    return node


def _default_title(config: dict[str, Any]) -> str:
    model = _value(config, "MODEL.META_ARCHITECTURE", "Training")
    tests = _value(config, "DATASETS.TEST") or ()
    return f"{model} on {', '.join(tests)}" if tests else str(model)


def _subtitle(metrics: Metrics, config: dict[str, Any]) -> str:
    done = metrics.iterations
    planned = _value(config, "SOLVER.MAX_ITER", done)
    progress = f"{done} iterations" if done >= planned else f"{done} of {planned} iterations"
    return f"{progress}  ·  {datetime.date.today():%d %B %Y}"


def _tiles(metrics: Metrics, config: dict[str, Any], gallery: Gallery | None) -> str:
    found = []
    for dataset, tasks in metrics.results().items():
        for task, label in EVALUATED.items():
            if overall(tasks.get(task, {}), ("AP",))[0] is not None:
                found.append((f"{tasks[task]['AP']:.1f}", f"{label} AP" + (f", {dataset}" if dataset else "")))
    if metrics.seconds():
        found.append((duration(metrics.seconds()), "training time"))
    batch, step = _value(config, "SOLVER.IMS_PER_BATCH"), metrics.seconds_per_iteration()
    if batch and step:
        found.append((f"{batch / step:.1f}", "images a second in training"))
    if gallery and gallery.inference_ms:
        found.append((f"{gallery.inference_ms:.0f} ms", "inference per image"))
    return tiles(found)


def _accuracy(metrics: Metrics) -> str:
    parts = []
    for dataset, tasks in metrics.results().items():
        shown = {label: tasks[task] for task, label in EVALUATED.items() if task in tasks}
        if not shown:
            continue
        rows = [
            [label, *("–" if v is None else f"{v:.1f}" for v in overall(result, _AP_NAMES))]
            for label, result in shown.items()
        ]
        heading = f"<h3>{html.escape(dataset)}</h3>" if dataset else ""
        parts.append(heading + grid(("", *_AP_TITLES), rows))
        classes = {label: per_class(result) for label, result in shown.items()}
        if any(classes.values()):
            parts.append(bars(classes, unit="AP"))
    if not parts:
        return section("Accuracy", "<p class=note>No evaluation has been logged.</p>")
    return section("Accuracy", "".join(parts), "COCO's average precision in percent, on the test images.")


def _pictures(gallery: Gallery | None, folder: str) -> str:
    if gallery is None:
        return ""
    parts = []
    if gallery.overview:
        parts.append(figure(folder, gallery.overview, "Predictions on images that the model was not trained on."))
    if gallery.comparisons:
        figures = [figure(folder, name, caption) for name, caption in gallery.comparisons]
        pictures = "".join(figures[:_SHOWN])
        if len(figures) > _SHOWN:
            rest = "".join(figures[_SHOWN:])
            pictures += f"<details><summary>{len(figures) - _SHOWN} more</summary>{rest}</details>"
        note = "An object that was found has the color of its ground truth."
        parts.append(f"<h3>Beside the ground truth</h3><p class=note>{note}</p>{pictures}")
    if gallery.blendings:
        pictures = "".join(figure(folder, name, caption) for name, caption in gallery.blendings)
        note = (
            "A basis is one map for the whole image, here dark where it is low and white where it is high. An "
            "attention gives the share of each basis in an object's mask at every point of its box, painted in the "
            "bases' colors."
        )
        parts.append(f"<h3>Bases and attentions</h3><p class=note>{note}</p>{pictures}")
    lead = f"{gallery.dataset}; instances that score at least {100 * gallery.threshold:.0f}%."
    return section("Pictures", "".join(parts), lead)


def _curves(metrics: Metrics) -> str:
    parts = []
    losses = {key: metrics.series(key) for key in metrics.losses()}
    names = {key: key.removeprefix("loss_").removesuffix("_loss").replace("_", " ") for key in losses}
    if losses:
        chart = line_chart(
            {names[key]: series for key, series in losses.items()}, x_label="iteration", y_label="loss", log=True
        )
        parts.append(f"<figure class=chart>{chart}<figcaption>Losses, on a logarithmic scale.</figcaption></figure>")
    curves = {}
    for dataset, tasks in metrics.results().items():
        for task, label in EVALUATED.items():
            if task in tasks:
                prefix = f"{dataset}/" if dataset else ""
                curves[f"{label} AP {dataset}".strip()] = metrics.series(f"{prefix}{task}/AP")
    if any(len(xs) > 1 for xs, _ in curves.values()):
        chart = line_chart(curves, x_label="iteration", y_label="AP (%)", bottom=0)
        parts.append(f"<figure class=chart>{chart}<figcaption>AP at each evaluation.</figcaption></figure>")
    rate = metrics.series("lr")
    if len(rate[0]) > 1:
        chart = line_chart({"lr": rate}, x_label="iteration", y_label="learning rate", bottom=0, size=(9.5, 2.4))
        parts.append(f"<figure class=chart>{chart}<figcaption>Learning rate.</figcaption></figure>")
    return section("Training", "".join(parts)) if parts else ""


def _timing(metrics: Metrics, config: dict, gallery: Gallery | None, facts: Mapping[str, str]) -> str:
    rows = {}
    step, batch = metrics.seconds_per_iteration(), _value(config, "SOLVER.IMS_PER_BATCH")
    if step:
        rows["Training"] = f"{duration(metrics.seconds())} in iterations (evaluation and pictures come on top)"
        rows["Iteration"] = f"{1000 * step:.0f} ms, median" + (f", for {batch} images" if batch else "")
    data = sorted(metrics.series("data_time")[1])
    if data:
        rows["Waiting for data"] = f"{1000 * data[len(data) // 2]:.1f} ms of an iteration"
    if gallery and gallery.inference_ms:
        rows["Inference"] = f"{gallery.inference_ms:.1f} ms per image: median, batch 1, from image to full-size masks"
    rows.update(facts)
    return _table_section("Time", rows) if rows else ""


def _run(config: dict[str, Any], config_text: str, command: Sequence[str]) -> str:
    parts = []
    if command:
        parts.append(f"<pre>{html.escape(shlex.join(command))}</pre>")
    rows = {}
    for title, settings in _SETTINGS:
        values = [(how, _value(config, key)) for how, key in settings]
        text = ", ".join(how.format(_plain(value)) for how, value in values if value not in (None, "", []))
        if text:
            rows[title] = text
    if rows:
        parts.append(definitions(rows))
    if config_text:
        parts.append(f"<details><summary>The whole config</summary><pre>{html.escape(config_text)}</pre></details>")
    return section("What was run", "".join(parts)) if parts else ""


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _table_section(title: str, rows: Mapping[str, str]) -> str:
    return section(title, definitions(rows))
