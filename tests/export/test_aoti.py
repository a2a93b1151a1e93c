"""Packages of AOTInductor: compiled, told apart from other .pt2 files, and run without this package's Python."""

import os
import subprocess
import sys

import pytest
import torch

from adet_ext.errors import UserError
from adet_ext.export.files import Options, export_model, open_exported, open_runner
from adet_ext.export.wrapper import TensorModel
from adet_ext.layers.extension import native_operators, status

from .test_capture import assert_same
from .test_options import OUTSIDE
from .tiny import SIZE, build, config, images


@pytest.mark.skipif("ADET_EXT_SLOW" not in os.environ, reason="compiling takes a minute; ADET_EXT_SLOW=1 runs it")
@pytest.mark.skipif(not native_operators(), reason="the operators are not compiled here")
def test_a_package_has_the_numbers_of_the_model_here_and_without_this_package(tmp_path):
    path, given, found = (str(tmp_path / name) for name in ("model.pt2", "given.pt", "found.pt"))
    model, inputs = build("BlendMask"), images((64, 90))
    export_model(config("BlendMask"), model, path, Options("aoti", SIZE))
    with torch.no_grad():
        expected = TensorModel(model)(*inputs)
    run = open_runner(f"aoti:{path}")
    assert run.card.operators == ["blend_masks", "nms_mask"]
    assert_same(run(*inputs), expected)
    with pytest.raises(UserError, match="is machine code, which runs as soon as it is opened; say aoti:"):
        open_exported(path)
    torch.save(inputs, given)
    command = [sys.executable, "-c", OUTSIDE, "aoti", status().path, path, given, found]
    subprocess.run(command, check=True, cwd=tmp_path, timeout=300)
    assert_same(torch.load(found), expected)


def test_other_files_are_not_opened_as_machine_code(tmp_path):
    path = tmp_path / "model.pt2"
    path.write_bytes(b"PK")
    with pytest.raises(UserError, match="must be a package of AOTInductor"):
        open_runner(f"aoti:{path}")
