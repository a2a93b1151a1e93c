"""Which images and videos the words of the demo's command line name, and where overlays go."""

import cv2
import numpy as np
import pytest

from adet_ext.cli.demo import _inputs, build_parser
from adet_ext.cli.inputs import split_videos
from adet_ext.errors import UserError


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "b.png"):
        cv2.imwrite(name, np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "clip.mp4").write_bytes(b"")
    return tmp_path


def _parse(*words: str):
    arguments = build_parser().parse_args(list(words))
    return _inputs(arguments), arguments


def test_paths_are_images_folders_and_videos_mixed(here):
    assert split_videos(["clip.mp4", "*.png", "a.jpg"]) == (["b.png", "a.jpg"], ["clip.mp4"])
    (images, videos), arguments = _parse(".", "clip.mp4")
    assert [path.rsplit("/")[-1] for path in images] == ["a.jpg", "b.png"] and videos == ["clip.mp4"]
    assert arguments.output == "predictions" and arguments.model == "people/blendmask"


def test_detectron2s_options_still_need_an_output(here):
    with pytest.raises(UserError, match="there is nothing to write: give --output"):
        _parse("--input", "a.jpg")
    assert _parse("--input", "a.jpg", "--output", "o")[0] == (["a.jpg"], [])
    assert _parse("--video-input", "clip.mp4", "--output", "o")[0] == ([], ["clip.mp4"])


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["gone.mp4"], "gone.mp4: there is no such file"),
        (["gone.jpg"], "gone.jpg: there is no such file or folder"),
        (["a.jpg", "clip.mp4", "--json", "all.json"], "--json holds images, or one video"),
        (["a.jpg", "b.png", "--output", "one.jpg"], "--output must be a folder for 2 inputs; got one.jpg"),
    ],
)
def test_words_that_do_not_fit_are_refused(here, words, sentence):
    with pytest.raises(UserError, match=sentence):
        _parse(*words)
