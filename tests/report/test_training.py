import json
import math
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from adet_ext import cli
from adet_ext.config import get_cfg
from adet_ext.data.shapes import register_shapes
from adet_ext.engine.predictor import Predictor
from adet_ext.errors import UserError
from adet_ext.report.charts import line_chart
from adet_ext.report.gallery import Gallery, make_gallery
from adet_ext.report.metrics import Metrics, per_class
from adet_ext.report.page import bars
from adet_ext.report.training import make_report
from adet_ext.utils.durations import duration

from ..fake_model import BlobModel


def write_metrics(folder, rows, tail=""):
    text = "".join(json.dumps(row) + "\n" for row in rows) + tail
    (folder / "metrics.json").write_text(text)
    return str(folder / "metrics.json")


def rows(count=4, step=20):
    for i in range(1, count + 1):
        row = {"iteration": i * step - 1, "total_loss": 4.0 / i, "loss_mask": 1.0 / i, "loss_fcos_cls": 2.0 / i}
        row |= {"lr": 0.01, "time": 0.5, "data_time": 0.01}
        if i % 2 == 0:
            row |= {"bbox/AP": 10.0 * i, "bbox/AP50": 60.0, "segm/AP": 9.0 * i, "segm/APl": math.nan}
            row |= {"segm/AP-disc": 50.0, "segm/AP-<star>": 30.0, "bbox/AP-disc": 55.0}
        yield row


def test_repeated_iterations_and_half_lines_are_dropped(tmp_path):
    again = {"iteration": 39, "total_loss": 9.0}
    metrics = Metrics(write_metrics(tmp_path, [*rows(), again], tail='{"iteration": 99, "total_l'))
    assert metrics.series("total_loss") == ([20, 40, 60, 80], [4.0, 9.0, 4.0 / 3, 1.0])
    assert metrics.skipped == 1


def test_the_last_evaluation_is_the_result(tmp_path):
    metrics = Metrics(write_metrics(tmp_path, rows()))
    assert metrics.results()[""]["segm"]["AP"] == 36.0
    assert per_class(metrics.results()[""]["segm"]) == {"disc": 50.0, "<star>": 30.0}
    assert metrics.losses() == ["total_loss", "loss_fcos_cls", "loss_mask"]
    assert metrics.seconds() == pytest.approx(40.0) and metrics.seconds_per_iteration() == 0.5


def test_the_evaluation_after_training_counts_for_the_last_iteration(tmp_path):
    metrics = Metrics(write_metrics(tmp_path, [*rows(), {"iteration": 80, "segm/AP": 50.0}]))
    assert metrics.iterations == 80
    assert metrics.series("segm/AP") == ([40, 80, 80], [18.0, 36.0, 50.0])


def test_several_data_sets_are_kept_apart(tmp_path):
    row = {"iteration": 0, "one/bbox/AP": 1.0, "the/other/bbox/AP": 2.0}
    results = Metrics(write_metrics(tmp_path, [row])).results()
    assert results["one"]["bbox"]["AP"] == 1.0 and results["the/other"]["bbox"]["AP"] == 2.0


def test_missing_or_empty_metrics_are_a_sentence(tmp_path):
    with pytest.raises(UserError, match="metrics.json must exist"):
        make_report(str(tmp_path))
    write_metrics(tmp_path, [])
    with pytest.raises(UserError, match="must have metrics; got none"):
        make_report(str(tmp_path))


