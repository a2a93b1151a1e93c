"""Dynamic rank-1 convolution: what equation 5.4 says, and the compiled operator against it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from adet_ext.layers import dr1_conv as module
from adet_ext.layers.dr1_conv import DR1Conv2d, dr1_conv, dr1_conv_reference
from adet_ext.layers.extension import native_operators, status

from .layouts import STRIDES_OF_LAYOUTS, laid_out

native = pytest.mark.skipif(
    "dr1_conv" not in native_operators(), reason=f"compares the compiled operator: {status().reason}"
)
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


@pytest.fixture(scope="module")
def device(device):
    """The kernel for GPUs is called wherever it can be, not only where it is the fastest."""
    with pytest.MonkeyPatch.context() as patch:
        if device.kernels == "cuda":
            patch.setattr(module, "_has_kernel", fits_a_gpu)
        yield device


def fits_a_gpu(x, weight, padding):
    outputs, channels, *kernel = weight.shape
    fits = padding == 1 and kernel == [3, 3] and channels > 0 and outputs % 16 == channels % 16 == 0
    return fits and x.dtype != torch.float64 and x.stride(1) == 1 and channels * x.element_size() <= 256


def tolerance_of(dtype, device):
    return TOLERANCE[dtype] if device.kernels == "cpu" else max(TOLERANCE[dtype], 5e-3)  # TF32


def make(n, c, o, h, w, dtype=torch.float64, device="cpu", channels_last=True, grad=False):
    """x, a, b, weight, bias; a and b are parts of the channels of one map."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    generator = torch.Generator().manual_seed(n + c + o + h + w)

    def random(*shape):
        values = torch.randn(*shape, generator=generator).to(device, dtype)
        return values.contiguous(memory_format=layout) if len(shape) == 4 else values

    a, b = random(n, c + o, h, w).split([c, o], dim=1)
    made = [random(n, c, h, w), a, b, random(o, c, 3, 3) / (9 * c) ** 0.5, random(o)]
    return [tensor.requires_grad_(grad) for tensor in made] if grad else made


def close(ours, theirs, tolerance):
    scale = theirs.abs().max().item() if theirs.numel() else 1.0
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance * max(scale, 1e-3))


@pytest.mark.parametrize("side", [1, 3])
def test_each_location_has_the_weights_of_rank_one_update(side):
    """Equations 5.2 and 5.3: W' = W ∘ b aᵀ, with a of where the input is taken and b of where the result goes."""
    x, a, b, _, bias = make(1, 3, 2, 4, 5)
    weight = torch.randn(2, 3, side, side, dtype=torch.float64)
    y = dr1_conv(x, a, b, weight, padding=side // 2)
    padded = F.pad(torch.cat([x, a], dim=1), [side // 2] * 4)
    for row in range(4):
        for column in range(5):
            patch, factors = padded[0, :, row : row + side, column : column + side].split(3)
            dynamic = weight * factors * b[0, :, row, column][:, None, None, None]
            torch.testing.assert_close(y[0, :, row, column], (dynamic * patch).sum(dim=(1, 2, 3)))


@pytest.mark.parametrize("channels", [3, 16])
def test_factors_of_one_and_none_leave_the_convolution_alone(channels):
    x, a, b, weight, bias = make(2, channels, 16, 14, 15)
    bare = F.conv2d(x, weight, bias, padding=1)
    torch.testing.assert_close(dr1_conv(x, None, None, weight, bias), bare)
    torch.testing.assert_close(dr1_conv(x, torch.ones_like(a), torch.ones_like(b), weight, bias), bare)


def test_it_is_linear_in_each_factor():
    x, a, b, weight, _ = make(1, 16, 32, 14, 15)
    other = torch.randn_like(a)
    both = dr1_conv(x, a + other, b, weight)
    torch.testing.assert_close(both, dr1_conv(x, a, b, weight) + dr1_conv(x, other, b, weight))
    torch.testing.assert_close(dr1_conv(x, a, 3 * b, weight), 3 * dr1_conv(x, a, b, weight))


@given(
    st.integers(0, 3),
    st.sampled_from([1, 8, 16, 32, 48, 64]),
    st.sampled_from([3, 16, 32, 48, 64]),
    st.integers(1, 30),
    st.integers(1, 30),
    st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16]),
    st.booleans(),
    st.sampled_from(["ab", "a", "b", ""]),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_any_shape_type_and_layout_agrees_with_the_reference(
    device, n, c, o, h, w, dtype, channels_last, factors, has_bias
):
    x, a, b, weight, bias = make(n, c, o, h, w, dtype, device, channels_last=channels_last)
    inputs = [x, a if "a" in factors else None, b if "b" in factors else None, weight, bias if has_bias else None]
    close(dr1_conv(*inputs), dr1_conv_reference(*inputs), tolerance_of(dtype, device))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 32, 32, 9, 18), (1, 64, 48, 17, 13), (1, 16, 64, 50, 8)])
