"""Pictures of what masks are made of, on small untrained models."""

import cv2
import numpy as np
import pytest
import torch

from adet_ext import get_cfg, load_config
from adet_ext.cli import explain as command
from adet_ext.d2.modeling import build_model
from adet_ext.engine.predictor import Predictor
from adet_ext.errors import UserError
from adet_ext.modeling.mask.dr1prediction import VectorPrediction
from adet_ext.visualize import explain as explaining
from adet_ext.visualize.explain import components_picture, explain
from adet_ext.visualize.instance_maps import instance_maps
from adet_ext.visualize.maps import InstanceMaps, draw_components, draw_instance_maps

from ..modeling.conftest import TINY
from ..modeling.dr1 import DR1, PANOPTIC

BLENDMASK = ["MODEL.FCOS.INFERENCE_TH_TEST", 0.0]
CONFIG = ["--config-file", "unused.yaml", "--class-names", "a", "b", "c", "--confidence-threshold", "0"]


def make(*overrides):
    """A small untrained model, with overrides KEY, VALUE, ..., that predicts on images as they are."""
    cfg = get_cfg()
    cfg.merge_from_list([*TINY, *overrides, "INPUT.MIN_SIZE_TEST", 0])
    torch.manual_seed(0)
    return Predictor(cfg, build_model(cfg))


def picture(height=72, width=100, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "in" / "photo.png"
    path.parent.mkdir()
    cv2.imwrite(str(path), picture())
    return path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    "overrides, written",
    [
        (BLENDMASK, ["photo_blending.png", "photo_instances.png"]),
        (
            [*BLENDMASK, "MODEL.BLENDMASK.MERGE", "assembler", "MODEL.BLENDMASK.ATTN_SIZE", 2],
            ["photo_bases.png", "photo_prediction.png"],
        ),
        (
            [*DR1, "MODEL.DR1MASK.ATTENTION", "factored"],
            ["components.png", "photo_bases.png", "photo_instances.png", "photo_prediction.png"],
        ),
        (
            [*DR1, "MODEL.DR1MASK.ATTENTION", "full"],
            ["photo_bases.png", "photo_blending.png", "photo_instances.png"],
        ),
        (
            [*DR1, *PANOPTIC, "MODEL.DR1MASK.ATTENTION", "vector"],
            ["photo_bases.png", "photo_instances.png", "photo_prediction.png"],
        ),
    ],
    ids=["BlendMask", "assembler", "factored", "full", "vector"],
)
def test_every_model_has_its_pictures(tmp_path, image, overrides, written, capsys):
    predictor, out = make(*overrides), tmp_path / "out"
    assert command.main([*CONFIG, "--input", str(image), "--output", str(out)], predictor) == 0
    assert names(out) == written
    assert all(cv2.imread(str(path)).std() > 1 for path in out.iterdir())
    assert capsys.readouterr().out.count("wrote") == len(written)
    assert predictor.model.visualize is False


def test_components_are_written_once_for_all_images(tmp_path, image, capsys):
    cv2.imwrite(str(image.with_suffix(".jpg")), picture(50, 60))
    out = tmp_path / "out"
    arguments = [*CONFIG, "--input", str(image.parent), "--output", str(out), "--instances", "0"]
    assert command.main(arguments, make(*DR1)) == 0
    kinds = ("bases", "prediction")
    # Images that differ by the suffix alone do not take one another's place.
    assert names(out) == ["components.png", *(f"photo_{s}_{k}.png" for s in ("jpg", "png") for k in kinds)]
    printed = capsys.readouterr().out
    assert printed.count("components.png") == 1 and printed.count("wrote") == 5


def test_all_bases_are_drawn_in_the_proportions_of_the_image():
    for width in (8, 16):
        bases = explain(make(*DR1, "MODEL.DR1MASK.WIDTH", width), picture(72, 144))["bases"]
        assert bases.shape[1] == 8 + 8 * (160 + 8)
        rows = width // 8
        assert 80 * rows < bases.shape[0] < (80 + 40) * rows + 60


class Doubled(VectorPrediction):
    """A prediction that explain has never heard of."""

    field = "codes"

    def maps(self, bases, embeddings, boxes):
        return super().maps(bases, 2 * embeddings, boxes)


def test_a_new_family_is_explained_by_its_own_part():
    predictor = make(*DR1, "MODEL.DR1MASK.ATTENTION", "vector")
    predictor.model.prediction.__class__ = Doubled

    class Family(type(predictor.model)):
        explained_by = "maker"
        maker = property(lambda self: self.prediction)

        def complete(self, result, image_size):
            if self.visualize:
                result["instances"].codes = result["instances"].embeddings
                result["instances"].remove("embeddings")

    predictor.model.__class__ = Family
    pictures = explain(predictor, picture(), threshold=0.0)
    assert sorted(pictures) == ["bases", "instances", "prediction"] and components_picture(predictor.model) is None


