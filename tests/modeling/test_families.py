"""What every family of segmenters has to bear: half precision, many detections, distributed training."""

import functools
import inspect

import pytest
import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.parallel import DistributedDataParallel

from adet_ext.errors import UserError
from adet_ext.modeling import BlendMask, DR1Mask, OneStageDetector, SmalMask, SmalMask2
from adet_ext.modeling.fcos.inference import Detections

from .dr1 import PANOPTIC, build_dr1, with_stuff
from .host_waits import HostCopies, host_traffic, serve_fake_gpus

PYRAMID = ("MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"], "MODEL.SEM_SEG_HEAD.CONVS_DIM", 32)
FAMILIES = {
    "SmalMask": ("MODEL.META_ARCHITECTURE", "SmalMask", "MODEL.SMALMASK.NUM_CONVS", 1),
    "SmalMask2": ("MODEL.META_ARCHITECTURE", "SmalMask2"),
    "DR1Mask": (),
    "panoptic DR1Mask": (*PANOPTIC, "MODEL.DR1MASK.ATTENTION", "vector"),
    "BlendMask": ("MODEL.BASIS_MODULE.NORM", "BN"),
    "panoptic BlendMask": (*PANOPTIC, *PYRAMID, "MODEL.BASIS_MODULE.NORM", "BN"),
}


@pytest.fixture(params=list(FAMILIES))
def make(request, build):
    return functools.partial(build_dr1 if "DR1Mask" in request.param else build, *FAMILIES[request.param])


def test_half_precision_trains_every_parameter_and_predicts(make, batch):
    model = make("MODEL.FCOS.INFERENCE_TH_TEST", 0.0)
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(with_stuff(batch))
    assert all(torch.isfinite(v) and v.dtype == torch.float32 for v in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        result = model(batch)[0]
    assert len(result["instances"]) > 0 and result["instances"].pred_masks.shape[1:] == (96, 128)


def test_a_thousand_detections_get_their_masks(make, batch):
    model = make().eval()
    images = model.preprocess_image(batch[:1])
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(1, 1000, 2, generator=generator) * torch.tensor([100.0, 70])
    boxes = torch.cat([corner, corner + 1 + torch.rand(1, 1000, 2, generator=generator) * 26], dim=2)
    with torch.no_grad():
        features = model.backbone(images.tensor)
        output, locations = model.proposal_generator.head_output(features)
        index = torch.randint(0, len(locations.level), (1, 1000), generator=generator)
        scores, classes = torch.linspace(1, 0.01, 1000)[None], index % 3
        detections = Detections(boxes, scores, classes, index, torch.ones_like(index, dtype=torch.bool))
        fields, extras = model.branch_fields(features, output, detections)
        instances = detections.to_instances(images.image_sizes, locations, **fields)
        result = model.postprocess(instances, extras, batch[:1], images.image_sizes)[0]
    assert result["instances"].pred_masks.shape == (1000, 96, 128)
    if "panoptic_seg" in result:
        ids, segments = result["panoptic_seg"]
        assert set(ids.unique().tolist()) - {0} == {s["id"] for s in segments}


@pytest.mark.parametrize("make", ["panoptic DR1Mask", "panoptic BlendMask"], indirect=True)
@pytest.mark.parametrize("label", [-1, 3, 254])
def test_a_semantic_label_that_is_no_class_is_refused_with_its_file(make, batch, label):
    full = with_stuff(batch)
    full[1]["sem_seg"][50, 60] = label
    full[1]["file_name"] = "street.png"
    with pytest.raises(UserError, match=f"street.png.* must be 0 to 2, or 255 for no class; got {label}"):
        make()(full)


@pytest.mark.parametrize("make", ["BlendMask", "DR1Mask"], indirect=True)
def test_a_basis_module_without_features_is_refused(make):
    with pytest.raises(ValueError, match="MODEL.BASIS_MODULE.IN_FEATURES must name features"):
        make("MODEL.BASIS_MODULE.IN_FEATURES", [])


@pytest.mark.parametrize("operators", ["compiled", "references"])
def test_inference_on_a_gpu_copies_nothing_from_the_host_and_waits_for_nothing(make, operators, monkeypatch):
    if operators == "compiled":
        serve_fake_gpus(monkeypatch)
    assert host_traffic(make().eval()) == ([], [])


def test_the_counter_of_host_copies_counts():
    with FakeTensorMode(), HostCopies() as copies:
        torch.zeros(2, device="cuda") + torch.tensor([1, 2], device="cuda")
        torch.full((2,), 3.0, device="cuda")
    assert len(copies.places) == 1 and "test_families.py" in copies.places[0]


@pytest.mark.parametrize("family", [OneStageDetector, BlendMask, DR1Mask, SmalMask, SmalMask2])
def test_every_family_lists_its_arguments(family):
    kinds = {parameter.kind for parameter in inspect.signature(family.__init__).parameters.values()}
    assert inspect.Parameter.VAR_KEYWORD not in kinds


@pytest.fixture
def process_group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_gloo_available(), reason="PyTorch without gloo")
def test_distributed_training_gets_all_gradients(make, batch, process_group):
    """DistributedDataParallel refuses the next forward pass where a parameter had no part in the last one."""
    model = DistributedDataParallel(make(), broadcast_buffers=False)
    full = with_stuff(batch)
    empty = [{**x, "instances": x["instances"][[]]} for x in full]
    for inputs in (full, empty, [empty[0], full[1]], full):
        sum(model(inputs).values()).backward()