def test_results_and_gradients_agree_with_the_reference(shape, dtype, device):
    ours, theirs = make(*shape, dtype, device, grad=True), make(*shape, torch.float64, device, grad=True)
    y, expected = dr1_conv(*ours), dr1_conv_reference(*theirs)
    tolerance = tolerance_of(dtype, device)
    grad = torch.randn_like(expected)
    pairs = [(y, expected)]
    pairs += zip(torch.autograd.grad(y, ours, grad.to(dtype)), torch.autograd.grad(expected, theirs, grad))
    for mine, wanted in pairs:
        assert (mine.double() - wanted).abs().max() <= tolerance * wanted.abs().max()


@pytest.mark.parametrize("layout", STRIDES_OF_LAYOUTS)
def test_on_a_gpu_any_alignment_agrees_with_the_reference(layout, gpu, monkeypatch):
    monkeypatch.setattr(module, "_has_kernel", fits_a_gpu)
    x, a, b, weight, bias = make(2, 16, 16, 5, 6, torch.float16, gpu)
    x, a, b = (laid_out(t, *STRIDES_OF_LAYOUTS[layout]) for t in (x, a, b))
    close(dr1_conv(x, a, b, weight, bias), dr1_conv_reference(x, a, b, weight, bias), TOLERANCE[torch.float16])


@native
@pytest.mark.parametrize("wanted", ["x", "a", "b", "weight", "bias", "ab"])
def test_gradients_asked_for_singly_are_those_asked_for_together(wanted):
    names = ["x", "a", "b", "weight", "bias"]
    everything = make(1, 16, 32, 14, 14, grad=True)
    together = torch.autograd.grad(dr1_conv(*everything).square().sum(), everything)
    chosen = [name for name in names if name in (wanted if wanted == "ab" else [wanted])]
    inputs = [t.detach().requires_grad_(name in chosen) for name, t in zip(names, make(1, 16, 32, 14, 14))]
    singly = torch.autograd.grad(dr1_conv(*inputs).square().sum(), [inputs[names.index(name)] for name in chosen])
    for name, grad in zip(chosen, singly):
        torch.testing.assert_close(grad, together[names.index(name)])


@native
def test_gradients_of_the_compiled_operator_pass_gradcheck(monkeypatch):
    monkeypatch.setattr(module, "_has_kernel", lambda *_: True)
    inputs = make(1, 16, 16, 3, 3, grad=True)
    assert torch.autograd.gradcheck(dr1_conv, inputs, fast_mode=True)


@native
def test_the_operator_passes_opcheck():
    x, a, b, weight, bias = make(2, 32, 16, 9, 8, torch.float32, grad=True)
    operator = torch.ops.adet_ext.dr1_conv.default
    torch.library.opcheck(operator, (x, a, weight, bias, False, b, None, 2), rtol=1e-2, atol=1e-2)
    fixed = [tensor.detach() for tensor in (x, a, weight)]
    torch.library.opcheck(operator, (b.detach(), None, fixed[2], None, True, *fixed[:2], 2), rtol=1e-2, atol=1e-2)


@native
def test_a_turned_kernel_is_the_transposed_convolution():
    _, _, g, weight, _ = make(2, 16, 32, 7, 9)
    ours, empty = torch.ops.adet_ext.dr1_conv(g, None, weight, None, True, None, None, 1)
    torch.testing.assert_close(ours, F.conv_transpose2d(g, weight, padding=1))
    assert empty.numel() == 0