@pytest.mark.parametrize("overrides, drawer", [(BLENDMASK, "draw_blending"), (DR1, "draw_bases")])
def test_the_padding_is_cut_off_the_bases(overrides, drawer, monkeypatch):
    predictor, seen = make(*overrides), []
    draw = getattr(explaining, drawer)

    def spy(*arguments, **options):
        seen.extend(tuple(x.shape[1:]) for x in arguments if torch.is_tensor(x) and x.dim() == 3)
        return draw(*arguments, **options)

    monkeypatch.setattr(explaining, drawer, spy)
    explain(predictor, picture(72, 100))
    assert seen == [(72 / 4, 100 / 4)]


def test_components_show_the_sign_of_every_outer_product():
    u, v = torch.zeros(2, 3, 5), torch.zeros(2, 3, 5)
    u[1, 2, 0], v[1, 2, 4] = 2.0, 3.0  # the upper right corner
    u[0, 0, 4], v[0, 0, 0] = 1.0, -1.0  # the lower left corner
    sheet = draw_components(torch.einsum("kry,krx->kryx", u, v)).astype(int)
    assert sheet.shape[1] == 8 + 3 * (160 + 8) and sheet.shape[0] > 2 * 160
    red = (sheet[..., 0] - sheet[..., 2] > 100).nonzero()
    blue = (sheet[..., 2] - sheet[..., 0] > 100).nonzero()
    cell = 160 // 5
    bottom, left = sheet.shape[0] - 8, 8 + 2 * (160 + 8)
    assert red[0].min() >= bottom - 160 and red[0].max() < bottom - 160 + cell
    assert red[1].min() >= left + 160 - cell and red[1].max() < left + 160
    assert blue[1].min() >= 8 and blue[1].max() < 8 + cell and len(blue[0]) > 0.8 * cell**2
    assert blue[0].max() < bottom - 160


@pytest.mark.parametrize(
    "overrides, columns, rows",
    [
        (BLENDMASK, 1 + 4, 4),
        ([*BLENDMASK, "MODEL.BLENDMASK.TOP_INTERP", "nearest"], 1 + 4, 4),
        ([*DR1, "MODEL.DR1MASK.ATTENTION", "full"], 1 + 4, 4),
        ([*DR1, "MODEL.DR1MASK.ATTENTION", "vector"], 4, 1),
        ([*DR1, "MODEL.DR1MASK.ATTENTION_SOFTMAX", True], 1 + 4, 4),
        ([*DR1, "MODEL.DR1MASK.ATTENTION_SOFTMAX", False], 1 + 4, 3),
        ([*DR1, "MODEL.BLENDMASK.TOP_INTERP", "nearest"], 1 + 4, 4),
        ([*DR1, "MODEL.BASIS_MODULE.NUM_BASES", 1], 1 + 1, 3),
    ],
    ids=lambda value: "-".join(map(str, value[-2:])) if isinstance(value, list) else "",
)
def test_instance_maps_sum_to_the_mask(overrides, columns, rows):
    predictor = make(*overrides)
    model, photo = predictor.model, picture(64, 96)
    model.visualize = True
    outputs = predictor(photo)
    found, bases = outputs["instances"][:3], outputs["bases"][:, :16, :24]
    boxes, of_image = found.pred_boxes.tensor, torch.zeros(3, dtype=torch.long)
    part = getattr(model, model.explained_by)
    with torch.inference_mode():
        logits = part(bases[None], found.get(part.field), boxes, of_image)
    # Twice as large in the network as on the picture, and the boxes halved: the same places.
    found.pred_boxes.tensor = boxes / 2
    all_maps = instance_maps(part, bases, found, picture(32, 48), (64, 96), ["a"])
    for maps, expected in zip(all_maps, logits, strict=True):
        tolerance = {"rtol": 1e-4, "atol": 1e-5 * float(expected.abs().max())}
        torch.testing.assert_close(maps.logits, expected, **tolerance)
        assert (maps.weights is None) == (rows < 4)
        if maps.channels is None:
            torch.testing.assert_close(maps.products.sum(0), expected, **tolerance)
        if maps.weights is not None:
            torch.testing.assert_close(maps.weights.sum(0), torch.ones_like(expected))
    sheet = draw_instance_maps(all_maps)
    assert sheet.shape[1] == 8 + columns * (160 + 8)
    assert (sheet.shape[0] - 8) // (160 + 8 + 20) == 3 * rows


@pytest.mark.parametrize("overrides", [BLENDMASK, [*DR1, "MODEL.DR1MASK.ATTENTION", "full"]])
def test_a_single_basis_is_drawn_without_instance_maps(overrides):
    pictures = explain(make(*overrides, "MODEL.BASIS_MODULE.NUM_BASES", 1), picture(), threshold=0.0)
    assert "blending" in pictures and "instances" not in pictures


