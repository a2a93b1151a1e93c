"""Panoptic BlendMask: the semantic branch beside the masks, with Detectron2's and AdelaiDet's names and numbers."""

import pytest
import torch

from adet_ext import load_config
from adet_ext.d2 import ENGINE
from adet_ext.d2.engine import HookBase
from adet_ext.d2.layers import ShapeSpec
from adet_ext.d2.modeling import SemSegFPNHead
from adet_ext.data.shapes import register_shapes
from adet_ext.engine.trainer import Trainer, check_classes
from adet_ext.errors import UserError
from adet_ext.modeling.mask import BlendMask

PANOPTIC = [
    *("MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"], "MODEL.PANOPTIC_FPN.COMBINE.ENABLED", True),
    *("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 4, "MODEL.SEM_SEG_HEAD.CONVS_DIM", 32),
    *("MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT", 16, "MODEL.FCOS.INFERENCE_TH_TEST", 0.0),
]


@pytest.fixture
def model(build):
    return build(*PANOPTIC)


@pytest.fixture
def panoptic_batch(batch):
    """The images with stuff: the upper half 1, the lower half 3, things 0, and an unlabeled row."""
    for x in batch:
        labels = torch.ones_like(x["basis_sem"])
        labels[x["height"] // 2 :] = 3
        labels[x["basis_sem"] > 0] = 0
        labels[0] = 255
        x["sem_seg"] = labels
    return batch


def test_the_semantic_loss_is_added_and_trains_every_parameter(model, panoptic_batch):
    losses = model(panoptic_batch)
    assert sorted(losses) == ["loss_fcos_cls", "loss_fcos_ctr", "loss_fcos_loc", "loss_mask", "loss_sem_seg"]
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()
    assert [k for k, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_the_semantic_loss_is_weighted_and_ignores_unlabeled_pixels(build, panoptic_batch):
    one = build(*PANOPTIC)(panoptic_batch)["loss_sem_seg"]
    half = build(*PANOPTIC, "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT", 0.5)(panoptic_batch)["loss_sem_seg"]
    torch.testing.assert_close(half, one / 2)
    for x in panoptic_batch:
        x["sem_seg"][1:] = 255
        x["sem_seg"][0] = 2
    only_first_rows = build(*PANOPTIC)(panoptic_batch)["loss_sem_seg"]
    assert torch.isfinite(only_first_rows) and only_first_rows != one


def with_own_loss(model):
    """Let the head's own ``losses`` be called, as that of a head of another class."""

    class Head(SemSegFPNHead):
        def losses(self, predictions, targets):
            return super().losses(predictions, targets)

    model.panoptic_module.__class__ = Head
    return model


def test_the_semantic_loss_is_that_of_the_head(model, panoptic_batch):
    found = model(panoptic_batch)["loss_sem_seg"]
    expected = with_own_loss(model)(panoptic_batch)["loss_sem_seg"]
    torch.testing.assert_close(found, expected)
    parameters = list(model.panoptic_module.parameters())
    gradients = [torch.autograd.grad(loss, parameters) for loss in (found, expected)]
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("own", [False, True])
def test_a_batch_without_labeled_pixels_has_no_semantic_loss(model, panoptic_batch, own):
    model = with_own_loss(model) if own else model
    for x in panoptic_batch:
        x["sem_seg"][:] = 255
    losses = model(panoptic_batch)
    assert losses["loss_sem_seg"] == 0
    sum(losses.values()).backward()
    gradients = [p.grad for p in model.panoptic_module.parameters()]
    assert all(g is not None and not g.any() for g in gradients)


def test_parameters_have_the_names_of_the_public_release(model):
    names = {name for name, _ in model.named_parameters() if name.startswith("panoptic_module.")}
    convs = ["p2.0", "p3.0", "p4.0", "p4.2", "p5.0", "p5.2", "p5.4"]
    expected = {f"{conv}.{part}" for conv in convs for part in ("weight", "norm.weight", "norm.bias")}
    assert names == {f"panoptic_module.{n}" for n in expected | {"predictor.weight", "predictor.bias"}}


def test_results_are_at_the_size_asked_for(model, panoptic_batch):
    model.eval()
    panoptic_batch[1].update(height=50, width=70)
    with torch.no_grad():
        results = model(panoptic_batch)
    for result, size in zip(results, ((96, 128), (50, 70))):
        ids, segments = result["panoptic_seg"]
        assert ids.shape == size and ids.dtype == torch.int32
        assert result["sem_seg"].shape == (4, *size)
        assert result["instances"].pred_masks.shape[1:] == size
        assert {s["id"] for s in segments} == set(ids.unique().tolist()) - {0}


def test_the_rest_of_a_batch_and_padding_do_not_matter(model, panoptic_batch):
    model.eval()
    with torch.no_grad():
        together = model(panoptic_batch)
        alone = model(panoptic_batch[:1])
    torch.testing.assert_close(together[0]["sem_seg"], alone[0]["sem_seg"], atol=1e-4, rtol=1e-4)


@pytest.mark.needs_detectron2
@pytest.mark.skipif(ENGINE != "detectron2", reason="Detectron2's merging takes Detectron2's Instances")
@pytest.mark.usefixtures("merging")
def test_the_panoptic_map_is_that_of_detectron2_s_steps(model, panoptic_batch):
    from detectron2.modeling.meta_arch.panoptic_fpn import combine_semantic_and_instance_outputs as combine
    from detectron2.modeling.postprocessing import sem_seg_postprocess

    model.eval()
    panoptic_batch[1].update(height=50, width=70)
    with torch.no_grad():
        results = model(panoptic_batch)
        images = model.preprocess_image(panoptic_batch)
        logits, _ = model.panoptic_module(model.backbone(images.tensor))
    for i, (x, result) in enumerate(zip(panoptic_batch, results)):
        scores = sem_seg_postprocess(logits[i], images.image_sizes[i], x["height"], x["width"])
        torch.testing.assert_close(result["sem_seg"], scores, atol=1e-5, rtol=1e-5)
        ids, segments = combine(result["instances"], result["sem_seg"].argmax(0), 0.5, 16, 0.5)
        assert torch.equal(result["panoptic_seg"][0], ids) and result["panoptic_seg"][1] == segments


@pytest.mark.needs_detectron2
@pytest.mark.parametrize("norm, stride", [("GN", 4), ("", 4), ("BN", 8)])
def test_the_head_is_detectron2_s_number_for_number(norm, stride):
    from detectron2.layers import ShapeSpec as TheirSpec
    from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead as Theirs

    from adet_ext.d2.embedded.modeling.semantic_seg import SemSegFPNHead as Ours

    levels = {"p5": 32, "p3": 8, "p4": 16, **({"p2": 4} if stride == 4 else {})}
    options = {"num_classes": 5, "conv_dims": 32, "common_stride": stride, "loss_weight": 0.3, "norm": norm}
    heads = []
    for kind, spec in ((Ours, ShapeSpec), (Theirs, TheirSpec)):
        torch.manual_seed(0)
        shapes = {name: spec(channels=16, stride=s) for name, s in levels.items()}
        heads.append(kind(shapes, ignore_value=255, **options))
    ours, theirs = heads
    state = theirs.state_dict()
    assert list(ours.state_dict()) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in ours.state_dict().items())  # the same seed
    features = {name: torch.randn(2, 16, 64 // s, 96 // s) for name, s in levels.items()}
    labels = torch.randint(0, 5, (2, 64, 96))
    labels[:, :5] = 255
    (_, our_losses), (_, their_losses) = ours(features, labels), theirs(features, labels)
    assert list(our_losses) == list(their_losses)
    torch.testing.assert_close(our_losses["loss_sem_seg"], their_losses["loss_sem_seg"])
    ours.eval(), theirs.eval()
    with torch.no_grad():
        torch.testing.assert_close(ours(features)[0], theirs(features)[0])


def test_a_head_without_features_is_refused():
    with pytest.raises(ValueError):
        SemSegFPNHead({}, num_classes=2, conv_dims=8, common_stride=4)


def test_padding_that_does_not_fit_the_semantic_head_raises(build):
    with pytest.raises(ValueError, match="SIZE_DIVISIBILITY must be 0 or a multiple of 32.*; got 4"):
        build(*PANOPTIC, "MODEL.BACKBONE.SIZE_DIVISIBILITY", 4)


def test_half_a_panoptic_model_is_refused(model):
    with pytest.raises(ValueError, match="come together"):
        BlendMask(
            backbone=model.backbone, proposal_generator=model.proposal_generator, pixel_mean=[0.0], pixel_std=[1.0],
            basis_module=model.basis_module, blender=model.blender, in_channels=64, semantic_head=torch.nn.Identity(),
        )  # fmt: skip


def test_missing_semantic_labels_raise_with_a_remedy(model, batch):
    with pytest.raises(ValueError, match="must have semantic labels.*prepare-panoptic"):
        model(batch)


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["DATASETS.TRAIN", "('shapes_train',)"], "shapes_train has no stuff"),
        (["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "54"], "4 semantic classes .*, but MODEL.SEM_SEG_HEAD.NUM_CLASSES is 54"),
    ],
)
def test_data_that_do_not_fit_are_refused_before_training(overrides, message):
    with pytest.raises(UserError, match=message):
        check_classes(load_config("demo/shapes_panoptic_R_18.yaml", overrides))
    check_classes(load_config("demo/shapes_panoptic_R_18.yaml"))


class KeepLosses(HookBase):
    def __init__(self):
        self.kept: list[dict[str, float]] = []

    def after_step(self):
        self.kept.append({k: v for k, (v, _) in self.trainer.storage.latest().items() if k.startswith("loss")})


def test_thirty_demo_iterations_lower_the_losses(tmp_path):
    register_shapes("few_panoptic", num_images=8, size=96, seed=11, panoptic=True)
    data = ["DATASETS.TRAIN", "('few_panoptic',)", "DATASETS.TEST", "()", "INPUT.MIN_SIZE_TEST", "96"]
    quick = ["SOLVER.MAX_ITER", "30", "SOLVER.WARMUP_ITERS", "5", "SOLVER.IMS_PER_BATCH", "4"]
    small = ["INPUT.MIN_SIZE_TRAIN", "(96,)", "OUTPUT_DIR", str(tmp_path)]
    cfg = load_config("demo/shapes_panoptic_R_18.yaml", [*data, *quick, *small])
    trainer, losses = Trainer(cfg), KeepLosses()
    trainer.register_hooks([losses])
    trainer.train()
    first, last = losses.kept[:5], losses.kept[-5:]
    assert len(losses.kept) == 30
    for name in ("loss_sem_seg", "loss_mask", "loss_fcos_cls"):
        assert sum(x[name] for x in last) < 0.95 * sum(x[name] for x in first), name
    cfg.DATASETS.TEST = ("few_panoptic",)
    results = Trainer.test(cfg, trainer.model)
    assert set(results) == {"bbox", "segm", "sem_seg", "panoptic_seg"}
    assert results["panoptic_seg"]["PQ_st"] > 0
    written = sorted(p.name for p in (tmp_path / "inference" / "predictions").iterdir())
    assert written == [f"{i:06d}.png" for i in range(8)]
