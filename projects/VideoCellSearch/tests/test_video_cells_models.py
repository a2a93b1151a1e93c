"""The networks: parameters, shapes, what runs on which frame, and what goes from frame to frame."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torchvision
from torch import nn
from video_cells import segmentor
from video_cells.cell import DynamicCell
from video_cells.decoder import StaticDecoder
from video_cells.decoder_genotype import DecoderGenotype
from video_cells.genotype import CellGenotype, load_genotype

from adet_ext.d2.modeling import build_model
from adet_ext.engine.checkpoint import AdetCheckpointer
from adet_ext.errors import UserError


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("name", "classes", "auxiliary", "expected"),
    [
        ("arch0", 21, False, 2_629_909),
        ("arch1", 21, False, 2_810_133),
        ("arch2", 11, False, 2_847_371),
        ("arch2", 19, False, 2_851_987),
        ("arch2", 21, False, 2_853_141),
        ("arch2", 11, True, 3_348_332),
        ("arch2", 19, True, 3_366_796),
    ],
)
def test_the_static_networks_have_the_published_parameters(name, classes, auxiliary, expected):
    with torch.device("meta"):
        decoder = StaticDecoder(
            genotype=load_genotype(name, DecoderGenotype),
            in_channels=[24, 32, 96, 320],
            num_classes=classes,
            auxiliary=auxiliary,
        )
    assert 1_812_800 + count(decoder) == expected


def test_the_encoder_has_its_parameters_and_taps(tiny_model):
    model = tiny_model().eval()
    assert count(model.backbone) == 1_812_800
    features = model.encode(torch.zeros(1, 3, 70, 90))
    assert [tuple(x.shape) for x in features] == [(1, 24, 18, 23), (1, 32, 9, 12), (1, 96, 5, 6), (1, 320, 3, 3)]
    dec, pred = model.decoder(features)
    assert dec.shape == (1, 8, 9, 12) and pred.shape == (1, 3, 9, 12)


def test_a_context_module_changes_what_the_decoder_gives_and_nothing_before(tiny_model):
    plain = tiny_model().eval()
    model = tiny_model("MODEL.CONTEXT.NAME", "GloRe", "MODEL.CONTEXT.NODES", "4").eval()
    added = model.state_dict().keys() - plain.state_dict().keys()
    assert added and all(name.startswith("decoder.context.") for name in added)
    model.load_state_dict(plain.state_dict(), strict=False)
    for parameter in model.decoder.context.parameters():
        torch.nn.init.constant_(parameter, 0.1)
    features = plain.encode(torch.rand(1, 3, 64, 96))
    (dec, pred), (changed, found) = plain.decoder(features), model.decoder(features)
    torch.testing.assert_close(changed, model.decoder.context(dec))
    assert found.shape == pred.shape and not torch.equal(changed, dec)


def test_adapters_and_classifier_of_the_cell_have_their_parameters():
    cell = CellGenotype.from_numbers([[0, 1, 4, 4, 5]])
    found = DynamicCell(genotype=cell, in_channels=[320, 64, 32, 96, 320], num_classes=19)
    assert count(found.adapters) == 53_888 and count(found.classifier) == 10_963
    assert count(found) == 53_888 + 10_963 + 64 * 64 + 2 * 64


def test_the_deepest_cells_of_cityscapes_stay_within_the_published_limit():
    rows = [[2, 2, 5, 5, 2], *([n, n, 5, 5, 2] for n in (5, 6, 7))]
    found = DynamicCell(genotype=CellGenotype.from_numbers(rows), in_channels=[320, 64, 32, 96, 320], num_classes=19)
    assert 3_400_000 < 2_851_987 + count(found) < 3_500_000  # all deformable: just above
    rows = [[2, 2, 5, 0, 2], *([n, n, 5, 0, 2] for n in (5, 6, 7))]
    found = DynamicCell(genotype=CellGenotype.from_numbers(rows), in_channels=[320, 64, 32, 96, 320], num_classes=19)
    assert 2_851_987 + count(found) < 3_400_000


def test_a_clip_gives_a_map_of_every_frame_and_streaming_the_same(tiny_model, cell_file, clip):
    model = tiny_model("MODEL.VIDEO.CELL", cell_file()).eval()
    with torch.no_grad():
        (found,) = model([clip()])
        assert [x["sem_seg"].shape for x in found] == [(3, 64, 96)] * 3
        state = None
        for frame, expected in zip(clip()["frames"], found):
            scores, state = model.step(frame, state)
            torch.testing.assert_close(scores, expected["sem_seg"])
        (resized,) = model([{**clip(), "height": 30, "width": 50}])
    assert resized[2]["sem_seg"].shape == (3, 30, 50) and resized[2]["sem_seg"].dtype == torch.float32


def test_the_static_decoder_runs_on_the_first_frame_of_a_clip_alone(tiny_model, cell_file, clip):
    model = tiny_model("MODEL.VIDEO.CELL", cell_file())
    runs = {"encoder": 0, "decoder": 0, "classifier": 0, "cell": 0}

    def counting(name):
        def hook(*_):
            runs[name] += 1

        return hook

    model.backbone.register_forward_hook(counting("encoder"))
    for module in model.decoder.modules():
        if isinstance(module, nn.Conv2d) and module is not model.decoder.classifier:
            module.register_forward_hook(counting("decoder"))
    model.decoder.classifier.register_forward_hook(counting("classifier"))
    model.cell.register_forward_hook(counting("cell"))
    with torch.no_grad():
        model.eval()([clip(frames=1)])
        once = runs["decoder"]
        assert runs == {"encoder": 1, "decoder": once, "classifier": 1, "cell": 0} and once > 20
        runs.update(dict.fromkeys(runs, 0))
        model([clip(frames=6)])
    assert runs == {"encoder": 6, "decoder": once, "classifier": 1, "cell": 5}


def changes(model, clip, frame):
    """Whether the last frame's scores change with an earlier frame."""
    other = copy.deepcopy(clip)
    other["frames"][frame] = 255 - other["frames"][frame]
    with torch.no_grad():
        a, b = (model.eval()([c])[0][-1]["sem_seg"] for c in (clip, other))
    return not torch.equal(a, b)


