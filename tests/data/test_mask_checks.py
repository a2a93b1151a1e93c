import numpy as np
import pycocotools.mask as mask_util
import pytest

from adet_ext.data.mask_checks import crossing_polygons, polygon_areas, rle_area

SQUARE = [0.0, 0.0, 4.0, 0.0, 4.0, 4.0, 0.0, 4.0]
BOW_TIE = [0.0, 0.0, 4.0, 4.0, 4.0, 0.0, 0.0, 4.0]
TRIANGLE = [0.0, 0.0, 3.0, 0.0, 0.0, 2.0]


def crosses(polygon):
    """Every pair of edges, one by one."""
    p = np.array(polygon).reshape(-1, 2)
    q = np.roll(p, -1, 0)

    def side(a, b, c):
        return np.sign((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))

    return any(
        side(p[i], q[i], p[j]) * side(p[i], q[i], q[j]) < 0 and side(p[j], q[j], p[i]) * side(p[j], q[j], q[i]) < 0
        for i in range(len(p))
        for j in range(i)
    )


def test_areas_are_those_of_the_shapes_and_nan_stays_nan():
    areas = polygon_areas([SQUARE, TRIANGLE, [0, 0, 1, 1, 2, 2], [0, 0, 1, float("nan"), 2, 2]])
    assert areas[:3].tolist() == [16.0, 3.0, 0.0] and np.isnan(areas[3])


def test_areas_of_no_polygons_are_no_areas():
    assert polygon_areas([]).shape == (0,)


def test_only_proper_crossings_count():
    touching = [0, 0, 4, 0, 4, 4, 2, 0, 0, 4]
    assert crossing_polygons([SQUARE, BOW_TIE, TRIANGLE, touching], 10**6) == ([1], 4)


def test_crossings_agree_with_comparing_every_pair():
    rng = np.random.RandomState(0)
    polygons = [rng.randint(0, 30, 2 * rng.randint(3, 12)).astype(float).tolist() for _ in range(150)]
    assert crossing_polygons(polygons, 10**9)[0] == [i for i, p in enumerate(polygons) if crosses(p)]


def test_the_search_for_crossings_stops_at_its_limit():
    rng = np.random.RandomState(0)
    polygons = [rng.rand(400).tolist() for _ in range(300)]  # about 13,000 pairs of edges each share some x
    found, seen = crossing_polygons(polygons, max_pairs=100_000)
    assert 1 < seen < 20 and found == list(range(seen))


@pytest.mark.parametrize("seed", range(20))
def test_the_area_of_an_rle_is_its_number_of_pixels(seed):
    rng = np.random.RandomState(seed)
    mask = (rng.rand(*rng.randint(1, 70, 2)) < rng.rand()).astype(np.uint8)
    height, width = mask.shape
    rle = mask_util.encode(np.asfortranarray(mask))
    flat = mask.T.ravel()
    runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[1 - flat[0]], flat, [1 - flat[-1]]]))))
    runs = runs.tolist() if flat[0] == 0 else [0, *runs.tolist()]
    for counts in (rle["counts"], rle["counts"].decode(), runs):
        assert rle_area(counts, height, width) == mask.sum()


@pytest.mark.parametrize("counts", ["garbage!!", "", "0" * 50, "PPYo0", "zzzzzzzz", [5, 3], [-1, 101], [50, "x"]])
def test_an_rle_that_does_not_fill_the_image_is_refused(counts):
    with pytest.raises(ValueError):
        rle_area(counts, 10, 10)
