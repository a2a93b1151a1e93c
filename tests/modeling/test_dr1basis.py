"""DR1Basis, the top layer's contexts, and pyramids for images of any size."""

import pytest
import torch
from torch.nn import functional as F

from adet_ext.d2.layers import ShapeSpec
from adet_ext.layers.dr1_conv import DR1Conv2d
from adet_ext.modeling.mask.dr1basis import DR1Basis

from .dr1 import build_dr1

LEVELS = ["p3", "p4", "p5", "p6", "p7"]


def make_basis(width: int, channels: int, upsampling: str = "aligned", levels=tuple(LEVELS)) -> DR1Basis:
    torch.manual_seed(0)
    return DR1Basis(
        width=width,
        upsampling=upsampling,
        in_features=levels,
        input_shape={name: ShapeSpec(channels=channels, stride=2 ** int(name[1])) for name in levels},
        channels=8,
        norm="",
        num_classes=None,
        loss_weight=0.3,
        common_stride=8,
    )


def pyramid(channels: int, height: int, width: int) -> dict[str, torch.Tensor]:
    maps = {}
    for name in LEVELS:
        maps[name] = torch.randn(2, channels, height, width)
        height, width = (height + 1) // 2, (width + 1) // 2
    return maps


def test_dr1conv_is_its_definition_at_every_location():
    """Equation 5.2: at each place the weights are W ∘ b a^T, a of the place an input comes from."""
    torch.manual_seed(0)
    conv = DR1Conv2d(3, 4, bias=False).double()
    x, a = torch.randn(2, 1, 3, 4, 5, dtype=torch.float64)
    b = torch.randn(1, 4, 4, 5, dtype=torch.float64)
    y = conv(x, a, b)
    for h in range(4):
        for w in range(5):
            expected = torch.zeros(4, dtype=torch.float64)
            for i in range(3):
                for j in range(3):
                    u, v = h + i - 1, w + j - 1
                    if 0 <= u < 4 and 0 <= v < 5:
                        dynamic = conv.weight[:, :, i, j] * torch.outer(b[0, :, h, w], a[0, :, u, v])
                        expected += dynamic @ x[0, :, u, v]
            torch.testing.assert_close(y[0, :, h, w], expected)


def test_the_basis_is_the_recursion_of_equation_5_6():
    basis = make_basis(4, 6)
    features = pyramid(6, 16, 32)
    shapes = {name: (2, 4, *x.shape[2:]) for name, x in features.items()}
    contexts = {name: (torch.randn(shape), torch.randn(shape)) for name, shape in shapes.items()}
    with torch.no_grad():
        result = basis(features, contexts)
        merged = torch.zeros(2, 4, 1, 1)
        for i in range(4, -1, -1):
            x, (a, b) = features[LEVELS[i]], contexts[LEVELS[i]]
            up = torch.zeros(()) if i == 4 else _double(merged)
            y = F.conv2d((basis.reduce[i](x) + up) * a, basis.merge[i].weight, basis.merge[i].bias, padding=1) * b
            merged = y.relu()
        torch.testing.assert_close(result, _double(merged))
    assert result.shape == (2, 4, 32, 64)


def _double(x: torch.Tensor) -> torch.Tensor:
    """up2 written out: samples at even places, means between, the last repeated."""
    for dim in (2, 3):
        following = torch.cat([x.narrow(dim, 1, x.shape[dim] - 1), x.narrow(dim, x.shape[dim] - 1, 1)], dim)
        x = torch.stack([x, (x + following) / 2], dim=dim + 1).flatten(dim, dim + 1)
    return x


def test_factors_of_one_are_no_factors():
    basis = make_basis(4, 6)
    features = pyramid(6, 13, 17)
    ones = {name: (torch.ones(2, 4, *x.shape[2:]),) * 2 for name, x in features.items()}
    torch.testing.assert_close(basis(features, ones), basis(features, {}))


