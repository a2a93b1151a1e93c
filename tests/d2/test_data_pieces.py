"""Reading images, sampling indices, wrapping data sets: the pieces that need no data set on the disk."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from adet_ext.d2 import ENGINE
from adet_ext.d2 import data as D
from adet_ext.d2.data import detection_utils as utils


class TestReadImage:
    def test_formats_give_their_channels(self, tmp_path):
        rgb = np.random.RandomState(0).randint(0, 256, (5, 7, 3), dtype=np.uint8)
        path = str(tmp_path / "x.png")
        Image.fromarray(rgb).save(path)
        assert (utils.read_image(path, "RGB") == rgb).all()
        assert (utils.read_image(path, "BGR") == rgb[:, :, ::-1]).all()
        assert utils.read_image(path, "L").shape == (5, 7, 1)
        assert (utils.convert_image_to_rgb(utils.read_image(path, "BGR"), "BGR") == rgb).all()

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_pictures_are_turned_upright(self, tmp_path, orientation):
        image = Image.fromarray(np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3))
        exif = Image.Exif()
        exif[274] = orientation
        path = str(tmp_path / "x.png")
        image.save(path, exif=exif)
        assert (utils.read_image(path, "RGB") == np.asarray(ImageOps.exif_transpose(Image.open(path)))).all()

    @pytest.mark.skipif(ENGINE != "embedded", reason="Detectron2 hands on Pillow's message")
    def test_a_damaged_file_is_named(self, tmp_path):
        path = str(tmp_path / "x.jpg")
        Image.fromarray(np.random.RandomState(0).randint(0, 256, (90, 90, 3), dtype=np.uint8)).save(path)
        whole = open(path, "rb").read()
        for content in (b"no image", whole[: len(whole) // 2]):
            open(path, "wb").write(content)
            with pytest.raises(OSError, match="x.jpg"):
                utils.read_image(path, "BGR")


class TestSamplers:
    def test_training_order_is_one_permutation_after_another(self):
        sampler = D.TrainingSampler(7, seed=3)
        first = list(itertools.islice(sampler, 14))
        assert sorted(first[:7]) == sorted(first[7:]) == list(range(7)) and first[:7] != first[7:]
        assert list(itertools.islice(sampler, 14)) == first

    def test_rare_classes_are_repeated_by_the_square_root_rule(self):
        dicts = [{"annotations": [{"category_id": 0}]}] * 9 + [{"annotations": [{"category_id": 1}]}]
        factors = D.RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(dicts, 0.4)
        assert torch.allclose(factors, torch.tensor([1.0] * 9 + [2.0]))
        epoch = list(itertools.islice(D.RepeatFactorTrainingSampler(factors, seed=0), 11))
        assert sorted(epoch) == list(range(9)) + [9, 9]

    def test_inference_visits_each_index_once(self):
        assert list(D.InferenceSampler(5)) == list(range(5)) and len(D.InferenceSampler(5)) == 5


class TestDataSets:
    @pytest.mark.parametrize("serialize", [False, True])
    def test_changing_an_element_does_not_change_the_list(self, serialize):
        data = D.DatasetFromList([{"x": [1]}, {"x": [2]}], serialize=serialize)
        data[1]["x"].append(5)
        assert data[1] == {"x": [2]} and len(data) == 2
