"""The serving predictor: the results of the ordinary one, in frames of few sizes, without waiting for the device."""

import numpy as np
import pytest
import torch

from adet_ext.engine.predictor import Predictor
from adet_ext.errors import UserError
from adet_ext.export import serving
from adet_ext.export.serving import ServingPredictor
from adet_ext.export.wrapper import TensorModel, resize_images

from .host_waits import HostWaits
from .tiny import FAMILIES, SIZE, build, config, images

BUCKETS = ((64, 96), (128, 96))
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def pictures(*sizes):
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def made(family, *overrides, **options):
    words = ["INPUT.MIN_SIZE_TEST", 0, *overrides]
    cfg, model = config(family, *words), build(family, *words)
    return Predictor(cfg, model), ServingPredictor(cfg, model, **{"buckets": BUCKETS, "batch": 2, **options})


def assert_equal_results(mine, theirs):
    assert len(mine["instances"]) == len(theirs["instances"]) > 0
    for name, atol in (("pred_boxes", 1e-3), ("scores", 1e-5)):
        found, expected = (getattr(x["instances"], name) for x in (mine, theirs))
        found, expected = (getattr(x, "tensor", x).cpu() for x in (found, expected))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=atol)
    found, expected = (x["instances"].pred_masks.cpu() for x in (mine, theirs))
    assert found.shape == expected.shape and (found != expected).float().mean() < 1e-3


def test_requests_of_several_sizes_get_the_results_of_the_ordinary_predictor():
    ordinary, serve = made("panoptic BlendMask")
    serve.warm_up(rounds=1)
    given = pictures((64, 90), (128, 70), (60, 96), (40, 80))  # three in the first bucket, two of them in one pass
    expected = [ordinary([given[0], given[2]]), ordinary([given[1]]), ordinary([given[3], given[0]])]
    expected = [expected[0][0], expected[1][0], expected[0][1], expected[2][0]]
    for mine, theirs in zip(serve(given), expected):
        assert_equal_results(mine, theirs)
        assert (mine["panoptic_seg"][0] == theirs["panoptic_seg"][0]).float().mean() > 0.999


def test_images_go_into_the_smallest_bucket_that_holds_them():
    serve = made("FCOS")[1]
    assert [serve.bucket(*x) for x in ((64, 96), (65, 10), (128, 96))] == [(64, 96), (128, 96), (128, 96)]
    assert serve.bucket(64, 97) is None
    assert serve.target(64, 192) == (32, 96)  # no bucket holds it: halved
    assert serve(pictures((64, 192)))[0]["instances"].image_size == (64, 192)
    with pytest.raises(UserError, match="must fit into a bucket; got 64 x 192"):
        serve.as_it_is(*pictures((64, 192)))


def test_images_are_resized_as_the_config_says():
    serve = made("FCOS", "INPUT.MIN_SIZE_TEST", 48, "INPUT.MAX_SIZE_TEST", 96)[1]
    assert serve.target(96, 120) == (48, 60) and serve.target(300, 100) == (96, 32)
    prepared = serve.prepare(*pictures((96, 120)))
    assert prepared["image"].shape == (3, 48, 60) and prepared["image"].dtype == torch.uint8


def test_resizing_tensors_rounds_as_resizing_pictures_does():
    serve = made("FCOS", "INPUT.MIN_SIZE_TEST", 48, "INPUT.MAX_SIZE_TEST", 96)[1]
    (picture,) = pictures((96, 120))
    tensor = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
    found = resize_images(tensor, (48, 60))[0].permute(1, 2, 0)
    assert (found - torch.from_numpy(serve.resize(picture).copy()).float()).abs().max() <= 1


def test_the_network_gets_images_channels_last():
    serve = made("FCOS")[1]
    packed, sizes = serve._packed([serve.prepare(x)["image"] for x in pictures((60, 90))], [(60, 90)], (64, 96))
    assert packed.is_contiguous(memory_format=torch.channels_last) and sizes.tolist() == [[60, 90]]
    assert packed[0, :, :60, :90].any() and not packed[0, :, 60:].any()


@pytest.mark.parametrize("family", list(FAMILIES))
def test_the_host_waits_for_nothing_between_images_and_results(family):
    inputs = images((64, 90), (50, 96))
    model = TensorModel(build(family)).eval()
    with torch.inference_mode(), HostWaits() as waits:
        model(*inputs)
    assert not waits.found


def test_waits_are_counted():
    x = torch.tensor([1.0, 0.0])
    with HostWaits() as waits:
        x[0].item(), x[x > 0], x.nonzero()
    assert waits.found == ["_local_scalar_dense", "index", "nonzero"]


@pytest.mark.parametrize("family", ["BlendMask", "DR1Mask factored", "SmalMask"])
def test_a_network_in_bfloat16_finds_about_the_same(family, monkeypatch):
    monkeypatch.setattr(serving, "computes_in_bfloat16", lambda: True)
    ordinary, serve = made(family, precision="auto")
    assert serve.precision == "bfloat16"
    (given,) = pictures(SIZE)
    mine, theirs = serve(given)["instances"], ordinary(given)["instances"]
    count = min(len(mine), len(theirs))
    assert count > 0 and (mine.scores[:count] - theirs.scores[:count]).abs().max() < 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "bfloat16"}, "must be float32 or auto on this CPU"),
        ({"precision": "half"}, "precision must be float32, bfloat16, float16, auto; got half"),
        ({"precision": "float16"}, "must be float32, bfloat16 or auto on a CPU"),
        ({"buckets": [(64, 97)]}, "buckets must be of two multiples of 32 from 64 on; got 64 x 97"),
        ({"buckets": []}, "one size or more"),
        ({"batch": 0}, "batch must be 1 or more"),
        ({"threads": 0}, "threads must be 1 or more"),
    ],
)
def test_what_cannot_be_is_refused(options, message, monkeypatch):
    monkeypatch.setattr(serving, "computes_in_bfloat16", lambda: False)
    with pytest.raises(UserError, match=message):
        made("FCOS", **options)


@NEEDS_GPU
@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_cuda_graphs_replay_the_network(precision):
    ordinary, serve = made("BlendMask", "MODEL.DEVICE", "cuda", precision=precision)
    serve.warm_up()
    assert len(serve._graphs.recorded) == 4  # two buckets, one or two images
    given = pictures((64, 90), (128, 70), (60, 96))
    results, again = serve(given), serve(given)
    assert len(serve._graphs.recorded) == 4
    for mine, once_more in zip(results, again):
        assert torch.equal(mine["instances"].scores, once_more["instances"].scores)
    if precision == "float32":
        assert_equal_results(results[1], ordinary(given[1]))


@NEEDS_GPU
@pytest.mark.parametrize("family", list(FAMILIES))
def test_the_host_waits_for_no_gpu(family):
    serve = made(family, "MODEL.DEVICE", "cuda")[1]
    inputs = [x.cuda() for x in images((64, 90), (50, 96))]
    with serve.inference():
        serve.tensors(*inputs)  # recorded
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            serve._network(*inputs)
            serve.tensors(*inputs)
        finally:
            torch.cuda.set_sync_debug_mode("default")