@pytest.mark.parametrize("size, moves", [((32, 48), False), ((37, 53), False), ((34, 51), False), ((37, 53), True)])
def test_levels_of_any_size_stay_where_strided_convolutions_sampled_them(size, moves):
    """With convolutions that pass their input on, a ramp seen at every level comes out as a ramp, at the finest
    level's places; resized to the sizes of the levels it does not."""
    basis = make_basis(1, 1, "resize" if moves else "aligned").double()
    with torch.no_grad():
        for block in [*(r[0] for r in basis.reduce), *basis.merge]:
            block.weight.zero_()
            block.weight[0, 0, 1, 1] = 1
    y, x = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    ramp = (2.0 * y + 3.0 * x)[None, None].double()
    features = {name: ramp[..., :: 2**i, :: 2**i] for i, name in enumerate(LEVELS)}
    with torch.no_grad():
        result = basis(features, {})[..., ::2, ::2] / len(LEVELS)
    assert result.shape == ramp.shape
    inside = [16 * ((side - 1) // 16) + 1 for side in size]  # up to the last sample of the coarsest level
    error = (result - ramp)[..., : inside[0], : inside[1]].abs().max()
    assert (error > 1) if moves else (error < 1e-12)


def test_padding_is_the_smallest_with_size_divisibility_four():
    model = build_dr1().eval()
    image = {"image": torch.zeros(3, 70, 93, dtype=torch.uint8)}
    assert model.preprocess_image([image]).tensor.shape[-2:] == (72, 96)
    assert build_dr1("MODEL.BACKBONE.SIZE_DIVISIBILITY", 128).preprocess_image([image]).tensor.shape[-2:] == (128, 128)
    assert build_dr1("MODEL.BACKBONE.SIZE_DIVISIBILITY", 0).preprocess_image([image]).tensor.shape[-2:] == (96, 96)


def test_a_pyramid_for_any_size_is_fpn_where_sizes_fit_and_rounds_up_elsewhere():
    aligned, plain = (build_dr1("MODEL.BACKBONE.SIZE_DIVISIBILITY", n).backbone.eval() for n in (4, 0))
    plain.load_state_dict(aligned.state_dict())
    x = torch.randn(1, 3, 128, 64)
    with torch.no_grad():
        for ours, theirs in zip(aligned(x).values(), plain(x).values()):
            torch.testing.assert_close(ours, theirs)
        shapes = {name: tuple(y.shape[-2:]) for name, y in aligned(torch.randn(1, 3, 100, 68)).items()}
    assert shapes == {"p3": (13, 9), "p4": (7, 5), "p5": (4, 3), "p6": (2, 2), "p7": (1, 1)}


@pytest.mark.parametrize(
    "overrides, factors",
    [
        ((), 2),
        (("MODEL.DR1MASK.USE_A", False), 1),
        (("MODEL.DR1MASK.USE_B", False), 1),
        (("MODEL.DR1MASK.USE_A", False, "MODEL.DR1MASK.USE_B", False), 0),
        (("MODEL.DR1MASK.CONTEXT", "none"), 0),
    ],
)
def test_contexts_have_the_chosen_factors_and_start_near_one(overrides, factors):
    model = build_dr1(*overrides)
    layer = model.top_layer.context_layer
    assert (layer.out_channels if layer is not None else 0) == 8 * factors
    output, _ = model.proposal_generator.head_output(model.backbone(torch.randn(1, 3, 64, 64)))
    contexts = model.top_layer.contexts({}, output)
    assert len(contexts) == (5 if factors else 0)
    for name, (a, b) in contexts.items():
        assert (a is not None) + (b is not None) == factors, name
        for factor in (a, b):
            assert factor is None or abs(factor.mean() - 1) < 0.2


@pytest.mark.parametrize("source", ["box_tower", "cls_tower", "fpn"])
def test_contexts_and_embeddings_use_the_configured_source(source):
    model = build_dr1("MODEL.DR1MASK.CONTEXT", source, "MODEL.DR1MASK.EMBEDDING", source)
    features = model.backbone(torch.randn(1, 3, 64, 64))
    output, _ = model.proposal_generator.head_output(features)
    maps = [features[name] for name in LEVELS] if source == "fpn" else getattr(output, source)
    a, b = model.top_layer.contexts(features, output)["p4"]
    torch.testing.assert_close(torch.cat([a, b], dim=1), model.top_layer.context_layer(maps[1]))
    dense = model.top_layer.embedding_layer(maps[1])[0, :, 2, 3]
    place = torch.tensor([8 * 8 + 2 * 4 + 3])
    torch.testing.assert_close(
        model.top_layer.embeddings(features, output, torch.tensor([0]), place)[0], dense, rtol=1e-4, atol=1e-5
    )
