"""The loss of resized logits: F.interpolate and F.cross_entropy's numbers and gradients, and what is refused."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from adet_ext.layers import extension
from adet_ext.layers.extension import native_operators, serves
from adet_ext.layers.resized_cross_entropy import resized_cross_entropy, resized_cross_entropy_reference

from .layouts import STRIDES_OF_LAYOUTS, laid_out

compiled = pytest.mark.skipif("resized_cross_entropy" not in native_operators(), reason="not built")
FLOAT, DOUBLE = torch.float32, torch.float64


def draw(images, classes, size, labels, *, ignored=255, share=0.2, scale=3.0, dtype=FLOAT, device="cpu"):
    """Return logits (images, classes, *size) that want a gradient, and labels with a share of ignored ones."""
    generator = torch.Generator().manual_seed(classes + sum(size))
    logits = torch.randn(images, classes, *size, generator=generator, dtype=DOUBLE) * scale
    found = torch.randint(0, classes, (images, *labels), generator=generator)
    found[torch.rand(found.shape, generator=generator) < share] = ignored
    return logits.to(device, dtype).requires_grad_(), found.to(device)


def assert_like_pytorch(logits, labels, ignored=255, tolerance=2e-6):
    """Compare with plain PyTorch in float64."""
    exact = logits.detach().double().requires_grad_()
    expected = resized_cross_entropy_reference(exact, labels, ignored=ignored)
    loss = resized_cross_entropy(logits, labels, ignored=ignored)
    assert loss.dtype == (DOUBLE if logits.dtype == DOUBLE else FLOAT)
    torch.testing.assert_close(loss.double(), expected, rtol=tolerance, atol=tolerance)
    (expected_by,), (by,) = torch.autograd.grad(expected, exact), torch.autograd.grad(loss, logits)
    assert by.dtype == logits.dtype
    largest = expected_by.abs().max().item() if by.numel() else 0
    torch.testing.assert_close(by.double(), expected_by, rtol=0, atol=4 * tolerance * largest + 1e-15)


SIZES = st.tuples(st.integers(1, 13), st.integers(1, 13))


@given(
    st.integers(0, 3), st.integers(1, 40), SIZES, SIZES, st.sampled_from([255, -1, 2]), st.sampled_from([FLOAT, DOUBLE])
)
@settings(max_examples=60, deadline=None)
def test_numbers_and_gradients_are_those_of_pytorch(device, images, classes, size, labels, ignored, dtype):
    logits, targets = draw(images, classes, size, labels, ignored=ignored, dtype=dtype, device=device)
    assert_like_pytorch(logits, targets, ignored)


@pytest.mark.parametrize("size", [(9, 14), (4, 1), (1, 5), (5, 3)])
@pytest.mark.parametrize("layout", STRIDES_OF_LAYOUTS)
def test_any_layout_in_memory_is_read(layout, size, device):
    logits, labels = draw(2, 19, size, (36, 56), device=device)
    logits = laid_out(logits.detach(), *STRIDES_OF_LAYOUTS[layout]).requires_grad_()
    assert_like_pytorch(logits, labels)
    assert_like_pytorch(logits, labels.transpose(1, 2).contiguous().transpose(1, 2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype, device):
    logits, labels = draw(2, 7, (5, 6), (20, 24), dtype=dtype, device=device)
    assert_like_pytorch(logits, labels, tolerance=2e-3 if dtype == torch.float16 else 1e-2)


def test_the_parts_of_many_blocks_are_added(device):
    logits, labels = draw(1, 2, (3, 2), (270, 260), device=device)
    assert_like_pytorch(logits, labels)


def test_it_is_a_mean_over_labeled_pixels(device):
    logits, labels = torch.randn(1, 3, 4, 4, device=device), torch.full((1, 4, 4), 255, device=device)
    assert resized_cross_entropy(logits, labels) == 0
    labels[0, 0, :2] = 1
    expected = F.cross_entropy(logits, labels, ignore_index=255)
    torch.testing.assert_close(resized_cross_entropy(logits, labels), expected)


def test_without_labels_loss_and_gradient_are_zero(device):
    logits, labels = draw(2, 5, (3, 4), (12, 16), share=2, device=device)
    loss = resized_cross_entropy(logits, labels)
    assert loss == 0 and not torch.autograd.grad(loss, logits)[0].any()


def test_confident_logits_stay_finite(device):
    logits, labels = draw(1, 6, (4, 5), (16, 20), scale=300, device=device)
    assert_like_pytorch(logits, labels)


@compiled
def test_logits_that_are_not_finite_spoil_the_loss(device):
    for value in (math.nan, math.inf):
        logits, labels = draw(1, 6, (4, 5), (16, 20), device=device)
        logits.data[0, 2, 1, 1] = value
        assert resized_cross_entropy(logits, labels).isnan()


def test_a_gradient_is_not_computed_where_none_is_wanted(device, monkeypatch):
    if not serves("resized_cross_entropy", torch.ones(1, device=device)):
        pytest.skip("not built")
    wanted = []
    operator = torch.ops.adet_ext.resized_cross_entropy
    seen = lambda *arguments: wanted.append(arguments[3]) or operator(*arguments)  # noqa: E731
    monkeypatch.setattr(torch.ops.adet_ext, "resized_cross_entropy", seen)
    logits, labels = draw(1, 3, (2, 2), (4, 4), device=device)
    values = [resized_cross_entropy(logits, labels).item(), resized_cross_entropy(logits.detach(), labels).item()]
    with torch.no_grad():
        values.append(resized_cross_entropy(logits, labels).item())
    assert wanted == [True, False, False] and len(set(values)) == 1


@compiled
def test_threads_change_no_bit():
    logits, labels = draw(3, 11, (30, 17), (120, 68))
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            loss = resized_cross_entropy(logits, labels)
            found.append((loss, *torch.autograd.grad(loss, logits)))
    finally:
        torch.set_num_threads(threads)
    for loss, by in found[1:]:
        assert torch.equal(loss, found[0][0]) and torch.equal(by, found[0][1])


@compiled
def test_pytorch_finds_the_operator_well_registered():
    logits, labels = draw(2, 5, (3, 4), (12, 9), dtype=DOUBLE)
    operator = torch.ops.adet_ext.resized_cross_entropy.default
    for wanted in (True, False):
        torch.library.opcheck(operator, (logits.detach(), labels, 255, wanted))
    torch.library.opcheck(operator, (logits, labels, 255, True))
    assert torch.autograd.gradcheck(lambda x: resized_cross_entropy(x, labels), logits)


@compiled
def test_second_derivatives_are_refused():
    logits, labels = draw(1, 3, (2, 2), (4, 4))
    with pytest.raises(RuntimeError, match="resized_cross_entropy has no second derivatives"):
        resized_cross_entropy(logits, labels).backward(create_graph=True)


@compiled
@pytest.mark.parametrize("label", [5, -1, 2**40])
def test_a_label_that_is_no_class_is_named_on_a_cpu(label):
    logits, labels = draw(1, 5, (3, 4), (12, 16))
    labels[0, 11, 3] = label
    with pytest.raises(RuntimeError, match=f"labels must be 0 to 4, or 255 to be ignored; got {label}"):
        resized_cross_entropy(logits, labels)


@pytest.mark.parametrize(
    ("logits", "labels", "words"),
    [
        (torch.ones(5, 3, 4), torch.zeros(1, 3, 4, dtype=torch.long), r"logits must have shape \(N, C, H, W\)"),
        (torch.ones(2, 5, 3, 4), torch.zeros(1, 3, 4, dtype=torch.long), r"labels must have shape \(2, H, W\)"),
        (torch.ones(1, 5, 3, 4), torch.zeros(1, 3, 4), "labels must be int64; got float32"),
        (torch.ones(1, 0, 3, 4), torch.zeros(1, 3, 4, dtype=torch.long), "logits must have classes and places"),
        (torch.ones(1, 5, 0, 4), torch.zeros(1, 3, 4, dtype=torch.long), "logits must have classes and places"),
    ],
)
def test_what_does_not_fit_is_named_alike(logits, labels, words):
    calls = [lambda: resized_cross_entropy(logits, labels)]
    if "resized_cross_entropy" in native_operators():
        calls.append(lambda: torch.ops.adet_ext.resized_cross_entropy(logits, labels, 255, False))
    for call in calls:
        with pytest.raises((TypeError, ValueError, RuntimeError), match=words):
            call()
    with extension.references_only(), pytest.raises((TypeError, ValueError), match=words):
        resized_cross_entropy(logits, labels)
