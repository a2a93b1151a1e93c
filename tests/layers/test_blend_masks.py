"""The fused blend operators against their compositions: values, gradients, layouts, types, degenerate boxes."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adet_ext.layers import blend_factored as factored_module
from adet_ext.layers import blend_masks as blend_module
from adet_ext.layers.blend_factored import blend_factored, blend_vector
from adet_ext.layers.blend_masks import assemble_masks, blend_masks
from adet_ext.layers.extension import serves

from .layouts import STRIDES_OF_LAYOUTS, laid_out

native_only = pytest.mark.skipif(
    not serves("blend_masks", torch.zeros(1)), reason="the compiled operators are not built"
)
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
FACES = ["softmax", "one basis", "nearest", "assembler", "factored", "normalised", "vector"]
BAD = [[3.0, 3, 3, 3], [9, 9, 5, 5], [-500, -500, -400, -400], [float("nan")] * 4, [0, 0, float("inf"), 9], [1e30] * 4]


@pytest.fixture
def composed(monkeypatch):
    """Leaves the compiled operators out."""

    def off():
        for module in (blend_module, factored_module):
            monkeypatch.setattr(module, "fuses", lambda *arguments: False)

    yield off
    monkeypatch.undo()


def make(face, *, n=2, k=4, d=5, side=3, size=7, hw=(9, 11), scale=0.25, dtype=torch.float64, layout=0, seed=0):
    """(function of its floating inputs, those inputs); the boxes lie in and around the images."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    channels = {"one basis": 1, "assembler": side * side, "vector": 2 * k + 1, "factored": 2 * k, "normalised": 2 * k}
    bases = random(n, channels.get(face, k), *hw)
    if layout == 1:
        bases = bases.contiguous(memory_format=torch.channels_last)
    elif layout == 2:
        bases = random(n, bases.shape[1], hw[0] + 2, 2 * hw[1])[:, :, 1:-1, ::2]
    extent = torch.tensor([hw[1], hw[0]]) / scale
    corners = torch.rand(2, d, 2, generator=generator) * extent * 1.4 - extent * 0.2
    boxes = torch.cat([corners.amin(0), corners.amax(0)], dim=1).double()
    image = torch.randint(n, (d,), generator=generator)
    place = {"boxes": boxes, "image": image, "size": size, "scale": scale}
    if face == "assembler":
        return functools.partial(assemble_masks, side=side, **place), [bases]
    if face == "vector":
        return functools.partial(blend_vector, **place), [bases, random(d, bases.shape[1])]
    if face in ("factored", "normalised"):
        options = {**place, "normalize": face == "normalised"}
        factors = [random(d, k * 2 * k), random(d, k * 3), random(k, 3, side), random(k, 3, side)]
        return functools.partial(blend_factored, **options), [bases, *factors]
    interp = "nearest" if face == "nearest" else "bilinear"
    attentions = random(d, bases.shape[1], side, side)
    return functools.partial(blend_masks, top_interp=interp, **place), [bases, attentions]


def to(device, function, inputs):
    keywords = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in function.keywords.items()}
    return functools.partial(function.func, **keywords), [x.to(device) for x in inputs]