@native
def test_gradients_of_gradients_are_refused():
    x, a, b, weight, bias = make(1, 16, 16, 14, 14, grad=True)
    (grad,) = torch.autograd.grad(dr1_conv(x, a, b, weight, bias).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        grad.sum().backward()


@native
def test_models_are_compiled_through_it_without_a_break():
    module = DR1Conv2d(32, 16).to(memory_format=torch.channels_last)
    x, a, b, *_ = make(1, 32, 16, 14, 15, torch.float32)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, a, b), module(x, a, b))
    compiled(x, a, b).sum().backward()
    ours = [p.grad for p in module.parameters()]
    module.zero_grad()
    module(x, a, b).sum().backward()
    for mine, wanted in zip(ours, [p.grad for p in module.parameters()]):
        torch.testing.assert_close(mine, wanted)


@native
def test_an_exported_model_calls_the_operator():
    module = DR1Conv2d(16, 16).eval().to(memory_format=torch.channels_last)
    x, a, b, *_ = make(1, 16, 16, 14, 15, torch.float32)
    program = torch.export.export(module, (x, a, b))
    assert "adet_ext.dr1_conv" in program.graph_module.code
    torch.testing.assert_close(program.module()(x, a, b), module(x, a, b))


@native
def test_nothing_but_nan_locations_is_touched_by_nan():
    x, a, b, weight, bias = make(1, 16, 16, 20, 20)
    a = a.clone()
    a[0, 3, 10, 10] = float("nan")
    broken = dr1_conv(x, a, b, weight, bias).isnan().any(dim=1)[0]
    # Tiles of 2 x 2 results share inputs, so NaN reaches whole tiles of the 3 x 3 neighbourhood and no further.
    assert broken[9:12, 9:12].all() and broken.sum() <= 16


@native
def test_what_does_not_fit_the_operator_is_named():
    x, a, b, weight, bias = make(1, 16, 32, 9, 8)
    call = torch.ops.adet_ext.dr1_conv
    with pytest.raises(RuntimeError, match=r"after must have shape \(1, 32, 9, 7\); got \(1, 32, 9, 8\)"):
        call(x[..., :7], None, weight, None, False, b, None, 1)
    with pytest.raises(RuntimeError, match="before must be float64; got float32"):
        call(x, a.float(), weight, None, False, None, None, 1)
    with pytest.raises(RuntimeError, match="weight must have channels by the 16"):
        call(x, None, weight[:5], None, False, None, None, 1)
    with pytest.raises(RuntimeError, match="results must be 1 to 2; got 3"):
        call(x, None, weight, None, False, None, None, 3)
    with pytest.raises(RuntimeError, match="weight must have channels by the 16"):  # once a division by zero
        call(x[:, :0], None, weight[:, :0], None, False, None, None, 1)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"a": lambda t: t[..., :-1]}, ValueError, "a must have shape"),
        ({"b": lambda t: t[:, :-1]}, ValueError, "b must have shape"),
        ({"weight": lambda t: t[:, :-1]}, ValueError, "weight must have shape .*; got .32, 15, 3, 3"),
        ({"bias": lambda t: t[:-1]}, ValueError, "bias must have shape .32,"),
        ({"x": lambda t: t[0]}, ValueError, "x must have shape"),
        ({"a": lambda t: t.float()}, TypeError, "a must be float64, the type of x; got float32"),
        ({"b": lambda t: t.long()}, TypeError, "b must be .*; got int64"),
        ({"weight": lambda t: [1.0]}, TypeError, "weight must be a tensor; got list"),
        ({"bias": lambda t: t.to("meta")}, ValueError, "bias must be on cpu; got meta"),
    ],
)
def test_bad_arguments_are_named(change, error, text):
    arguments = dict(zip(["x", "a", "b", "weight", "bias"], make(1, 16, 32, 9, 8)))
    for name, function in change.items():
        arguments[name] = function(arguments[name])
    with pytest.raises(error, match=text):
        dr1_conv(**arguments)


def test_the_module_keeps_the_size_and_has_the_names_of_a_convolution():
    module = DR1Conv2d(4, 6, kernel_size=5, bias=False)
    assert list(module.state_dict()) == ["weight"] and module(torch.zeros(1, 4, 7, 9)).shape == (1, 6, 7, 9)
    assert repr(module) == "DR1Conv2d(4, 6, kernel_size=5, bias=False)"
    with pytest.raises(ValueError, match="odd"):
        DR1Conv2d(4, 4, kernel_size=2)


def test_autocast_computes_in_the_type_that_it_is_asked_for():
    module = DR1Conv2d(16, 16)
    x = torch.randn(1, 16, 16, 16).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        assert module(x).dtype == torch.bfloat16
