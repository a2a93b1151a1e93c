"""Models as one graph: captured, compiled without a break, and equal to the model. Exported files: parity.py here."""

import pytest
import torch

from adet_ext import get_cfg
from adet_ext.d2 import ENGINE
from adet_ext.d2.modeling import build_backbone
from adet_ext.export.capture import capture, example, package_operators
from adet_ext.export.wrapper import TensorModel
from adet_ext.layers.extension import native_operators

from .tiny import FAMILIES, SIZE, build, images

_RESNET = [
    *("MODEL.DEVICE", "cpu", "MODEL.RESNETS.NORM", "BN", "MODEL.RESNETS.OUT_FEATURES", ["res3", "res4", "res5"]),
    *("MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"], "MODEL.FPN.OUT_CHANNELS", 16),
]
BACKBONES = {
    "deformable": [
        *("MODEL.BACKBONE.NAME", "build_fcos_resnet_fpn_backbone", "MODEL.RESNETS.DEFORM_MODULATED", True),
        *("MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, True, True, True], "MODEL.RESNETS.DEFORM_INTERVAL", 3),
        *("MODEL.RESNETS.STEM_OUT_CHANNELS", 16, "MODEL.RESNETS.RES2_OUT_CHANNELS", 16),
        *("MODEL.RESNETS.WIDTH_PER_GROUP", 8),
    ],
    "BlurConv": [
        *("MODEL.BACKBONE.NAME", "build_fcos_blur_resnet_fpn_backbone", "MODEL.RESNETS.DEPTH", 18),
        *("MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.RESNETS.BLUR.STEM", False),  # many operators a layer
    ],
}


@pytest.fixture(autouse=True)
def _forget_graphs():
    """All families have one ``forward``, of which the compiler keeps a few graphs and then refuses."""
    yield
    torch._dynamo.reset()


def assert_same(found: dict, expected: dict) -> None:
    """Compare what is valid. Padding has equal scores, and so no order of its own."""
    valid = expected["valid"]
    assert valid.any() and torch.equal(found["valid"], valid) and list(found) == list(expected)
    for name, value in expected.items():
        if name != "valid":
            mine, theirs = (x[valid] if x.shape[:2] == valid.shape else x for x in (found[name], value))
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_captured_program_equals_the_model(family):
    model = TensorModel(build(family)).eval()
    program = capture(model, example(2, SIZE))
    inputs = images((64, 90), (50, 96))
    with torch.no_grad():
        assert_same(program.module()(*inputs), model(*inputs))


@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_model_compiles_without_a_break(family):
    model = TensorModel(build(family)).eval()
    inputs = images((64, 90), (50, 96))
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        assert_same(compiled(*inputs), model(*inputs))


@pytest.mark.parametrize("name", list(BACKBONES))
def test_a_backbone_is_captured_and_compiles_without_a_break(name):
    cfg = get_cfg()
    cfg.merge_from_list([*_RESNET, *BACKBONES[name]])
    torch.manual_seed(0)
    model, image = build_backbone(cfg).eval(), torch.randn(2, 3, *SIZE)
    with torch.no_grad():
        expected = model(image)
        for same in (
            torch.export.export(model, (image,), strict=False).module(),
            torch.compile(model, fullgraph=True, backend="eager"),
        ):
            # Here norms are not folded into convolutions, which rounds otherwise.
            torch.testing.assert_close(same(image), expected, rtol=1e-4, atol=1e-4)


def test_a_portable_program_has_no_operator_of_ours_but_suppression():
    model = TensorModel(build("DR1Mask factored")).eval()
    assert package_operators(capture(model, example(1, SIZE), portable=True)) == ["nms_mask_reference"]
    if native_operators():
        assert "blend_factored" in package_operators(capture(model, example(1, SIZE)))


# Results are lists of segments and boxes, as many as there are, so that the host must know their numbers; and on a CPU
# instances are stacked mask by mask, in NumPy. The network before that has no break, see above.
BREAKS = {"panoptic DR1Mask": 19, "panoptic BlendMask": 15}


@pytest.mark.skipif(ENGINE != "embedded", reason="Detectron2 makes its results otherwise")
@pytest.mark.parametrize("family", list(BREAKS))
def test_a_whole_model_breaks_no_more_often_than_it_must(family):
    model = build(family)
    batch = [{"image": images((64, 96))[0][0], "height": 80, "width": 120}]
    prepared = model.preprocess_image(batch)

    def after_the_network(found):
        instances = found.detections.to_instances(prepared.image_sizes, found.locations, **found.fields)
        return model.postprocess(instances, found.extras, batch, prepared.image_sizes)

    with torch.no_grad():
        explained = torch._dynamo.explain(after_the_network)(model.predict_tensors(prepared.tensor))
    lines = [
        f"{x.user_stack[-1].name}: {x.user_stack[-1].line}: {x.reason.splitlines()[0]}" for x in explained.break_reasons
    ]
    assert explained.graph_break_count <= BREAKS[family], lines
