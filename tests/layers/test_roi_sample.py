"""Sampling at the centres of evenly divided boxes: properties of the reference, and the native operator against it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import roi_align

from adet_ext.layers.extension import serves
from adet_ext.layers.roi_sample import roi_sample, roi_sample_reference

from .layouts import STRIDES_OF_LAYOUTS, laid_out

NATIVE = serves("roi_sample", torch.zeros(1))
native_only = pytest.mark.skipif(not NATIVE, reason="the compiled operators are not built")
STRIDES = (8, 16)
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-11, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def make(d=20, n=2, c=5, dtype=torch.float32, channels_last=False, device="cpu", sizes=((11, 7), (6, 4)), seed=0):
    """Features on two levels, boxes in, across and beyond the image, and where each belongs."""
    g = torch.Generator().manual_seed(seed)
    features = [torch.randn(n, c, *size, generator=g, dtype=torch.float64).to(dtype) for size in sizes]
    if channels_last:
        features = [x.to(memory_format=torch.channels_last) for x in features]
    low = torch.rand(d, 2, generator=g) * 120 - 30
    boxes = torch.cat([low, low + torch.rand(d, 2, generator=g) * 90], dim=1)
    image = torch.randint(n, (d,), generator=g)
    level = torch.randint(2, (d,), generator=g)
    boxes = boxes.double() if dtype == torch.float64 else boxes
    return [x.to(device) for x in features], boxes.to(device), image.to(device), level.to(device)


@pytest.mark.parametrize("size", [(1, 1), (5, 5), (3, 4)])
def test_it_is_roialign_with_one_sample_a_bin(size, device):
    features, boxes, image, level = make(device=device)
    for f in (roi_sample, roi_sample_reference):
        samples = f(features, boxes, image, level, strides=STRIDES, size=size)
        for i, stride in enumerate(STRIDES):
            rois = torch.cat([image[:, None].float(), boxes], dim=1)[level == i]
            expected = roi_align(features[i], rois, size, 1 / stride, sampling_ratio=1, aligned=True)
            torch.testing.assert_close(samples[level == i], expected, atol=1e-4, rtol=1e-4)


def test_points_are_those_of_equations_3_2_and_3_3():
    # A map whose values are the x and y of its cells' centres in pixels, stride 4.
    s, h, w = 4, 12, 16
    x = (torch.arange(w) + 0.5) * s
    y = (torch.arange(h) + 0.5) * s
    ramp = torch.stack(torch.meshgrid(x, y, indexing="xy"))[None].float()  # (1, 2, h, w)
    px, py, (left, top, right, bottom) = 30.0, 22.0, (9.0, 14.0, 16.0, 10.0)
    box = torch.tensor([[px - left, py - top, px + right, py + bottom]])
    zero = torch.zeros(1, dtype=torch.int64)
    kh, kw = 3, 5
    samples = roi_sample([ramp], box, zero, zero, strides=[s], size=(kh, kw))[0]
    for j in range(kh):
        for i in range(kw):
            ox = (left + right) * (2 * i + 1) / (2 * kw) - left
            oy = (top + bottom) * (2 * j + 1) / (2 * kh) - top
            assert samples[:, j, i].tolist() == pytest.approx([px + ox, py + oy], abs=1e-4)


def test_beyond_the_border_values_are_held_for_a_cell_or_fade():
    ones = torch.ones(1, 1, 4, 4)
    centres = torch.tensor([-2.0, -1.0, -0.5, 0.0, 3.0, 3.5, 4.0, 5.0])  # in cells
    boxes = torch.stack([centres, torch.full((8,), 2.0)], dim=1).repeat(1, 2)  # points: no extent
    zeros = torch.zeros(8, dtype=torch.int64)
    args = ([ones], boxes + 0.5, zeros, zeros)
    clamp = roi_sample(*args, strides=[1], size=(1, 1)).flatten()
    fade = roi_sample(*args, strides=[1], size=(1, 1), border="zeros").flatten()
    assert clamp.tolist() == [0, 1, 1, 1, 1, 1, 1, 0]
    assert fade.tolist() == [0, 0, 0.5, 1, 1, 0.5, 0, 0]


@native_only
@pytest.mark.parametrize("border", ["clamp", "zeros"])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_native_values_and_gradients_are_the_references(dtype, channels_last, border, device):
    features, boxes, image, level = make(c=32, dtype=dtype, channels_last=channels_last, device=device)
    results = []
    for f in (roi_sample, roi_sample_reference):
        xs, b = [x.clone().requires_grad_() for x in features], boxes.clone().requires_grad_()
        out = f(xs, b, image, level, strides=STRIDES, size=(3, 2), border=border)
        weight = torch.linspace(-1, 1, out.numel(), device=device, dtype=dtype).view(out.shape)
        results.append([out, *torch.autograd.grad((out * weight).sum(), [*xs, b])])
    assert results[0][0].is_contiguous(memory_format=torch.channels_last) == channels_last
    assert all(g.is_contiguous(memory_format=torch.channels_last) == channels_last for g in results[0][1:3])
    for ours, theirs in zip(*results):
        scale = theirs.abs().max().clamp(min=1).item()
        torch.testing.assert_close(ours, theirs, atol=TOLERANCE[dtype] * scale, rtol=0)


@native_only
@settings(max_examples=40, deadline=None)
@given(
    d=st.integers(0, 6),
    n=st.integers(1, 3),
    c=st.integers(0, 19),
    sizes=st.tuples(*[st.tuples(st.integers(1, 9), st.integers(1, 9))] * 2),
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    layouts=st.tuples(*[st.sampled_from(["contiguous", "channels_last", "sliced"])] * 2),
    border=st.sampled_from(["clamp", "zeros"]),
    seed=st.integers(0, 1000),
)
def test_native_agrees_for_any_shape_and_layout(device, d, n, c, sizes, size, layouts, border, seed):
    features, boxes, image, level = make(d, n, c, torch.float64, device=device, sizes=sizes, seed=seed)
    for i, layout in enumerate(layouts):
        if layout == "channels_last":
            features[i] = features[i].contiguous(memory_format=torch.channels_last)
        elif layout == "sliced":  # neither: every second channel, row and column of a larger map
            large = features[i].new_zeros(n, 2 * c, 2 * sizes[i][0], 2 * sizes[i][1])
            large[:, ::2, ::2, ::2] = features[i]
            features[i] = large[:, ::2, ::2, ::2]
    args = (features, boxes, image, level)
    ours = roi_sample(*args, strides=STRIDES, size=size, border=border)
    assert ours.shape == (d, c, *size)
    torch.testing.assert_close(
        ours, roi_sample_reference(*args, strides=STRIDES, size=size, border=border), atol=1e-9, rtol=0
    )


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("border", ["clamp", "zeros"])
def test_degenerate_boxes_give_what_the_reference_says_and_nothing_that_is_not_finite(border, channels_last, device):
    features = make(n=1, channels_last=channels_last, device=device)[0]
    nan, inf = float("nan"), float("inf")
    boxes = torch.tensor(
        [
            [20, 20, 20, 20],  # no extent
            [40, 30, 10, 5],  # inside out
            [1e4, 1e4, 2e4, 2e4],  # far outside
            [-1e30, 0, 1e30, 8],
            [nan, 0, 8, 8],
            [-inf, 0, inf, 8],
            [0, 0, 8, inf],
            [0, 0, 56, 88],  # the whole map
        ],
        device=device,
    )
    index = torch.zeros(len(boxes), dtype=torch.int64, device=device)
    results = []
    for f in (roi_sample, roi_sample_reference):
        xs, b = [x.clone().requires_grad_() for x in features], boxes.clone().requires_grad_()
        out = f(xs, b, index, index, strides=STRIDES, size=(3, 3), border=border)
        results.append([out, *torch.autograd.grad(out.sum(), [*xs, b])])
        assert torch.isfinite(out).all() and all(torch.isfinite(g).all() for g in results[-1][1:3])
        assert (out[2] == 0).all() and (out[4, :, :, :] == 0).all() and (out[0] != 0).any()
    for ours, theirs in zip(results[0][:3], results[1][:3]):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("border", ["clamp", "zeros"])
def test_gradients_are_those_of_finite_differences(border, channels_last):
    features, boxes, image, level = make(d=4, c=2, dtype=torch.float64, channels_last=channels_last, seed=3)
    features = [x.requires_grad_() for x in features]

    def f(a, b, boxes):
        return roi_sample([a, b], boxes, image, level, strides=STRIDES, size=(2, 3), border=border)

    assert torch.autograd.gradcheck(f, (*features, boxes.requires_grad_()), eps=1e-5)


@pytest.mark.parametrize("channels_last", [False, True])
def test_no_boxes_give_no_samples_and_gradients_of_zero(channels_last, device):
    features, boxes, image, level = make(d=0, channels_last=channels_last, device=device)
    features = [x.requires_grad_() for x in features]
    out = roi_sample(features, boxes.requires_grad_(), image, level, strides=STRIDES, size=(5, 5))
    assert out.shape == (0, 5, 5, 5)
    gradients = torch.autograd.grad(out.sum(), [*features, boxes])
    assert [g.shape for g in gradients] == [x.shape for x in [*features, boxes]]
    assert not any(g.any() for g in gradients)


@native_only
@pytest.mark.parametrize("channels_last", [False, True])
def test_torch_knows_the_operators(channels_last):
    features, boxes, image, level = make(d=3, c=3, channels_last=channels_last)
    features = [x.requires_grad_() for x in features]
    scales = [1 / s for s in STRIDES]
    ops = torch.ops.adet_ext
    grad = torch.randn(3, 3, 2, 2)
    sizes = [2, 11, 7, 6, 4]
    torch.library.opcheck(
        ops.roi_sample.default, (features, boxes.requires_grad_(), image, level, scales, 2, 2, 0, channels_last)
    )
    boxes = boxes.detach()
    torch.library.opcheck(
        ops.roi_sample_backward_features.default,
        (grad, boxes, image, level, sizes, scales, 0, channels_last, False),
    )
    torch.library.opcheck(
        ops.roi_sample_backward_boxes.default,
        (grad, [x.detach() for x in features], boxes, image, level, scales, 1),
    )


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_compiled_function_trains_to_the_same_numbers(channels_last):
    features, boxes, image, level = make(channels_last=channels_last)
    features = [x.requires_grad_() for x in features]

    def f(features, boxes):
        return roi_sample([x * 2 for x in features], boxes, image, level, strides=STRIDES, size=(3, 3)).square().sum()

    compiled = torch.compile(f, backend="aot_eager", fullgraph=True)
    expected = torch.autograd.grad(f(features, boxes), features)
    for ours, theirs in zip(torch.autograd.grad(compiled(features, boxes), features), expected):
        torch.testing.assert_close(ours, theirs)


def test_it_can_be_exported_for_any_number_of_boxes():
    class Sampler(torch.nn.Module):
        def forward(self, a, b, boxes, image, level):
            return roi_sample([a, b], boxes, image, level, strides=STRIDES, size=(3, 3))

    (a, b), boxes, image, level = make()
    d = torch.export.Dim("d", max=1000)
    program = torch.export.export(
        Sampler(), (a, b, boxes, image, level), dynamic_shapes=(None, None, {0: d}, {0: d}, {0: d})
    )
    _, boxes, image, level = make(d=7, seed=1)
    torch.testing.assert_close(program.module()(a, b, boxes, image, level), Sampler()(a, b, boxes, image, level))


@native_only
def test_a_gradient_of_the_gradient_is_refused():
    features, boxes, image, level = make()
    x = [f.requires_grad_() for f in features]
    out = roi_sample(x, boxes, image, level, strides=STRIDES, size=(2, 2)).square().sum()
    g = torch.autograd.grad(out, x, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        g[0].sum().backward()


@pytest.mark.parametrize("channels_last", [False, True])
def test_gradients_do_not_depend_on_the_number_of_threads(channels_last):
    features, boxes, image, level = make(d=200, c=48, channels_last=channels_last)
    features = [x.requires_grad_() for x in features]
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            out = roi_sample(features, boxes, image, level, strides=STRIDES, size=(3, 3))
            results.append([out, *torch.autograd.grad(out.square().sum(), features)])
    finally:
        torch.set_num_threads(before)
    if NATIVE:
        assert all(torch.equal(a, b) for a, b in zip(*results))
    else:
        for a, b in zip(*results):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_deterministic_gradient_on_a_gpu_is_the_other_ones(channels_last, gpu):
    features, boxes, image, level = make(d=60, c=40, channels_last=channels_last, device=gpu)
    features = [x.requires_grad_() for x in features]
    results = []
    for wish in (False, True, True):
        torch.use_deterministic_algorithms(wish)
        try:
            out = roi_sample(features, boxes, image, level, strides=STRIDES, size=(3, 3))
            results.append(torch.autograd.grad(out.square().sum(), features))
        finally:
            torch.use_deterministic_algorithms(False)
    for a, b, c in zip(*results):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
        assert torch.equal(b, c)


@pytest.mark.parametrize("layout", STRIDES_OF_LAYOUTS)
def test_on_a_gpu_any_alignment_agrees_with_the_reference(layout, gpu):
    features, *args = make(d=3, c=36, device=gpu)
    features = [laid_out(x, *STRIDES_OF_LAYOUTS[layout]) for x in features]
    ours = roi_sample(features, *args, strides=STRIDES, size=(2, 2))
    expected = roi_sample_reference(features, *args, strides=STRIDES, size=(2, 2))
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("channels, size", [(100, (5, 5)), (4, (32, 32))])
def test_on_a_gpu_many_points_agree_with_the_reference(channels, size, gpu):
    features, boxes, image, level = make(d=3, c=channels, dtype=torch.float64, device=gpu)
    results = []
    for f in (roi_sample, roi_sample_reference):
        xs, b = [x.clone().requires_grad_() for x in features], boxes.clone().requires_grad_()
        out = f(xs, b, image, level, strides=STRIDES, size=size)
        results.append([out, *torch.autograd.grad(out.square().sum(), [*xs, b])])
    for ours, theirs in zip(*results):
        torch.testing.assert_close(ours, theirs, atol=1e-9 * theirs.abs().max().item(), rtol=0)


def _change(name, value):
    features, boxes, image, level = make()
    args = {"features": features, "boxes": boxes, "image": image, "level": level}
    args |= {"strides": STRIDES, "size": (2, 2), "border": "clamp"}
    args[name] = value(args[name])
    return args


@pytest.mark.parametrize(
    "name, value, error",
    [
        ("features", lambda x: [], ValueError),
        ("features", lambda x: [x[0], x[1][:, :2]], ValueError),
        ("features", lambda x: [x[0], x[1].double()], TypeError),
        ("features", lambda x: [t.int() for t in x], TypeError),
        ("features", lambda x: [t[:, :, :0] for t in x], ValueError),
        ("boxes", lambda x: x[:, :3], ValueError),
        ("boxes", lambda x: x.long(), TypeError),
        ("image", lambda x: x[:-1], ValueError),
        ("image", lambda x: x.float(), TypeError),
        ("level", lambda x: x.int(), TypeError),
        ("level", lambda x: x.to("meta"), ValueError),
        ("strides", lambda x: (8,), ValueError),
        ("strides", lambda x: (8, 0), ValueError),
        ("size", lambda x: (0, 3), ValueError),
        ("border", lambda x: "reflect", ValueError),
    ],
)
def test_a_wrong_argument_is_named(name, value, error):
    args = _change(name, value)
    with pytest.raises(error) as caught:
        roi_sample(args.pop("features"), args.pop("boxes"), args.pop("image"), args.pop("level"), **args)
    assert name in str(caught.value)


@pytest.mark.parametrize("name", ["image", "level"])
@pytest.mark.parametrize("shift", [-2, 2])
def test_an_image_or_a_level_out_of_range_is_refused(name, shift):
    args = _change(name, lambda x: x + shift)
    with pytest.raises((RuntimeError, IndexError), match=name if NATIVE else "."):
        roi_sample(args.pop("features"), args.pop("boxes"), args.pop("image"), args.pop("level"), **args)


@pytest.mark.parametrize("channels_last", [False, True])
def test_on_a_gpu_a_box_of_an_image_out_of_range_gives_nan_and_no_gradient(channels_last, gpu):
    features, boxes, image, level = make(channels_last=channels_last, device=gpu)
    image[3], level[5], level[9] = 2, -1, 2
    features = [x.requires_grad_() for x in features]
    out = roi_sample(features, boxes, image, level, strides=STRIDES, size=(2, 2))
    assert out.isnan().flatten(1).any(1).nonzero()[:, 0].tolist() == [3, 5, 9]
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(out.sum(), features))
