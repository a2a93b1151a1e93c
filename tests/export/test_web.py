"""The page for browsers: its masks are those of the exported model on the CPU."""

import json
import os
import re

import cv2
import numpy as np
import pytest
import torch

from adet_ext.cli import export
from adet_ext.errors import UserError
from adet_ext.export.files import Options, open_exported
from adet_ext.export.web import check_web, export_web

from .browser import MISSING, browsing, served
from .tiny import SIZE, build, config

LIBRARY = os.environ.get("ADET_EXT_ONNXRUNTIME_WEB")
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    """A folder with the names of onnxruntime-web's files."""
    folder = tmp_path_factory.mktemp("npm") / "package" / "dist"
    folder.mkdir(parents=True)
    for name in RUNTIME:
        (folder / name).write_text(name)
    return str(folder.parent)


@pytest.fixture(scope="module")
def page(stand_in, tmp_path_factory):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="pages need pip install 'adet-ext[export]'")
    folder = tmp_path_factory.mktemp("web") / "page"
    overrides = ["INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 96]
    cfg, model = config("BlendMask", *overrides), build("BlendMask", *overrides)
    export_web(cfg, model, str(folder), Options("web", SIZE), LIBRARY or stand_in, ["cat", "dog", "cow"])
    return folder


def test_a_page_has_all_that_it_loads(page):
    names = {str(path.relative_to(page)) for path in page.rglob("*") if path.is_file()}
    runtime = {os.path.join("onnxruntime", name) for name in RUNTIME}
    assert names >= {"index.html", "model.json", "model.onnx", "page.js", "segment.js", *runtime}
    values = json.loads((page / "model.json").read_text())
    assert (values["frame"], values["min_size"], values["classes"]) == (list(SIZE), 64, ["cat", "dog", "cow"])


def test_a_page_needs_the_files_of_onnxruntime_web(stand_in, tmp_path):
    options, folder = Options("web", SIZE), str(tmp_path / "page")
    assert [path.name for path in check_web(options, folder, stand_in)] == list(RUNTIME)
    with pytest.raises(UserError, match="npm pack onnxruntime-web"):
        check_web(options, folder, None)
    with pytest.raises(UserError, match="it has no ort.wasm.min.mjs"):
        check_web(options, folder, str(tmp_path))
    with pytest.raises(UserError, match="--onnxruntime-web must come with --format web"):
        export.main(["--config-file", "a.yaml", "--output", "a.onnx", "--onnxruntime-web", stand_in])
    assert not os.path.exists(folder)


def test_options_that_are_not_for_pages_are_refused(stand_in, tmp_path):
    for options, name in ((Options("web", SIZE, paste=True), "--paste"), (Options("web", SIZE, batch=2), "--batch")):
        with pytest.raises(UserError, match=name):
            check_web(options, str(tmp_path / "page"), stand_in)
    with pytest.raises(UserError, match="has files already"):
        check_web(Options("web", SIZE), stand_in, stand_in)


# Scores from 0, and every mask as one row of bytes.
PREDICT = """
const [address] = arguments;
await adet.ready;
document.getElementById("threshold").value = 0;
const blob = await (await fetch(address)).blob();
const { objects, ms } = await adet.showFile(blob);
for (const { mask } of objects) mask.data = Array.from(mask.data);
return { objects, ms, status: document.getElementById("status").textContent };
"""


@pytest.mark.skipif(bool(MISSING), reason=f"{' and '.join(MISSING)} is not installed")
@pytest.mark.skipif(LIBRARY is None, reason="ADET_EXT_ONNXRUNTIME_WEB names no unpacked npm package onnxruntime-web")
def test_the_page_finds_what_the_model_finds(page, tmp_path):
    exported = open_exported(str(page / "model.onnx"))
    generator = np.random.default_rng(0)
    pictures = [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((80, 120), (64, 90))]
    for i, picture in enumerate(pictures):
        cv2.imwrite(str(page / f"{i}.png"), picture)
    with served(page) as address, browsing(tmp_path / "profile") as browser:
        browser.open(address)
        answers = [browser.run(PREDICT, f"{i}.png") for i in range(len(pictures))]
    for found, picture in zip(answers, pictures):
        image = torch.from_numpy(picture.transpose(2, 0, 1).copy())
        assert_same_objects(found, exported([{"image": image}])[0]["instances"])


def assert_same_objects(found, expected):
    assert len(found["objects"]) == len(expected) > 0
    kind = "object" if len(expected) == 1 else "objects"
    assert re.fullmatch(rf"{len(expected)} {kind}, \d+ ms", found["status"])
    boxes = torch.tensor([x["box"] for x in found["objects"]])
    torch.testing.assert_close(boxes, expected.pred_boxes.tensor, rtol=0, atol=0.1)
    scores = torch.tensor([x["score"] for x in found["objects"]])
    torch.testing.assert_close(scores, expected.scores, rtol=0, atol=1e-3)
    assert [x["class"] for x in found["objects"]] == expected.pred_classes.tolist()
    masks = np.zeros(expected.pred_masks.shape, bool)
    for whole, x in zip(masks, (x["mask"] for x in found["objects"])):
        part = np.array(x["data"], bool).reshape(x["height"], x["width"])
        whole[x["top"] : x["top"] + x["height"], x["left"] : x["left"] + x["width"]] = part
    assert masks.any() and (masks != expected.pred_masks.numpy()).mean() < 0.005
