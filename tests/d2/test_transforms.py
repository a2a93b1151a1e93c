"""Augmentations: what they promise, and (with Detectron2) that both engines draw and compute the same."""

import importlib

import numpy as np
import pytest

from adet_ext.d2.data import transforms as T


def image_of(h=60, w=80, channels=3, dtype=np.uint8, seed=0):
    shape = (h, w) if channels is None else (h, w, channels)
    image = np.random.RandomState(seed).randint(0, 256, shape)
    return image.astype(dtype)


class TestResize:
    def test_shortest_edge_has_the_asked_length_unless_the_longer_side_would_exceed_the_maximum(self):
        assert T.ResizeShortestEdge.get_output_shape(480, 640, 800, 1333) == (800, 1067)
        assert T.ResizeShortestEdge.get_output_shape(640, 480, 800, 1333) == (1067, 800)
        assert T.ResizeShortestEdge.get_output_shape(400, 1200, 800, 1333) == (444, 1333)

    def test_range_includes_both_ends_and_choice_takes_listed_lengths_only(self):
        np.random.seed(0)
        in_range = {T.ResizeShortestEdge((10, 12), 999, "range").get_transform(image_of()).new_h for _ in range(60)}
        chosen = {T.ResizeShortestEdge((10, 12), 999, "choice").get_transform(image_of()).new_h for _ in range(60)}
        assert in_range == {10, 11, 12} and chosen == {10, 12}

    def test_length_zero_leaves_the_image_as_it_is(self):
        assert isinstance(T.ResizeShortestEdge(0).get_transform(image_of()), T.NoOpTransform)

    @pytest.mark.parametrize("channels", [None, 1, 3])
    @pytest.mark.parametrize("dtype", [np.uint8, np.float32])
    def test_resize_keeps_the_number_of_dimensions_and_the_dtype(self, channels, dtype):
        image = image_of(channels=channels, dtype=dtype)
        out = T.ResizeTransform(*image.shape[:2], 30, 20).apply_image(image)
        assert out.shape == (30, 20) + image.shape[2:] and out.dtype == dtype

    def test_resized_labels_are_labels_that_were_there(self):
        labels = np.array([[0, 7], [200, 255]], dtype=np.uint8).repeat(20, 0).repeat(20, 1)
        out = T.ResizeTransform(40, 40, 33, 57).apply_segmentation(labels)
        assert set(np.unique(out)) == {0, 7, 200, 255}

    def test_inverse_of_a_resize_brings_points_back(self):
        tfm = T.ResizeTransform(60, 80, 33, 57)
        points = np.random.RandomState(0).rand(5, 2) * 60
        assert np.allclose(tfm.inverse().apply_coords(tfm.apply_coords(points.copy())), points)


class TestFlipAndCrop:
    def test_flip_moves_boxes_with_the_pixels(self):
        aug_input = T.AugInput(image_of(), boxes=np.array([[10.0, 20.0, 30.0, 40.0]]))
        before = aug_input.image
        T.RandomFlip(prob=1.0)(aug_input)
        assert (aug_input.image == before[:, ::-1]).all()
        assert aug_input.boxes.tolist() == [[50.0, 20.0, 70.0, 40.0]]

    def test_flip_in_both_directions_or_in_none_is_refused(self):
        with pytest.raises(ValueError):
            T.RandomFlip(horizontal=True, vertical=True)
        with pytest.raises(ValueError):
            T.RandomFlip(horizontal=False, vertical=False)

    @pytest.mark.parametrize(
        "crop_type, size, low, high",
        [
            ("absolute", (30, 200), (30, 80), (30, 80)),
            ("relative", (0.5, 0.25), (30, 20), (30, 20)),
            ("relative_range", (0.5, 0.25), (30, 20), (60, 80)),
            ("absolute_range", (20, 70), (20, 20), (60, 70)),
        ],
    )
    def test_crops_lie_inside_the_image_and_have_the_size_of_their_type(self, crop_type, size, low, high):
        np.random.seed(3)
        for _ in range(20):
            crop = T.RandomCrop(crop_type, size).get_transform(image_of())
            assert low[0] <= crop.h <= high[0] and low[1] <= crop.w <= high[1]
            assert 0 <= crop.x0 <= 80 - crop.w and 0 <= crop.y0 <= 60 - crop.h


class TestLists:
    def test_each_augmentation_sees_what_the_one_before_it_made(self):
        tfms = T.AugmentationList([T.ResizeTransform(60, 80, 20, 30), T.RandomFlip(1.0), T.NoOpTransform()])(
            T.AugInput(image_of())
        )
        assert isinstance(tfms, T.TransformList)
        assert [type(t).__name__ for t in tfms.transforms] == [
            "ResizeTransform",
            "HFlipTransform",
            "NoOpTransform",
        ]
        assert tfms.transforms[1].width == 30

    def test_an_augmentation_gets_the_attributes_that_its_parameters_name(self):
        class LooksAtLabels(T.Augmentation):
            def get_transform(self, image, sem_seg):
                assert sem_seg.shape == image.shape[:2]
                return T.HFlipTransform(image.shape[1])

        aug_input = T.AugInput(image_of(), sem_seg=image_of(channels=None))
        labels = aug_input.sem_seg
        LooksAtLabels()(aug_input)
        assert (aug_input.sem_seg == labels[:, ::-1]).all()


def policies(T):
    return [
        T.ResizeShortestEdge((20, 50), 70, "range"),
        T.ResizeShortestEdge((20, 33, 47), 60, "choice"),
        T.RandomFlip(0.5),
        T.RandomFlip(0.3, horizontal=False, vertical=True),
        T.RandomCrop("absolute", (20, 25)),
        T.RandomCrop("relative", (0.7, 0.6)),
        T.RandomCrop("relative_range", (0.6, 0.6)),
        T.RandomCrop("absolute_range", (15, 30)),
    ]


@pytest.mark.needs_detectron2
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("size, channels, dtype", [
    ((61, 83), 3, np.uint8), ((90, 47), 3, np.float32), ((50, 50), 1, np.uint8), ((64, 48), None, np.float32),
])  # fmt: skip
def test_both_engines_give_the_same_pixels_boxes_and_labels_from_one_seed(seed, size, channels, dtype):
    results = []
    for module in ("adet_ext.d2.embedded.data.transforms", "detectron2.data.transforms"):
        transforms = importlib.import_module(module)
        np.random.seed(seed)
        aug_input = transforms.AugInput(
            image_of(*size, channels, dtype, seed),
            boxes=np.random.RandomState(seed).rand(4, 4) * 40,
            sem_seg=image_of(*size, None, np.uint8, seed),
        )
        transforms.AugmentationList(policies(transforms))(aug_input)
        results.append((aug_input.image, aug_input.boxes, aug_input.sem_seg, np.random.rand()))
    for ours, theirs in zip(*results):
        assert np.array_equal(ours, theirs)
        assert np.asarray(ours).dtype == np.asarray(theirs).dtype
