"""RoIPred, sparse and dense: one predictor, and the deformable convolution it stands for."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torchvision.ops import deform_conv2d

from adet_ext.layers.extension import serves
from adet_ext.layers.roi_pred import location_boxes, roi_pred, roi_pred_dense

NATIVE = serves("roi_sample", torch.zeros(1))


def make(n=2, c=3, o=4, kernel=(3, 3), dtype=torch.float32, channels_last=False, stride=16, feature_stride=8):
    """A feature of 12 x 10 cells, distances at the locations of a map with ``stride`` over it, a predictor."""
    g = torch.Generator().manual_seed(0)
    ratio = stride // feature_stride
    feature = torch.randn(n, c, 12, 10, generator=g, dtype=dtype)
    ltrb = torch.rand(n, 4, 12 // ratio, 10 // ratio, generator=g, dtype=dtype) * 50
    weight, bias = torch.randn(o, c, *kernel, generator=g, dtype=dtype), torch.randn(o, generator=g, dtype=dtype)
    if channels_last:
        feature, weight = (t.to(memory_format=torch.channels_last) for t in (feature, weight))
    return feature, weight, bias, ltrb


def offsets(ltrb, kernel, stride, feature_stride):
    """Equations 3.2 and 3.3 in the coordinates of torchvision's deformable convolution, padded by half a kernel."""
    kh, kw = kernel
    left, top, right, bottom = ltrb.unbind(1)
    i, j = torch.arange(kw).to(ltrb), torch.arange(kh).to(ltrb)
    ox = (left + right)[:, None] * (2 * i + 1)[:, None, None] / (2 * kw) - left[:, None]  # (N, kw, H, W), pixels
    oy = (top + bottom)[:, None] * (2 * j + 1)[:, None, None] / (2 * kh) - top[:, None]
    # Location x is cell x * stride / feature_stride of the feature, but for the shift between the two's cell centres.
    shift = (stride / feature_stride - 1) / 2
    dx = ox / feature_stride + shift - (i - kw // 2)[:, None, None]
    dy = oy / feature_stride + shift - (j - kh // 2)[:, None, None]
    n, _, h, w = ltrb.shape
    pairs = torch.stack(
        [dy[:, :, None].expand(n, kh, kw, h, w), dx[:, None].expand(n, kh, kw, h, w)], dim=3
    )  # (N, kh, kw, 2, H, W)
    return pairs.flatten(1, 3)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("stride, kernel", [(8, (3, 3)), (16, (5, 5)), (16, (3, 5))])
def test_dense_is_a_deformable_convolution_with_the_offsets_of_the_boxes(stride, kernel, channels_last):
    feature, weight, bias, ltrb = make(kernel=kernel, dtype=torch.float64, channels_last=channels_last, stride=stride)
    ours = roi_pred_dense(feature, weight, bias, ltrb, stride=stride, feature_stride=8, border="zeros", chunk=7)
    theirs = deform_conv2d(
        feature.contiguous(),
        offsets(ltrb, kernel, stride, 8),
        weight.contiguous(),
        bias,
        stride=stride // 8,
        padding=(kernel[0] // 2, kernel[1] // 2),
    )
    torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=0)


@pytest.mark.parametrize("channels_last_weight", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_sparse_is_dense_where_it_is_evaluated(channels_last, channels_last_weight):
    feature, weight, bias, ltrb = make(dtype=torch.float64, channels_last=channels_last)
    if channels_last_weight:
        weight = weight.contiguous(memory_format=torch.channels_last)
    dense = roi_pred_dense(feature, weight, bias, ltrb, stride=16, feature_stride=8)
    boxes = location_boxes(ltrb, 16)
    image, y, x = torch.tensor([[0, 1, 1, 0], [5, 0, 3, 2], [4, 1, 0, 2]])
    other = torch.zeros(2, 3, 4, 4, dtype=torch.float64)
    sparse = roi_pred(
        [other, feature], weight, bias, boxes[image, y, x], image, torch.ones(4, dtype=torch.int64), strides=[32, 8]
    )
    torch.testing.assert_close(sparse, dense[image, :, y, x], atol=1e-9, rtol=0)


def test_a_predictor_as_large_as_its_box_in_cells_is_a_convolution():
    # Boxes of 3 x 3 cells around each location: the points are the 3 x 3 neighbours.
    feature, weight, bias, _ = make(dtype=torch.float64)
    ltrb = torch.full((2, 4, 12, 10), 1.5 * 8, dtype=torch.float64)
    ours = roi_pred_dense(feature, weight, bias, ltrb, stride=8, feature_stride=8, border="zeros")
    theirs = torch.nn.functional.conv2d(feature, weight, bias, padding=1)
    torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=0)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("chunk", [7, None])
def test_the_chunks_gradients_are_those_of_the_whole(chunk, channels_last):
    tensors = make(dtype=torch.float64, channels_last=channels_last)
    results = []
    for dense in (True, False):
        feature, weight, bias, ltrb = (t.clone().requires_grad_() for t in tensors)
        if dense:
            out = roi_pred_dense(feature, weight, bias, ltrb, stride=16, feature_stride=8, chunk=chunk)
        else:
            n, _, h, w = ltrb.shape
            image = torch.arange(n).repeat_interleave(h * w)
            boxes = location_boxes(ltrb, 16).flatten(0, 2)
            out = roi_pred([feature], weight, bias, boxes, image, torch.zeros_like(image), strides=[8])
            out = out.view(n, h, w, -1).permute(0, 3, 1, 2)
        results.append([out, *torch.autograd.grad(out.square().sum(), [feature, weight, bias, ltrb])])
    for ours, theirs in zip(*results):
        torch.testing.assert_close(ours, theirs, atol=1e-8, rtol=1e-8)


def test_gradients_are_computed_for_what_requires_them_alone():
    feature, weight, bias, ltrb = make()
    out = roi_pred_dense(feature, weight.requires_grad_(), None, ltrb, stride=16, feature_stride=8)
    out.sum().backward()
    assert weight.grad is not None and feature.grad is None and ltrb.grad is None


def test_the_dense_form_keeps_neither_offsets_nor_samples():
    feature, weight, bias, ltrb = make(c=16, kernel=(5, 5))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        roi_pred_dense(feature.requires_grad_(), weight, bias, ltrb, stride=16, feature_stride=8, chunk=5)
    locations = ltrb[:, 0].numel()
    assert max(saved) <= max(feature.numel(), weight.numel(), ltrb.numel()) < 16 * 25 * locations


def test_under_autocast_the_predictor_runs_in_its_type():
    feature, weight, bias, ltrb = make()
    expected = roi_pred_dense(feature, weight, bias, ltrb, stride=16, feature_stride=8)
    with torch.autocast("cpu", torch.bfloat16):
        out = roi_pred_dense(feature.requires_grad_(), weight, bias, ltrb, stride=16, feature_stride=8)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), expected, atol=0.5, rtol=0.05)
    out.float().sum().backward()
    assert feature.grad.dtype == torch.float32


