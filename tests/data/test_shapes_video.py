import itertools

import numpy as np
import pytest

from adet_ext.data.shapes_video import shapes_video
from adet_ext.errors import UserError


def test_a_frame_does_not_depend_on_the_length_of_the_video():
    short = list(shapes_video(3, size=64, seed=2))
    long = list(itertools.islice(shapes_video(50, size=64, seed=2), 3))
    for a, b in zip(short, long):
        assert np.array_equal(a.image, b.image) and np.array_equal(a.panoptic, b.panoptic)


def test_ids_stay_with_their_instances_and_labels_agree():
    classes = {}
    for frame in shapes_video(25, size=(64, 96), seed=1):
        assert frame.image.shape == (64, 96, 3)
        assert {s["id"] for s in frame.segments_info} == set(np.unique(frame.panoptic))
        for segment in frame.segments_info:
            assert classes.setdefault(segment["id"], segment["category_id"]) == segment["category_id"]
            is_stuff = segment["id"] >= 100
            assert ((frame.sem_seg[frame.panoptic == segment["id"]] > 0) == is_stuff).all()


def test_shapes_move_smoothly():
    frames = list(shapes_video(10, size=64, seed=4))
    moved = [np.count_nonzero(a.panoptic != b.panoptic) for a, b in zip(frames, frames[1:])]
    assert 0 < min(moved) and max(moved) < 0.35 * 64 * 64


def test_an_empty_video_is_refused():
    with pytest.raises(UserError, match="at least 1 frame"):
        next(shapes_video(0))