def test_a_frame_depends_on_all_before_it_unless_the_connections_are_cut(tiny_model, cell_file, clip):
    file = cell_file([[1, 2, 4, 4, 0]])
    model = tiny_model("MODEL.VIDEO.CELL", file)
    assert changes(model, clip(), 0) and changes(model, clip(), 1) and changes(model, clip(), 2)
    cut = tiny_model("MODEL.VIDEO.CELL", file, "MODEL.VIDEO.DYNAMIC", "False")
    cut.load_state_dict(model.state_dict())
    assert not changes(cut, clip(), 0) and not changes(cut, clip(), 1) and changes(cut, clip(), 2)
    only_before = tiny_model("MODEL.VIDEO.CELL", cell_file([[0, 0, 4, 4, 0]]))
    assert not changes(only_before, clip(), 0) and changes(only_before, clip(), 1)
    assert not changes(tiny_model(), clip(), 1)  # the static network


def test_cutting_the_connections_puts_zeros_into_the_pool(tiny_model, cell_file):
    model = tiny_model("MODEL.VIDEO.CELL", cell_file([[1, 2, 4, 4, 0]]), "MODEL.VIDEO.DYNAMIC", "False").eval()
    torch.manual_seed(1)
    inputs = [torch.randn(1, c, s, s) for c, s in ((320, 2), (8, 8), (32, 8), (96, 4), (320, 2))]
    with torch.no_grad():
        alone = model.cell.adapters[2](inputs[2])  # the first layer adds it, with weight one, to zeros
        expected = model.cell.project(alone.relu())
        torch.testing.assert_close(model.cell(inputs, connected=False), expected)


def test_after_a_frame_of_another_size_a_stream_starts_anew(tiny_model, cell_file, clip):
    model = tiny_model("MODEL.VIDEO.CELL", cell_file()).eval()
    with torch.no_grad():
        _, state = model.step(clip()["frames"][0], None)
        other = clip(height=96, width=64)["frames"][0]
        torch.testing.assert_close(model.step(other, state)[0], model.step(other, None)[0])


