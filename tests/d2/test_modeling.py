"""Registries, ResNets, pyramids and post-processing."""

import pytest
import torch
from torch import nn

from adet_ext.d2 import ENGINE
from adet_ext.d2.config import get_cfg
from adet_ext.d2.embedded import modeling as embedded_modeling
from adet_ext.d2.layers import CNNBlockBase, FrozenBatchNorm2d
from adet_ext.d2.modeling import (
    FPN,
    META_ARCH_REGISTRY,
    Backbone,
    BasicBlock,
    BasicStem,
    BottleneckBlock,
    LastLevelMaxPool,
    ResNet,
    build_backbone,
    build_model,
    build_proposal_generator,
    detector_postprocess,
    sem_seg_postprocess,
)
from adet_ext.d2.structures import Boxes, Instances

R18 = ["MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64]
# Small ResNeXts, with everything that a config can turn.
VARIANTS = {
    "R-18 with BN": [*R18, "MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_AT", 0],
    "R-18 to P7, frozen stem": [
        *R18,
        *("MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpn_backbone", "MODEL.BACKBONE.FREEZE_AT", 1),
    ],
    "R-50 as by MSRA": ["MODEL.FPN.OUT_CHANNELS", 32],
    "ResNeXt with GN": [
        *("MODEL.RESNETS.NUM_GROUPS", 8, "MODEL.RESNETS.WIDTH_PER_GROUP", 8, "MODEL.RESNETS.NORM", "GN"),
        *("MODEL.RESNETS.STRIDE_IN_1X1", False, "MODEL.FPN.NORM", "GN", "MODEL.FPN.FUSE_TYPE", "avg"),
        *("MODEL.RESNETS.STEM_OUT_CHANNELS", 32, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64),
    ],
    "deformable": [
        *("MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, True, True, True], "MODEL.FPN.OUT_CHANNELS", 32),
        *("MODEL.RESNETS.WIDTH_PER_GROUP", 8, "MODEL.RESNETS.RES2_OUT_CHANNELS", 32),
    ],
    "dilated": [
        *("MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.RESNETS.RES5_DILATION", 2),
        *("MODEL.RESNETS.OUT_FEATURES", ["stem", "res4", "res5"], "MODEL.RESNETS.RES2_OUT_CHANNELS", 32),
    ],
    "without res5": [
        *("MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.RESNETS.OUT_FEATURES", ["res3", "res4"]),
        *("MODEL.RESNETS.RES2_OUT_CHANNELS", 32),
    ],
}


def configure(cfg, overrides):
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.merge_from_list(list(overrides))
    return cfg


def make_backbone(*overrides):
    torch.manual_seed(0)
    return build_backbone(configure(get_cfg(), overrides))


def randomise(module: nn.Module) -> None:
    """Statistics that change something, and offsets of about a pixel."""
    torch.manual_seed(1)
    for name, tensor in sorted(module.state_dict().items()):
        if name.endswith("running_mean"):
            tensor.normal_(0, 0.1)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif name.endswith("conv2_offset.bias"):
            tensor.uniform_(-1, 1)


def test_a_pyramid_has_the_shapes_that_it_announces():
    backbone = make_backbone(*VARIANTS["R-18 to P7, frozen stem"])
    shapes = backbone.output_shape()
    assert list(shapes) == ["p3", "p4", "p5", "p6", "p7"]
    assert backbone.size_divisibility == 32
    features = backbone(torch.randn(2, 3, 128, 256))
    for name, shape in shapes.items():
        assert shape.channels == 256
        assert features[name].shape == (2, 256, 128 // shape.stride, 256 // shape.stride)


def test_freezing_stops_gradients_up_to_a_stage():
    backbone = make_backbone(*R18, "MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_AT", 2)
    bottom_up = backbone.bottom_up
    for part, frozen in (("stem", True), ("res2", True), ("res3", False)):
        parameters = list(getattr(bottom_up, part).parameters())
        assert parameters and all(parameter.requires_grad != frozen for parameter in parameters)
        norms = [m for m in getattr(bottom_up, part).modules() if isinstance(m, FrozenBatchNorm2d)]
        assert bool(norms) == frozen


def test_a_resnet_without_a_config():
    blocks = ResNet.make_stage(BasicBlock, 2, in_channels=8, out_channels=16, stride_per_block=[2, 1])
    assert [(block.in_channels, block.stride) for block in blocks] == [(8, 2), (16, 1)]
    assert blocks[1].shortcut is None and isinstance(blocks[0], CNNBlockBase)
    net = ResNet(BasicStem(3, 8), [blocks], out_features=["stem", "res2"])
    assert {name: tuple(y.shape[1:]) for name, y in net(torch.randn(2, 3, 32, 32)).items()} == {
        "stem": (8, 8, 8),
        "res2": (16, 4, 4),
    }
    with pytest.raises(AssertionError):
        ResNet(BasicStem(3, 8), [blocks], out_features=["res9"])


def test_the_stride_sits_where_it_is_asked_for():
    block = BottleneckBlock(8, 16, bottleneck_channels=4, stride=2, stride_in_1x1=True)
    assert (block.conv1.stride, block.conv2.stride) == ((2, 2), (1, 1))
    block = BottleneckBlock(8, 16, bottleneck_channels=4, stride=2, dilation=2)
    assert (block.conv1.stride, block.conv2.stride, block.conv2.dilation) == ((1, 1), (2, 2), (2, 2))


def test_impossible_backbones_are_refused():
    for overrides in (
        ["MODEL.RESNETS.DEPTH", 18],
        [*R18, "MODEL.RESNETS.NUM_GROUPS", 2],
        [*R18, "MODEL.RESNETS.DEFORM_ON_PER_STAGE", [True, False, False, False]],
        ["MODEL.RESNETS.RES5_DILATION", 3],
        *([["MODEL.RESNETS.DEFORM_ON_PER_STAGE", [True]]] if ENGINE == "embedded" else []),
        [*R18, "MODEL.FPN.IN_FEATURES", ["res3", "res5"]],
        [*R18, "MODEL.FPN.FUSE_TYPE", "max"],
    ):
        with pytest.raises(AssertionError):
            make_backbone(*overrides)
    with pytest.raises(KeyError):
        make_backbone("MODEL.RESNETS.DEPTH", 49)


def test_a_pyramid_merges_from_the_top():
    class Constant(Backbone):
        _out_features = ["a", "b"]
        _out_feature_channels = {"a": 1, "b": 1}
        _out_feature_strides = {"a": 4, "b": 8}

        def forward(self, x):
            return {"a": torch.full((1, 1, 4, 4), 2.0), "b": torch.full((1, 1, 2, 2), 3.0)}

    for fuse_type, expected in (("sum", 5.0), ("avg", 2.5)):
        pyramid = FPN(Constant(), ["a", "b"], 1, top_block=LastLevelMaxPool(), fuse_type=fuse_type)
        pyramid.top_block.in_feature = "p3"
        for name, parameter in pyramid.named_parameters():
            nn.init.zeros_(parameter)
            if name.endswith("weight"):
                parameter.data[0, 0, parameter.shape[2] // 2, parameter.shape[3] // 2] = 1
        levels = pyramid(None)
        assert {name: level.shape[-1] for name, level in levels.items()} == {"p2": 4, "p3": 2, "p4": 1}
        assert (levels["p2"] == expected).all() and (levels["p3"] == 3).all()
        with torch.no_grad():
            assert (pyramid(None)["p2"] == expected).all()


def test_channels_last_goes_through_a_backbone():
    backbone = make_backbone(*VARIANTS["R-18 with BN"]).to(memory_format=torch.channels_last).eval()
    x = torch.randn(1, 3, 64, 96).to(memory_format=torch.channels_last)
    with torch.no_grad():
        for level in backbone(x).values():
            assert level.is_contiguous(memory_format=torch.channels_last)


def test_models_are_built_by_name():
    @META_ARCH_REGISTRY.register()
    class ModelOfThisTest(nn.Module):
        def __init__(self, cfg):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(cfg.MODEL.FPN.OUT_CHANNELS))

    cfg = configure(get_cfg(), ["MODEL.META_ARCHITECTURE", "ModelOfThisTest", "MODEL.FPN.OUT_CHANNELS", 3])
    assert build_model(cfg).weight.shape == (3,)
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "PrecomputedProposals"
    assert build_proposal_generator(cfg, {}) is None


def test_what_only_detectron2_has_is_answered_with_its_name():
    cfg = configure(get_cfg(), ["MODEL.BACKBONE.NAME", "build_swin_backbone", "MODEL.SEM_SEG_HEAD.NAME", "NoSuch"])
    with pytest.raises(KeyError, match="registered: .*build_resnet_backbone.*install Detectron2"):
        embedded_modeling.build_backbone(cfg)
    with pytest.raises(KeyError, match="GeneralizedRCNN.*install Detectron2"):
        embedded_modeling.build_model(cfg)
    for build in (embedded_modeling.build_proposal_generator, embedded_modeling.build_sem_seg_head):
        with pytest.raises(KeyError, match="install Detectron2"):
            build(cfg, {})


def test_detections_are_scaled_clipped_and_pasted():
    instances = Instances((10, 20), pred_boxes=Boxes([[0, 0, 5, 5], [18, 2, 30, 4], [7, 7, 7, 9]]))
    instances.scores = torch.tensor([0.9, 0.8, 0.7])
    instances.pred_masks = torch.ones(3, 1, 4, 4)
    result = detector_postprocess(instances, 20, 60)
    assert result.image_size == (20, 60) and result.scores.tolist() == pytest.approx([0.9, 0.8])
    assert result.pred_boxes.tensor.tolist() == [[0, 0, 15, 10], [54, 4, 60, 8]]
    assert result.pred_masks.shape == (2, 20, 60) and result.pred_masks.dtype == torch.bool
    assert result.pred_masks[0, 1:9, 1:14].all() and not result.pred_masks[0, 10:].any()
    assert result.pred_masks[1, 5:7, 55:].all() and not result.pred_masks[1, :, :54].any()


def test_detections_without_boxes_are_refused():
    with pytest.raises(AssertionError):
        detector_postprocess(Instances((2, 2), scores=torch.ones(1)), 4, 4)


def test_semantic_scores_lose_their_padding():
    scores = torch.zeros(2, 8, 8)
    scores[1, :4, :6] = 1
    result = sem_seg_postprocess(scores, (4, 6), 8, 12)
    assert result.shape == (2, 8, 12) and (result[1] == 1).all()


@pytest.mark.needs_detectron2
@pytest.mark.parametrize("variant", VARIANTS)
def test_backbones_are_those_of_detectron2_bit_for_bit(variant):
    theirs = pytest.importorskip("detectron2.modeling")
    their_config = pytest.importorskip("detectron2.config")
    import adet_ext.d2.embedded.config as our_config

    nets = []
    for modeling, config in ((embedded_modeling, our_config), (theirs, their_config)):
        torch.manual_seed(0)
        nets.append(modeling.build_backbone(configure(config.get_cfg(), VARIANTS[variant])))
    first, second = nets
    assert list(first.state_dict()) == list(second.state_dict())
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    assert [name for name, p in first.named_parameters() if p.requires_grad] == [
        name for name, p in second.named_parameters() if p.requires_grad
    ]
    assert {name: vars(shape) for name, shape in first.output_shape().items()} == {
        name: vars(shape) for name, shape in second.output_shape().items()
    }
    for net in nets:
        randomise(net)
    x = torch.randn(2, 3, 64, 96)
    outputs = [net.train()(x) for net in nets]
    assert list(outputs[0]) == list(outputs[1])
    for name, output in outputs[0].items():
        assert torch.equal(output, outputs[1][name]), name
    if variant != "deformable":  # Detectron2's deformable convolution has no backward pass on the CPU
        for output in outputs:
            sum(level.square().mean() for level in output.values()).backward()
        pairs = zip(first.named_parameters(), second.named_parameters(), strict=True)
        for (name, own), (_, other) in pairs:
            assert (own.grad is None) == (other.grad is None)
            assert own.grad is None or torch.equal(own.grad, other.grad), name
    with torch.no_grad():
        outputs = [net.eval()(x) for net in nets]
    for name, output in outputs[0].items():
        scale = outputs[1][name].abs().max()
        assert (output - outputs[1][name]).abs().max() <= 1e-5 * scale, name


@pytest.mark.needs_detectron2
def test_postprocessing_is_that_of_detectron2():
    modeling = pytest.importorskip("detectron2.modeling")
    their_structures = pytest.importorskip("detectron2.structures")
    their_sem_seg = pytest.importorskip("detectron2.modeling.postprocessing").sem_seg_postprocess
    import adet_ext.d2.embedded.structures as our_structures

    torch.manual_seed(0)
    boxes = torch.rand(9, 2, 2) * 50
    boxes = torch.cat([boxes.amin(1), boxes.amax(1)], dim=1)
    masks = torch.rand(9, 1, 14, 14)
    results = []
    for structures, parts in ((our_structures, embedded_modeling), (their_structures, modeling)):
        pred_boxes = structures.Boxes(boxes.clone())
        instances = structures.Instances((40, 44), pred_boxes=pred_boxes, pred_masks=masks)
        results.append(parts.detector_postprocess(instances, 77, 63))
    assert torch.equal(results[0].pred_boxes.tensor, results[1].pred_boxes.tensor)
    assert torch.equal(results[0].pred_masks, results[1].pred_masks)
    scores = torch.rand(3, 20, 24)
    own = embedded_modeling.sem_seg_postprocess(scores, (17, 23), 40, 50)
    assert torch.equal(own, their_sem_seg(scores, (17, 23), 40, 50))


@pytest.mark.parametrize(
    "first, second", [("adet.modeling", "adet_ext.modeling"), ("adet_ext.modeling", "adet.modeling")]
)
def test_two_packages_that_register_one_name_are_both_named(first, second):
    classes = [type("Twice", (), {"__module__": name}) for name in (first, second)]
    try:
        META_ARCH_REGISTRY.register(classes[0])
        with pytest.raises(ImportError, match="adet.* and adet.* both register 'Twice'.*import only one of them"):
            META_ARCH_REGISTRY.register(classes[1])
        assert META_ARCH_REGISTRY.get("Twice") is classes[0]
    finally:
        del META_ARCH_REGISTRY._obj_map["Twice"]


def test_a_module_of_ours_may_register_again():
    classes = [type("Again", (), {"__module__": "adet_ext.modeling"}) for _ in range(2)]
    try:
        for one in classes:
            META_ARCH_REGISTRY.register(one)
        assert META_ARCH_REGISTRY.get("Again") is classes[1]
        with pytest.raises(AssertionError):  # others are refused as ever
            for _ in range(2):
                META_ARCH_REGISTRY.register(type("Others", (), {"__module__": "others"}))
    finally:
        del META_ARCH_REGISTRY._obj_map["Again"], META_ARCH_REGISTRY._obj_map["Others"]


@pytest.mark.needs_detectron2
def test_the_semantic_segmentor_gives_detectron2_s_losses_and_scores():
    from detectron2.modeling.meta_arch import SemanticSegmentor as Theirs

    cfg = get_cfg()
    fpn = ["MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.FPN.OUT_CHANNELS", 32]
    head = ["MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"]]
    head += ["MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"], "MODEL.SEM_SEG_HEAD.CONVS_DIM", 16]
    cfg.merge_from_list([*R18, *fpn, *head, "MODEL.SEM_SEG_HEAD.NORM", "", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 3])
    theirs, own = Theirs(cfg), embedded_modeling.SemanticSegmentor(cfg)
    own.load_state_dict(theirs.state_dict())
    torch.manual_seed(0)
    batch = [{"image": torch.rand(3, 40, 50) * 255, "sem_seg": torch.randint(0, 3, (40, 50))} for _ in range(2)]
    batch[1].update(height=20, width=77)
    expected = [*theirs.train()(batch).values(), *(r["sem_seg"] for r in theirs.eval()(batch))]
    found = [*own.train()(batch).values(), *(r["sem_seg"] for r in own.eval()(batch))]
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other)
