import cv2
import numpy as np
import pytest
import torch

from adet_ext.config import get_cfg
from adet_ext.engine.predictor import Predictor
from adet_ext.errors import UserError
from adet_ext.utils.image_io import read_image, write_image

from ..fake_model import BlobModel, rectangles


@pytest.fixture
def cfg():
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 64, 96
    return cfg


def test_boxes_come_back_in_the_pixels_of_the_image_given(cfg):
    image = rectangles(32, 40, (4, 6, 20, 26))
    instances = Predictor(cfg, BlobModel())(image)["instances"]
    assert instances.image_size == (32, 40)
    assert torch.allclose(instances.pred_boxes.tensor, torch.tensor([[4.0, 6.0, 20.0, 26.0]]), atol=1)


def test_the_shorter_side_is_resized_and_the_longer_one_limited(cfg):
    predictor = Predictor(cfg, BlobModel())
    assert predictor.prepare(rectangles(32, 40))["image"].shape == (3, 64, 80)
    assert predictor.prepare(rectangles(32, 80))["image"].shape[2] == 96
    cfg.INPUT.MIN_SIZE_TEST = 0
    assert Predictor(cfg, BlobModel()).prepare(rectangles(32, 41))["image"].shape == (3, 32, 41)


def test_the_format_of_the_config_decides_the_channel_order(cfg):
    cfg.INPUT.MIN_SIZE_TEST = 0
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    image[..., 0] = 200
    assert Predictor(cfg, BlobModel()).prepare(image)["image"][0].min() == 200
    cfg.INPUT.FORMAT = "RGB"
    assert Predictor(cfg, BlobModel()).prepare(image)["image"][2].min() == 200


def test_several_images_are_one_batch_and_give_what_each_gives_alone(cfg):
    model = BlobModel()
    predictor = Predictor(cfg, model)
    images = [rectangles(32, 40, (4, 6, 20, 26)), rectangles(50, 30, (1, 1, 9, 5), (12, 20, 25, 45))]
    together = predictor(images)
    assert model.batches == [2]
    assert isinstance(together, list) and [len(x["instances"]) for x in together] == [1, 2]
    for image, output in zip(images, together):
        alone = predictor(image)["instances"]
        assert torch.equal(alone.pred_boxes.tensor, output["instances"].pred_boxes.tensor)
    assert predictor([]) == []


def test_prediction_is_in_inference_mode_and_leaves_the_models_mode_alone(cfg):
    model = BlobModel()
    predictor = Predictor(cfg, model)
    model.train()
    predictor(rectangles(16, 16))
    assert model.inference_modes == [True] and model.training


@pytest.mark.parametrize(
    "image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32), np.zeros((0, 8, 3), np.uint8)]
)
def test_what_is_no_image_is_refused_in_a_sentence(cfg, image):
    with pytest.raises(UserError, match="an image"):
        Predictor(cfg, BlobModel())(image)


def test_reading_names_the_file_that_is_missing_empty_or_cut_off(tmp_path):
    with pytest.raises(UserError, match="absent.png"):
        read_image(str(tmp_path / "absent.png"))
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(UserError, match="empty.png.*empty"):
        read_image(str(tmp_path / "empty.png"))
    _, data = cv2.imencode(".png", rectangles(16, 16))
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(UserError, match="text.png"):
        read_image(str(tmp_path / "text.png"))
    (tmp_path / "good.png").write_bytes(data.tobytes())
    assert np.array_equal(read_image(str(tmp_path / "good.png")), rectangles(16, 16))


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_cut_off_image_is_refused(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    data = cv2.imencode(suffix, noise)[1].tobytes()
    (tmp_path / f"half{suffix}").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="cut off"):
        read_image(str(tmp_path / f"half{suffix}"))


def test_writing_fails_in_a_sentence_and_keeps_what_was_there(tmp_path):
    with pytest.raises(UserError, match="absent"):
        write_image(str(tmp_path / "absent" / "a.png"), rectangles(8, 8))
    path = tmp_path / "a.unknown"
    path.write_bytes(b"precious")
    with pytest.raises(UserError, match="a.unknown.*suffix"):
        write_image(str(path), rectangles(8, 8))
    assert path.read_bytes() == b"precious" and len(list(tmp_path.iterdir())) == 1
