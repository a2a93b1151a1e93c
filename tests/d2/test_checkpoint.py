"""Checkpoints: what is written, what loads, what is refused, and how names are matched."""

import logging
import os
import pickle
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from adet_ext.d2.checkpoint import DetectionCheckpointer, PeriodicCheckpointer
from adet_ext.d2.checkpoint_files import read_checkpoint
from adet_ext.d2.config import get_cfg
from adet_ext.d2.embedded import checkpoint as embedded_checkpoint
from adet_ext.d2.embedded.checkpoint_names import match_names
from adet_ext.d2.modeling import build_backbone
from adet_ext.errors import UserError

EmbeddedCheckpointer = embedded_checkpoint.DetectionCheckpointer


class Model(nn.Module):
    def __init__(self, width: int = 3):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 1), nn.BatchNorm2d(width))
        self.register_buffer("pixel_mean", torch.zeros(3))


def same(first: nn.Module, second: nn.Module) -> bool:
    theirs = second.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in first.state_dict().items())


class Touch:
    """Unpickling this makes the file ``path``."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_checkpoint_brings_everything_back(tmp_path):
    model = Model()
    optimiser = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model.body(torch.ones(2, 3, 2, 2)).sum().backward()
    optimiser.step()
    saver = DetectionCheckpointer(model, str(tmp_path), optimizer=optimiser)
    assert not saver.has_checkpoint()
    saver.save("first", iteration=7, best=np.float64(0.5), note="text")
    assert sorted(os.listdir(tmp_path)) == ["first.pth", "last_checkpoint"]
    assert (tmp_path / "last_checkpoint").read_text() == "first.pth"

    other = Model()
    other_optimiser = torch.optim.SGD(other.parameters(), 0.1, momentum=0.9)
    loader = EmbeddedCheckpointer(other, str(tmp_path), optimizer=other_optimiser)
    rest = loader.resume_or_load("", resume=True)
    assert same(model, other)
    assert (rest["iteration"], rest["best"], rest["note"]) == (7, 0.5, "text")
    momentum = [state["momentum_buffer"] for state in other_optimiser.state.values()]
    assert len(momentum) == 4 and any(buffer.abs().sum() > 0 for buffer in momentum)


def test_without_resume_only_the_model_is_loaded(tmp_path):
    model = Model()
    DetectionCheckpointer(model, str(tmp_path)).save("a", iteration=3)
    other = Model()
    optimiser = torch.optim.SGD(other.parameters(), 1)
    loader = DetectionCheckpointer(other, str(tmp_path / "elsewhere"), optimizer=optimiser)
    assert loader.resume_or_load(str(tmp_path / "a.pth"), resume=False)["iteration"] == 3
    assert same(model, other)
    assert loader.load("") == {}


def test_nothing_is_written_when_told_so(tmp_path):
    DetectionCheckpointer(Model(), str(tmp_path), save_to_disk=False).save("a")
    assert os.listdir(tmp_path) == []


def test_periodic_checkpoints_are_kept_up_to_a_number(tmp_path):
    periodic = PeriodicCheckpointer(DetectionCheckpointer(Model(), str(tmp_path)), 2, max_iter=7, max_to_keep=2)
    for iteration in range(7):
        periodic.step(iteration)
    names = ["last_checkpoint", "model_0000003.pth", "model_0000005.pth", "model_final.pth"]
    assert sorted(os.listdir(tmp_path)) == names


def test_a_failed_write_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    model = Model()
    saver = EmbeddedCheckpointer(model, str(tmp_path))
    saver.save("model", iteration=1)

    def full(data, file):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match="model.pth: cannot be written: the disk at .* is full"):
        saver.save("model", iteration=2)
    monkeypatch.undo()
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model.pth"]
    assert EmbeddedCheckpointer(Model(), str(tmp_path)).resume_or_load("")["iteration"] == 1


def test_a_killed_write_leaves_the_last_checkpoint(tmp_path):
    code = f"""
import os, signal, sys, torch, types
package = types.ModuleType("adet_ext")  # the checkpointer needs nothing of the rest
package.__path__ = [{str(Path(__file__).resolve().parents[2] / "adet_ext")!r}]
sys.modules["adet_ext"] = package
from adet_ext.d2.embedded.checkpoint import DetectionCheckpointer
saver = DetectionCheckpointer(torch.nn.Linear(2, 2), {str(tmp_path)!r})
saver.save("model", iteration=1)
def kill(data, file):
    file.write(b"half of it")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