class Page(HTMLParser):
    """Collects what a page refers to, and checks that its tags nest."""

    VOID = {"meta", "img", "br", "path", "use", "link"}

    def __init__(self, text):
        super().__init__()
        self.open, self.references = [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.references += [value for name, value in attributes if name in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.references += [value for name, value in attributes if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_a_report_stands_alone_and_shows_what_was_measured(tmp_path):
    write_metrics(tmp_path, rows())
    (tmp_path / "config.yaml").write_text(
        "MODEL: {META_ARCHITECTURE: BlendMask}\nDATASETS: {TEST: [shapes_val]}\n"
        "SOLVER: {MAX_ITER: 80, IMS_PER_BATCH: 8}\n"
    )
    path = make_report(str(tmp_path), command=["python", "a b.py"], facts={"Altogether": "5 min"})
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert path == str(tmp_path / "report.html")
    page = Page(text)
    assert all(r.startswith(("data:", "#")) for r in page.references)
    assert not re.search(r"url\((?!#)|@import|<script", text)
    assert all(figure in text for figure in ("36.0", "40.0", "16.0"))
    for shown in ("BlendMask on shapes_val", "disc", "&lt;star&gt;", "&#x27;a b.py&#x27;", "5 min"):
        assert shown in text
    assert "<star>" not in text and not re.search(r"\bnan\b", text, re.IGNORECASE)
    assert "80 iterations" in text and text.count("<svg") == 3


def test_a_run_that_is_not_finished_says_so(tmp_path):
    write_metrics(tmp_path, list(rows())[:1])
    (tmp_path / "config.yaml").write_text("SOLVER: {MAX_ITER: 900}\n")
    text = open(make_report(str(tmp_path)), encoding="utf-8").read()
    assert "20 of 900 iterations" in text and "No evaluation" in text


def test_a_failing_report_keeps_the_old_one(tmp_path):
    write_metrics(tmp_path, rows())
    make_report(str(tmp_path))
    before = (tmp_path / "report.html").read_bytes()
    (tmp_path / "config.yaml").write_text("a: [1\n")
    with pytest.raises(UserError, match="config.yaml"):
        make_report(str(tmp_path))
    assert (tmp_path / "report.html").read_bytes() == before


def test_the_report_is_a_command(tmp_path, capsys):
    write_metrics(tmp_path, rows())
    assert cli.run("report", [str(tmp_path), "--title", "A <title>"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "report.html")
    assert "A &lt;title&gt;" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert cli.run("report", [str(tmp_path / "absent")]) == 2


def test_a_chart_is_wellformed_and_takes_its_colors_from_the_page():
    svg = line_chart({"a": ([1, 2], [0.5, 5.0]), "b<": ([1], [2.0])}, x_label="x", y_label="y", log=True)
    ElementTree.fromstring(svg)
    assert "var(--series-0)" in svg and "var(--ink-soft)" in svg and "#0102" not in svg
    assert svg == line_chart({"a": ([1, 2], [0.5, 5.0]), "b<": ([1], [2.0])}, x_label="x", y_label="y", log=True)


def test_bars_order_by_value_and_fold_when_there_are_many():
    text = bars({"mask": {"low": 10.0, "high": 90.0, "none": math.nan}}, unit="AP")
    assert text.index("high") < text.index("low") < text.index("none") and "–" in text
    assert "<details>" not in text
    assert "<details>" in bars({"mask": {str(i): float(i) for i in range(80)}}, unit="AP")


@pytest.mark.parametrize("seconds, text", [(9.6, "10 s"), (247, "4 min 07 s"), (11100, "3 h 05 min")])
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text


def test_a_gallery_draws_held_out_images_and_its_report_embeds_them(tmp_path):
    register_shapes("gallery_test", num_images=5, size=64, seed=3)
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TEST = 0
    folder = tmp_path / "pictures"
    gallery = make_gallery(Predictor(cfg, BlobModel()), "gallery_test", str(folder), count=3, threshold=0.1, side=128)
    assert Gallery.load(str(folder)).comparisons == [list(pair) for pair in gallery.comparisons]
    assert len(gallery.comparisons) == 3 and not gallery.blendings and gallery.inference_ms > 0
    picture = cv2.imread(str(folder / gallery.comparisons[0][0]))
    assert picture.shape[1] == 3 * 128 + 4 * 12 and np.unique(picture).size > 50
    write_metrics(tmp_path, rows())
    assert open(make_report(str(tmp_path)), encoding="utf-8").read().count("data:image/webp") == 4
    (folder / gallery.overview).unlink()
    assert open(make_report(str(tmp_path)), encoding="utf-8").read().count("data:image/webp") == 3
