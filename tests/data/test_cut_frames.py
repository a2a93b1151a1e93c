import logging
from fractions import Fraction

import cv2
import numpy as np
import pytest

from adet_ext.cli.data import main
from adet_ext.data.cut_frames import align, thumbnail
from adet_ext.data.frame_folders import frame_folder_runs, read_classes
from adet_ext.data.shapes_video import Movie
from adet_ext.errors import UserError
from adet_ext.utils import video
from adet_ext.utils.image_io import read_image

NUMBERS = (1007, 1012, 1019)  # of the annotated frames; the film begins at 1002
FIRST = 1002


@pytest.fixture(scope="module")
def film():
    movie = Movie((72, 96), seed=4)
    return [np.ascontiguousarray(movie.frame(3 * t).image[..., ::-1]) for t in range(24)]


@pytest.fixture
def root(tmp_path, film):
    """CamVid with two annotated frames in train and one in val, at half the film's size, and its film."""
    lines = {"train": [], "val": []}
    for number in NUMBERS:
        split = "val" if number == NUMBERS[-1] else "train"
        for kind in (split, f"{split}annot"):
            (tmp_path / "camvid" / kind).mkdir(parents=True, exist_ok=True)
        image, labels = f"{split}/0077AB_{number:06d}.png", f"{split}annot/0077AB_{number:06d}.png"
        picture = cv2.resize(film[number - FIRST], (48, 36), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(tmp_path / "camvid" / image), picture)
        cv2.imwrite(str(tmp_path / "camvid" / labels), np.full((36, 48), number % 11, np.uint8))
        lines[split].append(f"{image} {labels}")
    for split, words in lines.items():
        (tmp_path / "camvid" / f"{split}.txt").write_text("\n".join(words))
    (tmp_path / "films").mkdir()
    video.convert(iter(film), str(tmp_path / "films" / "77AB_extract.avi"), fps=Fraction(30))
    return tmp_path


def cut(root, *more):
    return main(["cut-frames", str(root / "films"), "--root", str(root), "--splits", "train", "val", *more])


def test_clips_end_at_the_annotated_frames_wherever_the_film_begins(root, film, capsys):
    assert cut(root) == 0
    assert "3 of 3 clips; frame N is the video's -1002 from N" in capsys.readouterr().out
    runs = frame_folder_runs(str(root / "camvid_raw" / "train"))
    assert [run.sequence for run in runs] == ["0077AB_001007", "0077AB_001012"]
    assert runs[0].labels[:2] == [None, None] and len(frame_folder_runs(str(root / "camvid_raw" / "val"))) == 1
    assert np.unique(cv2.imread(runs[0].labels[2], cv2.IMREAD_UNCHANGED)).tolist() == [1007 % 11]
    for t, path in enumerate(runs[0].frames):
        found, place = read_image(path), 1007 - FIRST - 2 + t
        assert found.shape == (36, 48, 3)
        near = [np.abs(thumbnail(found).astype(int) - thumbnail(film[place + d])).mean() for d in (-1, 0, 1)]
        assert min(near) == near[1]
    assert len(read_classes(str(root / "camvid_raw" / "train"))[0]) == 11


def test_what_is_there_is_left_and_what_is_missing_is_made_again(root, capsys):
    cut(root)
    clip = root / "camvid_raw" / "train" / "images" / "0077AB_001007"
    kept = root / "camvid_raw" / "train" / "images" / "0077AB_001012" / "000000.jpg"
    kept.write_bytes(b"mine")
    (clip / "000001.jpg").unlink()
    (clip.parent / ".0077AB_001007.part").mkdir()  # of a run that was killed
    assert cut(root) == 0
    assert (clip / "000001.jpg").is_file() and kept.read_bytes() == b"mine"
    assert len(frame_folder_runs(str(root / "camvid_raw" / "train"))) == 2
    capsys.readouterr()
    (root / "films" / "77AB_extract.avi").write_bytes(b"")
    assert cut(root) == 0 and "all there before" in capsys.readouterr().out


def test_another_film_is_refused_and_a_missing_one_named(root, film, capsys):
    with pytest.raises(UserError, match="one video must have 0077AB in its name; got none"):
        (root / "films" / "77AB_extract.avi").rename(root / "films" / "other.avi")
        cut(root)
    with pytest.raises(UserError, match="--video must be SEQUENCE=FILE; got other"):
        cut(root, "--video", "other")
    video.convert(iter(film[:5]), str(root / "films" / "short.avi"), fps=Fraction(30))
    with pytest.raises(UserError, match="its video must be another one: its 5 frames cannot hold frames 1007 to 1019"):
        cut(root, "--video", f"0077AB={root / 'films' / 'short.avi'}")
    video.convert((255 - f for f in film), str(root / "films" / "negative.avi"), fps=Fraction(30))
    assert cut(root, "--video", f"0077AB={root / 'films' / 'negative.avi'}") == 1
    assert "the video differs much from the images" in capsys.readouterr().err


def test_frames_before_the_beginning_are_reported(root, film, capsys):
    video.convert(iter(film[4:]), str(root / "films" / "77AB_extract.avi"), fps=Fraction(30))
    assert cut(root) == 1  # frame 1007 is the film's second: only one frame is before it
    captured = capsys.readouterr()
    assert "2 of 3 clips; frame N is the video's -1006" in captured.out and "frames are missing" in captured.err


def test_a_broken_frame_spoils_only_its_clips(root, monkeypatch, caplog):
    read = video.VideoReader._iterate_opencv

    def damaged(self):
        for number, frame in enumerate(read(self)):
            yield None if number == 1012 - FIRST - 1 else frame

    monkeypatch.setattr(video, "backend", lambda: "opencv")
    monkeypatch.setattr(video.VideoReader, "_iterate_opencv", damaged)
    with caplog.at_level(logging.WARNING):
        assert cut(root) == 1
    names = [run.sequence for split in ("train", "val") for run in frame_folder_runs(str(root / "camvid_raw" / split))]
    assert names == ["0077AB_001007", "0077AB_001019"]


def test_the_offset_is_that_of_all_frames_together():
    rng = np.random.RandomState(0)
    film = rng.randint(0, 255, (40, 36, 48)).astype(np.uint8)
    images = film[[5, 9, 30]].copy()
    images[1] = film[21]  # one frame looks like another
    found = align([105, 109, 130], images, film)
    assert (found.offset, found.outside) == (-100, 0) and found.difference > 10
