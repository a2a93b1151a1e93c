"""Trained models of the project: packed, evaluated and shown by the package's commands."""

import cv2
import numpy as np
import torch

from adet_ext import model_zoo
from adet_ext.cli import zoo
from adet_ext.d2.modeling import build_model
from adet_ext.data.camvid import CLASSES
from adet_ext.engine.zoo_pack import pack

ABOUT = {
    "task": "semantic segmentation of video",
    "data": "noise",
    "package": "video_cells",
    "config": "projects/VideoCellSearch/configs/small/CamVid_lite0_cell.yaml",
    "demo": "--video-input FRAMES",
    "purpose": "A test.",
    "limits": "Everything else.",
    "license": "Apache-2.0",
    "trained": {"seed": 0},
    "evaluated_on": {"name": "noise_val", "folder": "noise", "split": "val", "made_by": "x", "classes": list(CLASSES)},
}


def test_a_packed_model_is_evaluated_on_camvids_layout(tiny_config, tmp_path, monkeypatch, capsys):
    root, generator = tmp_path / "data" / "noise", np.random.default_rng(0)
    for kind, channels in (("val", (3,)), ("valannot", ())):
        (root / kind).mkdir(parents=True)
        for i in range(3):
            pixels = generator.integers(0, len(CLASSES), (32, 48, *channels), dtype=np.uint8)
            cv2.imwrite(str(root / kind / f"0001TP_{i:06d}.png"), pixels)
    lines = [f"val/0001TP_{i:06d}.png valannot/0001TP_{i:06d}.png\n" for i in range(3)]
    (root / "val.txt").write_text("".join(lines))
    cfg = tiny_config("MODEL.VIDEO.CELL", "camvid_cell", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", str(len(CLASSES)))
    cfg.TEST.TEMPORAL_CONSISTENCY, cfg.DATALOADER.NUM_WORKERS = False, 0
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    torch.save({"model": model.state_dict()}, tmp_path / "model.pth")
    pack(str(tmp_path / "zoo"), "noise/cell", cfg, str(tmp_path / "model.pth"), ABOUT, {"mIoU": 99.0})
    monkeypatch.setenv("ADET_EXT_ZOO", str(tmp_path / "zoo"))
    assert zoo.main(["eval", "--data", str(tmp_path / "data"), "--output-dir", str(tmp_path / "out")]) == 1
    text = capsys.readouterr().out
    assert "99.0" in text and "differs by -" in text and "tIoU" in text
    assert model_zoo.get("noise/cell", trained=True).cell is not None
