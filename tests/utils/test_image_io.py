"""The demo and training read the same pixels from the same file, or both refuse it."""

import numpy as np
import pytest
from PIL import Image

from adet_ext.errors import UserError
from adet_ext.utils import image_io
from adet_ext.utils.image_io import read_as, read_image, read_labels


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 255, (12, 17, 3), dtype=np.uint8)


def test_a_cmyk_image_has_the_pixels_of_training(tmp_path, pixels):
    path = str(tmp_path / "a.jpg")
    Image.fromarray(pixels).convert("CMYK").save(path)
    assert np.array_equal(read_image(path), read_as(path, "BGR"))


@pytest.mark.parametrize("kind", [np.int32, np.uint16])
def test_deep_images_are_read_by_both_also_under_a_wrong_suffix(tmp_path, kind):
    deep = np.linspace(0, 65535, 12 * 17).reshape(12, 17).astype(kind)
    Image.fromarray(deep).save(tmp_path / "deep.jpg", format="TIFF")
    for image in (read_image(str(tmp_path / "deep.jpg")), read_as(str(tmp_path / "deep.jpg"), "RGB")):
        assert np.array_equal(image, np.repeat((deep >> 8).astype(np.uint8)[:, :, None], 3, axis=2))


@pytest.mark.parametrize("kind, suffix", [(np.int32, "tif"), (np.uint16, "tif"), (np.uint16, "png")])
def test_values_of_8_bits_in_a_file_of_16_are_taken_as_they_are(tmp_path, pixels, caplog, monkeypatch, kind, suffix):
    monkeypatch.setattr(image_io, "_warned", [])
    gray = pixels[:, :, 0]
    paths = [str(tmp_path / f"{name}.{suffix}") for name in "ab"]
    for path in paths:
        Image.fromarray(gray.astype(kind)).save(path)
        assert np.array_equal(read_image(path), np.repeat(gray[:, :, None], 3, axis=2))
    assert [r.getMessage() for r in caplog.records if "16 bits" in r.getMessage()] == [
        f"{paths[0]} has 16 bits a pixel but no value above 255; such images are read as if they had 8 bits"
    ]


@pytest.mark.parametrize("largest", [0, 256])
def test_other_images_of_16_bits_are_scaled_without_a_warning(tmp_path, caplog, largest):
    path = str(tmp_path / "a.png")
    Image.fromarray(np.array([[largest, 0]], np.uint16)).save(path)
    assert read_image(path)[0, :, 0].tolist() == [largest >> 8, 0]
    assert not caplog.records


def test_pixels_of_unknown_range_are_refused_by_the_demo_with_the_reason(tmp_path):
    Image.fromarray(np.ones((4, 5), np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(UserError, match="a.tiff.*float32 numbers of unknown range"):
        read_image(str(tmp_path / "a.tiff"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_labels_are_turned_as_the_image_is(tmp_path, pixels, orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    path = str(tmp_path / "a.png")
    Image.fromarray(pixels[:, :, 0]).save(path, exif=exif)
    assert np.array_equal(read_labels(path), read_image(path)[:, :, 0])
    deep = Image.fromarray(pixels[:, :, 0].astype(np.uint16) << 8)
    deep.save(str(tmp_path / "b.png"), exif=exif)
    assert np.array_equal(read_image(str(tmp_path / "b.png")), read_image(path))


@pytest.mark.parametrize("number", [-1, 1 << 16])
def test_class_numbers_out_of_range_are_refused(tmp_path, number):
    Image.fromarray(np.full((4, 5), number, np.int32)).save(tmp_path / "a.tiff")
    with pytest.raises(ValueError, match="from 0 to 65535"):
        read_labels(str(tmp_path / "a.tiff"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_once(tmp_path, pixels, orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    Image.fromarray(pixels).save(tmp_path / "a.tif", exif=exif)
    Image.fromarray(pixels[:, :, 0]).save(tmp_path / "labels.tif", exif=exif)
    expected = read_image(str(tmp_path / "a.png"))
    assert np.array_equal(read_image(str(tmp_path / "a.tif")), expected)
    assert np.array_equal(read_as(str(tmp_path / "a.tif"), "RGB"), expected[:, :, ::-1])
    assert np.array_equal(read_labels(str(tmp_path / "labels.tif")), expected[:, :, 2])