def test_instances_of_different_models_make_no_sheet():
    maps = InstanceMaps("", picture(4, 4), torch.zeros(2, 2), channels=torch.ones(3))
    other = InstanceMaps("", picture(4, 4), torch.zeros(2, 2), attentions=torch.ones(2, 2, 2))
    other.projected = other.products = torch.ones(2, 2, 2)
    assert draw_instance_maps([maps]).size
    for wrong in ([], [maps, other]):
        with pytest.raises(ValueError, match="all of one model"):
            draw_instance_maps(wrong)


def test_the_number_of_instances_is_a_choice():
    predictor = make(*DR1)
    one, two = (explain(predictor, picture(), threshold=0.0, count=n)["instances"] for n in (1, 2))
    assert one.shape[1] == two.shape[1] and one.shape[0] < two.shape[0]


@pytest.mark.parametrize("overrides", [BLENDMASK, DR1, [*DR1, *PANOPTIC, "MODEL.DR1MASK.ATTENTION", "vector"]])
def test_an_image_without_instances_has_its_bases(overrides):
    pictures = explain(make(*overrides), picture(), threshold=1.1)
    assert "instances" not in pictures and ("blending" in pictures or "bases" in pictures)


def test_the_command_reports_when_no_instance_passes_the_threshold(tmp_path, image, capsys):
    arguments = [*CONFIG[:-1], "1.1", "--input", str(image), "--output", str(tmp_path / "out")]
    for overrides, said in (([*DR1], True), ([*BLENDMASK, "MODEL.BASIS_MODULE.NUM_BASES", 1], False)):
        assert command.main(arguments, make(*overrides)) == 0
        assert ("photo.png: no instance scores 1.1 or more" in capsys.readouterr().out) == said


def test_the_prediction_of_a_panoptic_model_is_its_panoptic_map():
    overrides = [*DR1, "MODEL.DR1MASK.ATTENTION", "vector"]
    plain, panoptic = (explain(make(*o), picture(), threshold=1.1) for o in (overrides, [*overrides, *PANOPTIC]))
    assert (plain["prediction"] == cv2.resize(picture()[..., ::-1], None, fx=4, fy=4, interpolation=2)).all()
    assert (panoptic["prediction"] != plain["prediction"]).mean() > 0.5


def test_models_without_pictures_raise(tmp_path, image):
    arguments = ["--input", str(image), "--output", str(tmp_path / "out")]
    sentence = "must have bases or attentions to draw; got OneStageDetector.*BlendMask or DR1Mask"
    # Before any weights are asked for: the config names none.
    with pytest.raises(UserError, match=sentence):
        command.main(["--config-file", "FCOS/R_50_1x.yaml", *arguments, "MODEL.WEIGHTS", ""])
    with pytest.raises(UserError, match=sentence):
        command.main([*CONFIG, *arguments], make("MODEL.META_ARCHITECTURE", "OneStageDetector"))
    assert not (tmp_path / "out").exists()
    assert components_picture(torch.nn.Identity()) is None


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--input", "{image}", "--output", "{folder}/o.png"], "must be a folder.*got .*o.png"),
        (
            ["--input", "{image}", "--output", "{folder}/o", "--instances", "-1"],
            "--instances must be 0 or more",
        ),
        (["--input", "absent.png", "--output", "{folder}/o"], "absent.png.*no such file"),
        (["--input", "{folder}/in/components.png", "--output", "{folder}/in"], "would be overwritten"),
    ],
)
def test_wrong_arguments_raise_on_one_line(tmp_path, image, arguments, sentence):
    cv2.imwrite(str(image.parent / "components.png"), picture())
    filled = [argument.format(image=image, folder=tmp_path) for argument in arguments]
    with pytest.raises(UserError, match=sentence):
        command.main([*CONFIG, *filled], make(*DR1))


def test_a_broken_image_does_not_stop_the_others(tmp_path, image, capsys):
    (image.parent / "broken.png").write_text("no image")
    arguments = [*CONFIG, "--input", str(image.parent), "--output", str(tmp_path / "out")]
    assert command.main(arguments, make(*BLENDMASK)) == 1
    assert names(tmp_path / "out") == ["photo_blending.png", "photo_instances.png"]
    assert capsys.readouterr().err.count("broken.png") == 1


def test_one_command_goes_from_a_config_and_weights_to_pictures(tmp_path, image):
    opts = ["MODEL.FPN.OUT_CHANNELS", "16", "MODEL.DR1MASK.WIDTH", "8", "MODEL.FCOS.NUM_CLS_CONVS", "1"]
    torch.manual_seed(0)
    model = build_model(load_config("demo/shapes_dr1mask_R_18.yaml", opts))
    weights = tmp_path / "model.pth"
    torch.save({"model": model.state_dict()}, weights)
    out = tmp_path / "out"
    arguments = ["--config-file", "demo/shapes_dr1mask_R_18.yaml", "--input", str(image), "--output", str(out)]
    with pytest.raises(UserError, match="names no weights"):
        command.main([*arguments, *opts])
    assert command.main([*arguments, *opts, "MODEL.WEIGHTS", str(weights)]) == 0
    components = cv2.imread(str(out / "components.png"))
    assert (components == components_picture(model)[:, :, ::-1]).all()
