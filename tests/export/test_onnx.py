"""ONNX files: standard operators, and the numbers of the model in onnxruntime. The other families: parity.py here."""

import pytest
import torch

onnx = pytest.importorskip("onnx", reason="ONNX files need pip install 'adet-ext[export]'")
pytest.importorskip("onnxscript", reason="ONNX files need pip install 'adet-ext[export]'")
pytest.importorskip("onnxruntime", reason="ONNX files need pip install 'adet-ext[export]'")

from adet_ext.export.files import Options, export_model, open_runner  # noqa: E402
from adet_ext.export.wrapper import TensorModel  # noqa: E402

from .test_capture import assert_same  # noqa: E402
from .tiny import SIZE, build, config, images  # noqa: E402

# Between them, all operators of ours and all that are special in ONNX.
CASES = {
    "panoptic BlendMask": ["MODEL.FCOS.USE_DEFORMABLE", True],
    "panoptic DR1Mask": ["MODEL.DR1MASK.ATTENTION", "factored"],
    "SmalMask2": [],
}


@pytest.mark.parametrize("family", list(CASES))
def test_a_file_has_standard_operators_and_the_numbers_of_the_model(family, tmp_path):
    model = build(family, *CASES[family])
    path = str(tmp_path / "model.onnx")
    export_model(config(family, *CASES[family]), model, path, Options("onnx", SIZE, batch=2))
    graph = onnx.load(path)
    assert {node.domain for node in graph.graph.node} <= {"", "ai.onnx"} and not graph.functions
    assert not any(prop for value in graph.graph.node for prop in value.metadata_props)
    onnx.checker.check_model(graph, full_check=True)
    inputs = images((64, 90), (50, 96))
    with torch.no_grad():
        assert_same(open_runner(path)(*inputs), TensorModel(model)(*inputs))
