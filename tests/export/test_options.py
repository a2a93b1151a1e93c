"""Options of exported files, in onnxruntime, and files of PyTorch in a process that does not have this package."""

import subprocess
import sys

import pytest
import torch

from adet_ext.export.files import Options, export_model, open_runner
from adet_ext.export.wrapper import TensorModel
from adet_ext.layers.extension import native_operators, status

from .test_capture import assert_same
from .tiny import SIZE, build, config, images


@pytest.fixture(scope="module")
def model():
    return build("BlendMask")


def onnx_file(model, tmp_path, options):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="ONNX files need pip install 'adet-ext[export]'")
    path = str(tmp_path / "model.onnx")
    export_model(config("BlendMask"), model, path, options)
    return open_runner(path)


def test_a_dynamic_onnx_file_takes_batches_and_images_of_other_sizes(model, tmp_path):
    run = onnx_file(model, tmp_path, Options("onnx", SIZE, dynamic=True))
    for size, sizes in (((64, 96), [(64, 90)]), ((96, 128), [(90, 128), (50, 100), (96, 60)])):
        inputs = images(*sizes, frame=size)
        with torch.no_grad():
            assert_same(run(*inputs), TensorModel(model)(*inputs))


def test_an_onnx_file_with_a_source_resizes_its_images_and_pastes_at_their_size(model, tmp_path):
    source = (100, 120)  # fitted into 64 x 96: 64 x 77
    run = onnx_file(model, tmp_path, Options("onnx", SIZE, source=source, paste=True))
    given = images((100, 120), frame=source)[0]
    expected_model = TensorModel(model, resize_to=(64, 77), frame=SIZE, paste=True)
    with torch.no_grad():
        found, expected = run(given), expected_model(given)
    valid = expected["valid"]
    assert valid.any() and torch.equal(found["valid"], valid)
    for name in ("boxes", "scores", "classes"):
        torch.testing.assert_close(found[name][valid], expected[name][valid], rtol=1e-5, atol=1e-3)
    assert found["masks"].shape[2:] == source and found["masks"].dtype == torch.bool
    assert expected["masks"][valid].any()
    assert (found["masks"] != expected["masks"])[valid].float().mean() < 1e-3


OUTSIDE = """
import sys
class Refusal:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "adet_ext":
            raise ImportError("adet_ext must not be imported")
sys.meta_path.insert(0, Refusal())
kind, library, path, given, found = sys.argv[1:]
import torch
torch.ops.load_library(library)
if kind == "aoti":
    from torch._inductor import aoti_load_package
    run = aoti_load_package(path)
else:
    run = torch.export.load(path).module(check_guards=False)
with torch.inference_mode():
    torch.save(run(*torch.load(given)), found)
"""


@pytest.mark.skipif(not native_operators(), reason="the operators are not compiled here")
def test_a_pt2_file_runs_with_the_library_and_without_the_package(model, tmp_path):
    path, given, found = (str(tmp_path / name) for name in ("model.pt2", "given.pt", "found.pt"))
    export_model(config("BlendMask"), model, path, Options("pt2", SIZE))
    inputs = images((64, 90))
    torch.save(inputs, given)
    command = [sys.executable, "-c", OUTSIDE, "pt2", status().path, path, given, found]
    subprocess.run(command, check=True, cwd=tmp_path, timeout=300)
    with torch.no_grad():
        assert_same(torch.load(found), TensorModel(model)(*inputs))
