"""ONNX files: standard operators, and the numbers of the model in onnxruntime. The other families: parity.py here."""

import os
import shutil
import sys

import pytest
import torch

onnx = pytest.importorskip("onnx", reason="ONNX files need pip install 'adet-ext[export]'")
pytest.importorskip("onnxscript", reason="ONNX files need pip install 'adet-ext[export]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX files need pip install 'adet-ext[export]'")

from adet_ext.errors import UserError  # noqa: E402
from adet_ext.export.files import Options, export_model, open_runner  # noqa: E402
from adet_ext.export.half import halve_weights  # noqa: E402
from adet_ext.export.int8 import quantize  # noqa: E402
from adet_ext.export.openvino_file import OPENVINO, OPENVINO_BF16  # noqa: E402
from adet_ext.export.wrapper import TensorModel  # noqa: E402

from .test_capture import assert_same  # noqa: E402
from .tiny import SIZE, build, config, images  # noqa: E402

# Between them, all operators of ours and all that are special in ONNX.
CASES = {
    # The last onnxruntime for Python 3.10 has no deformable convolution.
    "panoptic BlendMask": ["MODEL.FCOS.USE_DEFORMABLE", sys.version_info >= (3, 11)],
    "panoptic DR1Mask": ["MODEL.DR1MASK.ATTENTION", "factored"],
    "SmalMask2": [],
}


@pytest.fixture(scope="module", params=list(CASES))
def made(request, tmp_path_factory):
    """A model and its file, for two images."""
    family, overrides = request.param, CASES[request.param]
    model = build(family, *overrides)
    path = str(tmp_path_factory.mktemp("onnx") / "model.onnx")
    export_model(config(family, *overrides), model, path, Options("onnx", SIZE, batch=2))
    return TensorModel(model), path


def results(model, path):
    inputs = images((64, 90), (50, 96))
    with torch.no_grad():
        return open_runner(path)(*inputs), model(*inputs)


def test_a_file_has_standard_operators_and_the_numbers_of_the_model(made):
    model, path = made
    graph = onnx.load(path)
    assert {node.domain for node in graph.graph.node} <= {"", "ai.onnx"} and not graph.functions
    assert not any(node.metadata_props for node in graph.graph.node)
    onnx.checker.check_model(graph, full_check=True)
    assert_same(*results(model, path))


@pytest.mark.parametrize("made", ["SmalMask2"], indirect=True)  # it has no deformable convolution
def test_openvino_reads_a_file(made):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    model, path = made
    assert_same(*results(model, f"{OPENVINO}{path}"))


@pytest.mark.parametrize("made", ["SmalMask2"], indirect=True)
def test_openvino_computes_in_bfloat16_where_the_cpu_does(made, monkeypatch):
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
    model, path = made
    monkeypatch.setattr(openvino.Core, "get_property", lambda *_: ["FP32"])
    with pytest.raises(UserError, match="this CPU has no bfloat16; write openvino: in place of openvino-bf16:"):
        open_runner(f"{OPENVINO_BF16}{path}")
    monkeypatch.undo()
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no bfloat16")
    found, expected = results(model, f"{OPENVINO_BF16}{path}")
    assert 0 < (found["scores"] - expected["scores"]).abs().mean() < 0.01


@pytest.mark.parametrize("made", ["SmalMask2"], indirect=True)
def test_weights_in_half_precision_take_half_the_space(made, tmp_path):
    model, path = made
    half = str(shutil.copy(path, tmp_path / "half.onnx"))
    halve_weights(half)
    assert os.path.getsize(half) < 0.7 * os.path.getsize(path)
    found, expected = results(model, half)
    # Scores that differ by less than the rounding may change places.
    torch.testing.assert_close(found["scores"], expected["scores"], rtol=0, atol=5e-3)
    assert open_runner(half).card == open_runner(path).card


@pytest.mark.parametrize("made", ["SmalMask2"], indirect=True)
def test_convolutions_compute_in_eight_bits(made, tmp_path):
    model, path = made
    small = str(shutil.copy(path, tmp_path / "small.onnx"))
    quantize(small, [images((64, 96), (64, 96), seed=seed) for seed in range(2)])
    kinds = [node.op_type for node in onnx.load(small).graph.node]
    assert kinds.count("QuantizeLinear") >= 5
    found, expected = results(model, small)
    assert (found["scores"] - expected["scores"]).abs().mean() < 0.05
    assert open_runner(small).card == open_runner(path).card


def test_what_a_relu6_cuts_off_does_not_widen_the_range(tmp_path):
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.wide = torch.nn.Conv2d(3, 8, 1)
            torch.nn.init.constant_(self.wide.bias, -100.0)  # so that inputs of the ReLU6 are -200 to 4
            torch.nn.init.uniform_(self.wide.weight, 0, 0.8)
            self.narrow = torch.nn.Conv2d(8, 4, 1)

        def forward(self, images, sizes):
            shift = sizes.sum() * 0.0  # onnxruntime wants both inputs to be used
            inside = torch.nn.functional.relu6(self.wide(images.float() - 128))
            return self.narrow(inside) + shift

    torch.manual_seed(0)
    network, path = Network().eval(), str(tmp_path / "network.onnx")
    inputs = [(torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8), torch.tensor([[16, 16]])) for _ in range(3)]
    torch.onnx.export(network, inputs[0], path, dynamo=True, input_names=["images", "sizes"], verbose=False)
    quantize(path, inputs)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feed = {name: x.numpy() for name, x in zip(("images", "sizes"), inputs[0])}
    found, expected = torch.from_numpy(session.run(None, feed)[0]), network(*inputs[0]).detach()
    assert (found - expected).abs().max() < 0.02 * (expected.max() - expected.min())