torch.save = kill
saver.save("model", iteration=2)
"""
    environment = {**os.environ, "ADET_EXT_ENGINE": "embedded"}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == -9, result.stderr
    loader = EmbeddedCheckpointer(nn.Linear(2, 2), str(tmp_path))
    assert loader.get_all_checkpoint_files() == [str(tmp_path / "model.pth")]
    assert loader.resume_or_load("")["iteration"] == 1


def test_mismatches_are_listed(tmp_path, caplog):
    state = Model(width=4).state_dict()
    del state["body.0.bias"], state["pixel_mean"]
    state["head.weight"] = torch.zeros(1)
    state["anchor_generator.cell_anchors.0"] = torch.zeros(1)
    torch.save({"model": state}, tmp_path / "a.pth")
    with caplog.at_level(logging.WARNING):
        EmbeddedCheckpointer(Model()).load(str(tmp_path / "a.pth"))
    text = re.sub(r"\x1b\[\d+m", "", caplog.text)
    assert "'body.0.weight' to the model due to incompatible shapes: (4, 3, 1, 1)" in text
    assert "body.0.{bias, weight}" in text and "head.weight" in text
    assert "cell_anchors" not in text and "pixel_mean" not in text


@pytest.mark.parametrize("name", ["a.pth", "a.pkl", "legacy.pth"])
def test_code_in_a_checkpoint_is_refused(tmp_path, name):
    path, marker = tmp_path / name, tmp_path / "ran"
    content = {"model": {"weight": Touch(marker)}, "__author__": "someone"}
    if name == "a.pkl":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=name == "a.pth")
    with pytest.raises(ValueError, match=f"{name} is refused: it asks for posix.system"):
        EmbeddedCheckpointer(Model()).load(str(path))
    assert not marker.exists()


def test_whole_modules_are_refused(tmp_path):
    torch.save(Model(), tmp_path / "model.pth")
    with pytest.raises(ValueError, match="refused"):
        read_checkpoint(str(tmp_path / "model.pth"))


@pytest.mark.parametrize("name", ["a.pth", "a.pkl", "a.safetensors"])
def test_files_that_are_no_checkpoints_are_named(tmp_path, name):
    path = tmp_path / name
    torch.save({"model": Model().state_dict()}, path)
    cut = path.read_bytes()[:700]
    for content in (cut, b"", b"hello, world"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} cannot be read"):
            read_checkpoint(str(path))


@pytest.mark.parametrize(
    "content, words",
    [
        ([1], "it must be a dictionary; got list"),
        ({"model": [1]}, "'model' must be a dictionary; got list"),
        ({"model": {1: torch.zeros(1)}}, "a tensor's name must be a text; got 1"),
        ({"model": {"a": 1.0}}, "'a' must be a dense tensor of numbers; got float"),
        ({"state_dict": {"a": torch.zeros(1)}}, "'state_dict' must be .* got dict. The file's tensors may be below"),
        ({"model": {"a": torch.eye(2).to_sparse()}}, "'a' must be a dense tensor of numbers; got a tensor without"),
        ({"model": {"a": torch.zeros(1, dtype=torch.complex64)}}, "got a complex tensor"),
    ],
)
def test_what_is_not_a_model_is_said_with_its_place(tmp_path, content, words):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=f"a.pth is not a checkpoint: .*{words}"):
        EmbeddedCheckpointer(Model()).load(str(tmp_path / "a.pth"))


def test_arrays_that_are_not_of_numbers_are_refused(tmp_path):
    for value in (np.array(["text"]), np.array([None]), np.zeros(1, [("x", "f4")])):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps({"model": {"a": value}, "__author__": "x"}))
        with pytest.raises(ValueError, match="a.pkl (cannot be read as|is not) a checkpoint"):
            read_checkpoint(str(tmp_path / "a.pkl"))


@pytest.mark.parametrize(
    "array", [np.arange(6.0).reshape(2, 3), np.float16([[1], [2]]), np.int64(7)[None], np.zeros((0, 3))]
)
def test_arrays_come_back_from_every_protocol(tmp_path, array):
    for protocol in range(5):
        for value in (array, np.asfortranarray(array), array.astype(array.dtype.newbyteorder(">"))):
            content = {"model": {"a": value}, "__author__": "x", "best": array.dtype.type(3)}
            (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
            found = read_checkpoint(str(tmp_path / "a.pkl"))
            assert np.array_equal(found["model"]["a"], array) and found["best"] == 3
            assert found["model"]["a"].dtype.isnative or value.dtype.byteorder == ">"


def test_memory_that_no_file_of_this_size_needs_is_refused(tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02}r\xff\xff\xff\xff.")  # a memory place of 4 billion
    with pytest.raises(ValueError, match="a.pkl cannot be read .* memory place 4294967295 in a file of 9 bytes"):
        read_checkpoint(str(tmp_path / "a.pkl"))
    with zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(10**6))
    with pytest.raises(ValueError, match="a.pth cannot be read .* declares more data than it holds"):
        read_checkpoint(str(tmp_path / "a.pth"))


def test_a_refused_file_does_not_spoil_the_next(tmp_path):
    bad = torch.sparse_coo_tensor([[9]], [1.0], (3,), check_invariants=False)
    torch.save({"model": {"a": bad}}, tmp_path / "bad.pth")
    torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "good.pth")
    with pytest.raises(ValueError, match="bad.pth"):
        read_checkpoint(str(tmp_path / "bad.pth"))
    read_checkpoint(str(tmp_path / "good.pth"))


def test_a_checkpoint_that_is_not_there_is_named(tmp_path):
    loader = EmbeddedCheckpointer(Model())
    with pytest.raises(FileNotFoundError, match="nowhere.pth"):
        loader.load(str(tmp_path / "nowhere.pth"))
    for url in ("https://localhost:1/a.pth", "catalog://nothing"):
        with pytest.raises(OSError, match=f"{url} could not be fetched .*MODEL.WEIGHTS"):
            loader.load(url)


def test_published_addresses_lead_to_the_public_hosts(monkeypatch, tmp_path):
    asked = []

    def get_local_path(path, **kwargs):
        asked.append(path)
        return str(tmp_path / "a.pth")

    torch.save({"model": Model().state_dict()}, tmp_path / "a.pth")
    manager = embedded_checkpoint.PathManager
    http = manager._PathManager__get_path_handler("https://host/a")
    monkeypatch.setattr(type(http), "_get_local_path", lambda self, path, **kwargs: get_local_path(path))
    loader = EmbeddedCheckpointer(Model())
    loader.load("detectron2://ImageNetPretrained/MSRA/R-50.pkl?matching_heuristics=True")
    loader.load("catalog://ImageNetPretrained/MSRA/R-101")
    assert asked == [
        "https://dl.fbaipublicfiles.com/detectron2/ImageNetPretrained/MSRA/R-50.pkl",
        "https://dl.fbaipublicfiles.com/detectron/ImageNetPretrained/MSRA/R-101.pkl",
    ]


def test_safetensors_load(tmp_path):
    save_file = pytest.importorskip("safetensors.torch").save_file
    model, other = Model(), Model()
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    EmbeddedCheckpointer(other).load(str(tmp_path / "a.safetensors"))
    assert same(model, other)


def test_arrays_of_the_model_zoo_load_by_their_ends(tmp_path):
    model, other = Model(), Model()
    arrays = {name.removeprefix("body."): tensor.numpy() for name, tensor in model.state_dict().items()}
    for protocol in (2, 4):
        content = {"model": arrays, "__author__": "someone", "matching_heuristics": True}
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
        other = Model()
        EmbeddedCheckpointer(other).load(str(tmp_path / "a.pkl"))
        assert same(model, other)
    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, tmp_path / "a.pth")
    other = Model()
    EmbeddedCheckpointer(other).load(str(tmp_path / "a.pth") + "?matching_heuristics=True")
    assert same(model, other)
    with pytest.raises(ValueError, match="no option other"):
        EmbeddedCheckpointer(other).load(str(tmp_path / "a.pth") + "?other=True")


def test_the_longest_end_wins_and_doubts_are_errors():
    model = {"net.res2.conv.weight": torch.zeros(1), "net.conv.weight": torch.zeros(1)}
    found = match_names(model, dict.fromkeys(["conv.weight", "res2.conv.weight", "fc"], torch.ones(1)))
    assert set(found) == {*model, "fc"}
    with pytest.raises(ValueError, match="conv.weight of the checkpoint could be both"):
        match_names(model, {"conv.weight": torch.ones(1)})
    # "onv.weight" is no whole word, and a tensor of another shape is no second owner.
    assert set(match_names(model, {"onv.weight": torch.ones(1)})) == {"onv.weight"}
    model["net.conv.weight"] = torch.zeros(2)
    assert set(match_names(model, {"conv.weight": torch.ones(1)})) == {"net.res2.conv.weight"}


def resnet_fpn(norm: str) -> nn.Module:
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.RESNETS.NORM = norm
    cfg.merge_from_list(["MODEL.RESNETS.STEM_OUT_CHANNELS", 32, "MODEL.RESNETS.RES2_OUT_CHANNELS", 32])
    cfg.merge_from_list(["MODEL.RESNETS.WIDTH_PER_GROUP", 32, "MODEL.FPN.OUT_CHANNELS", 32])
    return build_backbone(cfg)


def caffe2_name(name: str, norm: str) -> str:
    name = re.sub(r"fpn_lateral(\d)\.", r"fpn.inner.res\1.2.sum.lateral.", name)
    name = re.sub(r"fpn_output(\d)\.", r"fpn.res\1.2.sum.", name)
    name = name.replace("bottom_up.", "").replace("stem.conv1.norm", "res_conv1.norm").replace("stem.", "")
    name = name.replace("shortcut", "branch1")
    if name.startswith("res") and "res_conv1" not in name:
        name = re.sub(r"conv(\d)", lambda match: f"branch2{'abc'[int(match[1]) - 1]}", name)
    for own, theirs in {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}.items():
        name = name.replace(f"norm.{own}", f"{norm}.{theirs}")
    return re.sub(r"weight$", "w", re.sub(r"bias$", "b", name)).replace(".", "_")


@pytest.mark.parametrize("norm", ["FrozenBN", "GN"])
def test_names_of_caffe2_are_matched(norm, tmp_path):
    torch.manual_seed(0)
    model, other = resnet_fpn(norm), resnet_fpn(norm)
    short = "bn" if norm == "FrozenBN" else "gn"
    blobs = {caffe2_name(name, short): tensor.numpy() for name, tensor in model.state_dict().items()}
    assert "res2_0_branch2a_w" in blobs and "conv1_w" in blobs and f"res_conv1_{short}_s" in blobs
    blobs.update(conv1_w_momentum=blobs["conv1_w"], fc1000_w=np.zeros(3, np.float32))
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"blobs": blobs}, protocol=2))
    EmbeddedCheckpointer(other).load(str(tmp_path / "a.pkl"))
    assert same(model, other)


def test_names_of_torchvision_are_matched():
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64])
    cfg.merge_from_list(["MODEL.RESNETS.OUT_FEATURES", ["res5"], "MODEL.RESNETS.STRIDE_IN_1X1", False])
    backbone, source = build_backbone(cfg).eval(), resnet18().eval()
    found = match_names(backbone.state_dict(), source.state_dict())
    result = backbone.load_state_dict(found, strict=False)
    assert not result.missing_keys and set(result.unexpected_keys) == {"fc.weight", "fc.bias"}
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = nn.Sequential(*list(source.children())[:-2])(x)
        assert torch.allclose(backbone(x)["res5"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.needs_detectron2
@pytest.mark.parametrize("norm", ["FrozenBN", "GN"])
def test_matching_is_that_of_detectron2(norm):
    theirs = pytest.importorskip("detectron2.checkpoint.c2_model_loading").align_and_update_state_dicts
    state = resnet_fpn(norm).state_dict()
    short = "bn" if norm == "FrozenBN" else "gn"
    for caffe2 in (True, False):
        checkpoint = {
            caffe2_name(name, short) if caffe2 else name.removeprefix("bottom_up."): tensor.clone()
            for name, tensor in state.items()
        }
        checkpoint["fc1000_w"] = torch.zeros(3)
        ours = match_names(dict(state), dict(checkpoint), caffe2=caffe2)
        expected = theirs(dict(state), dict(checkpoint), c2_conversion=caffe2)
        assert set(ours) == set(expected)
        assert all(ours[name] is expected[name] for name in ours)


@pytest.mark.needs_detectron2
def test_either_engine_loads_what_the_other_saved(tmp_path):
    theirs = pytest.importorskip("detectron2.checkpoint").DetectionCheckpointer
    for saver, loader in ((theirs, EmbeddedCheckpointer), (EmbeddedCheckpointer, theirs)):
        model, other = Model(), Model()
        saver(model, str(tmp_path)).save("model_final", iteration=5)
        assert loader(other, str(tmp_path)).resume_or_load("")["iteration"] == 5
        assert same(model, other)