def test_no_images_and_no_boxes_give_empty_predictions():
    feature, weight, bias, ltrb = make()
    assert roi_pred_dense(feature[:0], weight, bias, ltrb[:0], stride=16, feature_stride=8).shape == (0, 4, 6, 5)
    none = torch.zeros(0, dtype=torch.int64)
    assert roi_pred([feature], weight, bias, torch.zeros(0, 4), none, none, strides=[8]).shape == (0, 4)


def test_a_compiled_predictor_gives_the_same_numbers():
    feature, weight, bias, ltrb = make()
    f = torch.compile(lambda x, d: roi_pred_dense(x, weight, bias, d, stride=16, feature_stride=8), backend="eager")
    torch.testing.assert_close(
        f(feature, ltrb), roi_pred_dense(feature, weight, bias, ltrb, stride=16, feature_stride=8)
    )


@pytest.mark.parametrize(
    "name, change, error",
    [
        ("weight", lambda t: t[:, :1], ValueError),
        ("weight", lambda t: t.double(), TypeError),
        ("bias", lambda t: t[:1], ValueError),
        ("ltrb", lambda t: t[:, :3], ValueError),
        ("feature", lambda t: t[0], ValueError),
        ("chunk", lambda t: 0, ValueError),
        ("border", lambda t: "edge", ValueError),
    ],
)
def test_a_wrong_argument_is_named(name, change, error):
    args = dict(zip(("feature", "weight", "bias", "ltrb"), make()), chunk=None, border="clamp")
    args[name] = change(args[name])
    with pytest.raises(error, match=name):
        roi_pred_dense(**args, stride=16, feature_stride=8)


def peak_bytes(function):
    """The most bytes of tensors that ``function`` holds at once on the CPU, its results included."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = function()
    del result
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def test_the_dense_forms_memory_is_the_result_and_a_few_chunks():
    feature, weight, bias, _ = make(c=64, kernel=(5, 5), o=2)
    ltrb = torch.rand(1, 4, 64, 64) * 50
    chunk = 64 * 25 * 50 * 4  # bytes of samples
    needed = peak_bytes(
        lambda: roi_pred_dense(feature[:1], weight, bias, ltrb, stride=8, feature_stride=8, chunk=50),
    )
    boxes_and_result = 64 * 64 * (4 + 4 + 2) * 4
    samples = 64 * 25 * 64 * 64 * 4
    copies = 3 if NATIVE else 8  # the reference holds corners and sums
    assert chunk < needed < boxes_and_result + copies * chunk + 100_000 < samples