def run(function, inputs, leaves=None):
    """The result, and the gradients of a fixed weighting of it."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    out = function(*inputs)
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype, device=out.device).view(out.shape)
    return [out, *torch.autograd.grad((out * weight).sum(), inputs)]


def compare(ours, theirs, dtype):
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype == dtype
        scale = b.abs().max().clamp(min=1).item() if b.numel() else 1
        torch.testing.assert_close(a, b, atol=TOLERANCE[dtype] * scale, rtol=0)


@native_only
@pytest.mark.parametrize("layout", [0, 1, 2])
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("face", FACES)
def test_values_and_gradients_are_the_composition_s(face, dtype, layout, device, composed):
    function, inputs = make(face, dtype=dtype, layout=layout)
    if dtype != torch.float64:
        function.keywords["boxes"] = function.keywords["boxes"].float()
    function, inputs = to(device, function, inputs)
    ours = run(function, inputs)
    composed()
    compare(ours, run(function, inputs), dtype)


@native_only
@settings(max_examples=60, deadline=None)
@given(
    face=st.sampled_from(FACES),
    n=st.integers(1, 3),
    k=st.integers(2, 9),
    d=st.integers(0, 4),
    side=st.integers(1, 8),
    size=st.integers(1, 20),
    hw=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    layout=st.integers(0, 2),
    seed=st.integers(0, 99),
)
def test_any_shape_agrees(device, face, n, k, d, side, size, hw, layout, seed):
    function, inputs = make(face, n=n, k=k, d=d, side=side, size=size, hw=hw, layout=layout, seed=seed)
    function, inputs = to(device, function, inputs)
    ours = run(function, inputs)
    with pytest.MonkeyPatch.context() as patch:
        for module in (blend_module, factored_module):
            patch.setattr(module, "fuses", lambda *arguments: False)
        compare(ours, run(function, inputs), torch.float64)


@pytest.mark.parametrize("face", FACES)
def test_the_deterministic_gradient_on_a_gpu_is_the_other_one(face, gpu):
    function, inputs = to(gpu, *make(face, d=12, hw=(5, 6)))
    results = []
    for wish in (False, True, True):
        torch.use_deterministic_algorithms(wish)
        try:
            results.append(run(function, inputs))
        finally:
            torch.use_deterministic_algorithms(False)
    compare(results[0], results[1], torch.float64)
    assert all(torch.equal(a, b) for a, b in zip(*results[1:]))


LARGE = {
    "maps beyond shared memory": ("softmax", {"side": 56, "size": 20}),
    "many bases": ("softmax", {"k": 40, "size": 40, "d": 1}),
    "a large mask": ("softmax", {"size": 66}),
    "a large mask of other bases": ("nearest", {"size": 66, "k": 3}),
    "many factored bases": ("normalised", {"k": 12, "size": 9}),
    "a large factored mask": ("factored", {"k": 10, "size": 54, "d": 1}),
}


@pytest.mark.parametrize("name", LARGE)
def test_on_a_gpu_what_is_large_agrees(name, gpu, composed):
    face, sizes = LARGE[name]
    function, inputs = to(gpu, *make(face, **{"d": 2, **sizes}))
    ours = run(function, inputs)
    composed()
    compare(ours, run(function, inputs), torch.float64)


@pytest.mark.parametrize("k", [3, 4])
@pytest.mark.parametrize("strides", STRIDES_OF_LAYOUTS)
@pytest.mark.parametrize("face", ["softmax", "factored"])
def test_on_a_gpu_any_alignment_agrees(face, strides, k, gpu, composed):
    function, (bases, *others) = to(gpu, *make(face, k=k))
    inputs = [laid_out(bases, *STRIDES_OF_LAYOUTS[strides]), *others]
    ours = function(*inputs)
    composed()
    compare([ours], [function(*inputs)], torch.float64)


@native_only
def test_extreme_logits_of_one_basis_give_the_composition_s_finite_numbers(device, composed):
    function, inputs = to(device, *make("one basis"))
    inputs = [1500 * x.sign() for x in inputs]
    ours = run(function, inputs)
    assert all(x.isfinite().all() for x in ours)
    composed()
    compare(ours, run(function, inputs), torch.float64)


def test_a_sample_on_the_outer_edge_is_the_border_s_value_or_zero_and_nothing_else(device):
    # RoIAlign's values end a cell outside of the map, at a step. Sample 10 of this box is there, but for rounding: at
    # -1.0000001 or, if multiplication and addition are contracted, as nvcc does, at -0.9999999.
    place = {"boxes": torch.tensor([[-11.0, 4, 1, 60]]), "image": torch.zeros(1, dtype=torch.int64)}
    function, inputs = functools.partial(blend_vector, **place, size=14, scale=0.25), [torch.ones(1, 1, 20, 20)]
    function, inputs = to(device, function, [*inputs, torch.ones(1, 1)])
    out = function(*inputs)[0]
    assert not out[:, :10].any() and (out[:, 11:] - 1).abs().max() < 1e-6
    assert ((out[:, 10] == 0) | ((out[:, 10] - 1).abs() < 1e-6)).all()


@pytest.mark.parametrize("face", FACES)
def test_on_a_gpu_an_image_out_of_range_gives_zeros_and_no_gradient(face, gpu):
    function, inputs = to(gpu, *make(face))
    good = run(function, inputs)
    function.keywords["image"] = function.keywords["image"].clone()
    function.keywords["image"][:2] = torch.tensor([-1, 2])
    out, grad_bases, *_ = run(function, inputs)
    assert torch.equal(out[2:], good[0][2:]) and grad_bases.isfinite().all()
    if face != "one basis":  # whose logit of a crop of zeros is not zero
        assert not out[:2].any()


@pytest.mark.parametrize("face", FACES)
def test_degenerate_boxes_give_the_composition_s_numbers_and_nothing_that_is_not_finite(face, device, composed):
    function, inputs = make(face, d=len(BAD))
    function.keywords["boxes"] = torch.tensor(BAD, dtype=torch.float64)
    function, inputs = to(device, function, inputs)
    ours = run(function, inputs)
    assert all(x.isfinite().all() for x in ours)
    composed()
    compare(ours, run(function, inputs), torch.float64)


@native_only
@pytest.mark.parametrize("face", FACES)
def test_gradients_are_those_of_finite_differences(face):
    function, inputs = make(face, n=1, k=2, d=2, side=2, size=3, hw=(4, 5))
    assert torch.autograd.gradcheck(function, [x.requires_grad_() for x in inputs], fast_mode=True)


@native_only
@pytest.mark.parametrize("face", ["softmax", "assembler", "factored"])
def test_gradients_asked_for_singly_are_those_asked_for_together(face, device):
    function, inputs = to(device, *make(face))
    together = run(function, inputs)[1:]
    for place in range(len(inputs)):
        one = [x.detach().requires_grad_(i == place) for i, x in enumerate(inputs)]
        out = function(*one)
        weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype, device=device).view(out.shape)
        (grad,) = torch.autograd.grad((out * weight).sum(), one[place])
        torch.testing.assert_close(grad, together[place])


@pytest.mark.parametrize("face", ["softmax", "factored"])
def test_gradients_do_not_depend_on_the_number_of_threads(face):
    function, inputs = make(face, d=60, k=4, hw=(40, 40), size=14, dtype=torch.float32)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            results.append(run(function, inputs))
    finally:
        torch.set_num_threads(before)
    for one, four in zip(*results):
        torch.testing.assert_close(one, four, atol=1e-5 * one.abs().max().item(), rtol=0)


@native_only
def test_torch_knows_the_operators():
    ops = torch.ops.adet_ext
    _, (bases, attentions) = make("softmax")
    boxes, image = torch.rand(5, 4).double() * 20, torch.zeros(5, dtype=torch.int64)
    options = (0.25, True, False, 0)
    torch.library.opcheck(
        ops.blend_masks.default, (bases.requires_grad_(), attentions.requires_grad_(), boxes, image, 7, *options)
    )
    grad = torch.randn(5, 7, 7).double()
    tensors = (grad, bases.detach(), attentions.detach(), boxes, image)
    checks = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    for needs in ((True, True), (True, False), (False, True)):
        torch.library.opcheck(ops.blend_masks_backward.default, (*tensors, *options, *needs, False), test_utils=checks)
    bases, t, sigma, u, v = torch.randn(1, 6, 9, 9), *map(torch.randn, ((5, 2, 6), (5, 2, 3), (2, 3, 7), (2, 3, 7)))
    boxes = boxes.float()
    leaves = [x.requires_grad_() for x in (bases, t, sigma, u, v)]
    torch.library.opcheck(ops.blend_factored.default, (*leaves, boxes, image, 0.25, True, 1), rtol=1e-4, atol=1e-4)
    tensors = (grad.float(), *(x.detach() for x in leaves), boxes, image)
    for needs in ((True, True), (True, False), (False, True)):
        torch.library.opcheck(
            ops.blend_factored_backward.default, (*tensors, 0.25, True, 1, *needs, False), test_utils=checks
        )


@pytest.mark.parametrize("face", ["softmax", "factored"])
def test_compiled_and_exported_functions_give_the_same_numbers(face):
    function, inputs = make(face)
    expected = run(function, inputs)
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    for ours, theirs in zip(run(compiled, inputs), expected):
        torch.testing.assert_close(ours, theirs)

    class Blender(torch.nn.Module):
        def forward(self, *inputs):
            return function(*inputs)

    program = torch.export.export(Blender(), tuple(inputs))
    torch.testing.assert_close(program.module()(*inputs), expected[0])


@native_only
@pytest.mark.parametrize("face", ["softmax", "factored"])
def test_a_gradient_of_the_gradient_is_refused(face):
    function, inputs = make(face)
    inputs = [x.requires_grad_() for x in inputs]
    (grad,) = torch.autograd.grad(function(*inputs).square().sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        grad.sum().backward()


@pytest.mark.parametrize("face", ["softmax", "factored"])
def test_an_image_out_of_range_is_refused(face):
    function, inputs = make(face)
    function.keywords["image"] = torch.tensor([0, 1, 2, 0, 0])
    with pytest.raises((RuntimeError, ValueError), match="image|roi|batch|index"):
        function(*inputs)


@pytest.mark.parametrize("face", FACES)
def test_boxes_on_bases_of_no_images_are_refused(face):
    function, (bases, *others) = make(face)
    with pytest.raises(ValueError, match="bases must have cells to crop"):
        function(bases[:0], *others)


CHANGES = {
    "bases": (lambda x: x[0], ValueError),
    "boxes": (lambda x: x[:, :3], ValueError),
    "image": (lambda x: x[:-1], ValueError),
    "size": (lambda x: 0, ValueError),
    "attentions": (lambda x: x[:, :-1], ValueError),
    "top_interp": (lambda x: "cubic", ValueError),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_wrong_argument_is_named(name):
    function, (bases, attentions) = make("softmax")
    arguments = {"bases": bases, "attentions": attentions, **function.keywords}
    change, error = CHANGES[name]
    arguments[name] = change(arguments[name])
    with pytest.raises(error, match=name):
        blend_masks(**arguments)


def test_integers_are_refused_by_type():
    function, (bases, attentions) = make("softmax")
    with pytest.raises(TypeError, match="attentions must be .*; got int64"):
        function(bases, attentions.long())
    with pytest.raises(TypeError, match="bases must be a tensor; got list"):
        function([1.0], attentions)