def test_threads_can_share_a_model(tiny_model, cell_file, clip):
    model = tiny_model("MODEL.VIDEO.CELL", cell_file()).eval()

    def run(seed):
        with torch.no_grad():
            return [x["sem_seg"] for x in model([clip(frames=4, seed=seed)])[0]]

    alone = [run(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for a, b in zip(alone, pool.map(run, range(4))):
            torch.testing.assert_close(a, b)


def test_auxiliary_heads_are_in_training_alone_and_weigh_three_tenths(tiny_model, clip):
    model = tiny_model("MODEL.VIDEO.AUX_WEIGHT", "0.3").train()
    losses = model([clip(seed=s) for s in range(2)])
    assert set(losses) == {"loss_sem_seg", "loss_aux1", "loss_aux2", "loss_aux3"}
    other = tiny_model("MODEL.VIDEO.AUX_WEIGHT", "0.6").train()
    twice = other([clip(seed=s) for s in range(2)])
    torch.testing.assert_close(twice["loss_aux2"], 2 * losses["loss_aux2"])
    assert not tiny_model("MODEL.VIDEO.AUX_WEIGHT", "0.0").decoder.auxiliary


def test_the_loss_is_the_sum_over_the_frames_after_the_first(tiny_model, cell_file, clip):
    model = tiny_model("MODEL.VIDEO.CELL", cell_file())
    batch = [clip(seed=s) for s in range(2)]

    def loss(*labeled):
        clips = copy.deepcopy(batch)
        for one in clips:
            for t in range(3):
                if t not in labeled:
                    one["sem_segs"][t] = 255
        torch.manual_seed(0)
        return model.train()(clips)["loss_sem_seg"]

    torch.testing.assert_close(loss(0, 1, 2), loss(1, 2))
    torch.testing.assert_close(loss(1, 2), loss(1) + loss(2))
    assert loss(0) == 0 and loss(0).requires_grad


def test_while_the_cell_is_trained_alone_nothing_of_the_static_network_changes(tiny_model, cell_file, clip):
    model = tiny_model("MODEL.VIDEO.CELL", cell_file())
    model.let_static_learn(False)
    before = copy.deepcopy(model.state_dict())
    losses = model.train()([clip(seed=s) for s in range(2)])
    sum(losses.values()).backward()
    assert all(p.grad is None for part in (model.backbone, model.decoder) for p in part.parameters())
    assert all(p.grad is not None for p in model.cell.parameters())
    after = model.state_dict()
    changed = {name.split(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {"cell"}  # its norms' statistics
    model.let_static_learn(True)
    sum(model([clip(seed=s) for s in range(2)]).values()).backward()
    assert model.backbone.features[0][0].weight.grad is not None
    assert model.decoder.blocks[0].first[1][0].weight.grad is not None  # by way of dec of the first frame


@pytest.mark.parametrize("learns", [True, False])
def test_in_distributed_training_every_parameter_gets_a_gradient(learns, tiny_model, cell_file, clip, monkeypatch):
    monkeypatch.setattr(segmentor.comm, "get_world_size", lambda: 2)
    model = tiny_model("MODEL.VIDEO.CELL", cell_file([[1, 2, 4, 4, 0]]))
    model.let_static_learn(learns)
    sum(model.train()([clip(seed=s) for s in range(2)]).values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    static = [p.grad for part in (model.backbone, model.decoder) for p in part.parameters()]
    assert any(grad.any() for grad in static) is learns


def test_frames_of_several_sizes_share_a_batch(tiny_model, clip):
    model = tiny_model().train()
    frames, labels = model._batch([clip(frames=1), clip(frames=1, height=32, width=128)])
    assert frames.shape == (2, 1, 3, 64, 128) and labels.shape == (2, 1, 64, 128)
    assert (labels[1, 0, 32:] == 255).all() and frames[1, 0, 0, 40, 0] == 124


def test_the_classifier_can_be_the_static_network_s(tiny_model, cell_file):
    own, shared = (
        tiny_model("MODEL.VIDEO.CELL", cell_file(), "MODEL.VIDEO.SHARE_CLASSIFIER", x) for x in ("False", "True")
    )
    assert own.cell.classifier is not None and shared.cell.classifier is None
    assert count(own) - count(shared) == 8 * 3 * 9 + 3


def test_any_backbone_with_the_strides_can_be_the_encoder(tiny_config):
    cfg = tiny_config("MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.RESNETS.DEPTH", "18")
    cfg.merge_from_list(["MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "MODEL.RESNETS.NORM", "BN"])
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    assert build_model(cfg).eval()([{"frames": torch.zeros(2, 3, 64, 64).byte()}])[0][1]["sem_seg"].shape == (3, 64, 64)
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res4", "res5"]
    with pytest.raises(UserError, match="strides 4, 8, 16 and 32; got res4"):
        build_model(cfg)


def test_imagenet_weights_of_torchvision_load_into_the_encoder(tiny_model, tmp_path):
    torch.manual_seed(0)
    theirs = torchvision.models.mobilenet_v2(weights=None)
    for name, buffer in theirs.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    torch.save(theirs.state_dict(), tmp_path / "mobilenet_v2.pth")
    model = tiny_model().eval()
    AdetCheckpointer(model).load(str(tmp_path / "mobilenet_v2.pth"))
    frames = torch.randint(0, 255, (1, 3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        expected = theirs.eval().features[:18]((frames - model.pixel_mean) / model.pixel_std)
        torch.testing.assert_close(model.encode(frames)[3], expected)
