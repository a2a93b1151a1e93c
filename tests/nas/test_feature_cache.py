"""The feature cache: computed once, never taken for another's, gone on with after a kill, bounded."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from adet_ext.errors import UserError
from adet_ext.nas import feature_cache as module
from adet_ext.nas.feature_cache import FeatureCache
from adet_ext.nas.fingerprint import fingerprint

PRINT = {"weights": "w", "files": "f", "settings": "s"}
LIMIT = 1 << 20
ROOT = Path(__file__).resolve().parents[2]
STRIDES = {"p3": 8, "p4": 16}


class Backbone:
    """Two levels of numbers that tell where they came from; counts the items that it computed."""

    def __init__(self, sizes=None):
        self.sizes, self.computed, self.batches = sizes, [], []

    def size(self, item):
        return self.sizes[item] if self.sizes else (64, 96)

    def shapes(self, item):
        return {level: (2, self.size(item)[0] // s, self.size(item)[1] // s) for level, s in STRIDES.items()}

    def __call__(self, items):
        assert not torch.is_grad_enabled()
        self.computed += items
        self.batches.append(len(items))
        found = {}
        for number, level in enumerate(STRIDES):
            _, height, width = self.shapes(items[0])[level]
            y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
            found[level] = torch.stack([torch.stack([y + 100 * item, x + number]) for item in items]).float()
        return found


def build(path, backbone=None, items=range(5), limit=LIMIT, **settings):
    prints = settings.pop("prints", PRINT)
    path = None if path is None else str(path)
    return FeatureCache.build(path, prints, list(items), backbone or Backbone(), limit, **settings)


@pytest.fixture(params=["memory", "files"])
def place(request, tmp_path):
    return None if request.param == "memory" else tmp_path / "cache"


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("sizes", [None, [(64, 96), (64, 96), (32, 48), (96, 32), (96, 32)]])
def test_an_item_is_what_the_backbone_gave(place, dtype, sizes):
    backbone = Backbone(sizes)
    cache = build(place, backbone, dtype=dtype, shapes=backbone.shapes if sizes else None, batch_size=2)
    assert len(cache) == 5 and cache.levels == ["p3", "p4"] and cache.dtype == dtype
    for item in range(5):
        with torch.no_grad():
            want = Backbone(sizes)([item])
        for level, tensor in cache[item].items():
            assert tensor.dtype == torch.float32 and cache.shapes(item)[level] == tuple(tensor.shape)
            assert torch.equal(tensor, want[level][0])
    assert torch.equal(cache[-1]["p3"], cache[4]["p3"])
    assert [int(features["p4"][0, 0, 0]) for features in cache] == [0, 100, 200, 300, 400]
    with pytest.raises(IndexError):
        cache[5]


def test_batches_end_where_the_shapes_change():
    backbone = Backbone([(64, 96), (64, 96), (32, 48), (96, 32), (96, 32)])
    build(None, backbone, shapes=backbone.shapes, batch_size=4)
    assert backbone.batches == [2, 1, 2]


def test_what_is_given_away_is_not_the_cache(place):
    cache = build(place)
    cache[0]["p3"].fill_(7)
    cache.crop(0, (0, 0, 16, 16), STRIDES)["p3"].fill_(7)
    assert cache[0]["p3"].max() < 13


def test_a_finished_cache_is_not_computed_again(tmp_path):
    build(tmp_path / "cache")
    backbone, said = Backbone(), []
    cache = build(tmp_path / "cache", backbone, say=said.append)
    assert backbone.computed == [] and said == [] and len(cache) == 5


def test_a_finished_cache_is_opened_by_a_worker_and_through_pickle(tmp_path):
    cache = build(tmp_path / "cache")
    for other in (FeatureCache.open(cache.path, PRINT), pickle.loads(pickle.dumps(cache))):
        assert torch.equal(other[3]["p4"], cache[3]["p4"])
    assert len(pickle.dumps(cache)) < 500  # the files are mapped, not copied
    inside = build(None)
    assert torch.equal(pickle.loads(pickle.dumps(inside))[3]["p4"], inside[3]["p4"])


def test_the_size_is_said_before_it_is_made(place):
    said, seen = [], []
    cache = build(place, say=said.append, progress=lambda done, total: seen.append((done, total, len(said))))
    assert cache.nbytes == 5 * 2 * (8 * 12 + 4 * 6) * 4
    assert said == [f"feature cache of 5 items, float32: 4.688 KiB {'at ' + str(place) if place else 'in memory'}"]
    assert seen == [(done, 5, 1) for done in range(1, 6)]


def test_a_cache_above_the_limit_is_refused_before_anything_is_written(place):
    with pytest.raises(UserError, match=r"limit_bytes = 4799 \(4.687 KiB\); got 4800 \(4.688 KiB\)"):
        build(place, limit=4799)
    assert place is None or not [name for name in os.listdir(place) if name.startswith("level")]
    assert build(place, limit=4800).nbytes == 4800
    assert build(None, limit=2400, dtype="float16").nbytes == 2400


def test_a_cache_that_does_not_fit_on_the_disk_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(UserError, match="must fit on the disk .* got 4.688 KiB and 1 B free"):
        build(tmp_path / "cache")
    assert not (tmp_path / "cache" / "level0.bin").exists()


@pytest.mark.parametrize(
    "change, part",
    [
        ({"prints": {**PRINT, "weights": "other"}}, "weights"),
        ({"prints": {**PRINT, "files": "other", "settings": "other"}}, "images, settings"),
        ({"prints": {**PRINT, "more": "x"}}, "more"),
        ({"dtype": "float16"}, "dtype"),
        ({"items": range(4)}, "number of items"),
    ],
)
def test_a_cache_of_anything_else_is_refused_or_left_for_one_beside(tmp_path, change, part):
    path = tmp_path / "cache"
    before = build(path)[0]["p3"]
    files = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in path.iterdir()}
    backbone = Backbone()
    with pytest.raises(UserError, match=f"must be of the same {part} as are used now"):
        build(path, backbone, **change)
    assert backbone.computed == []
    beside = build(path, backbone, other="beside", **change)
    assert beside.path.startswith(f"{path}-") and len(backbone.computed) >= len(beside)
    assert build(path, other="beside", **change).path == beside.path
    assert {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in path.iterdir()} == files
    assert torch.equal(build(path, other="beside")[0]["p3"], before)


def test_open_refuses_another_fingerprint_and_what_is_not_finished(tmp_path):
    cache = build(tmp_path / "cache")
    with pytest.raises(UserError, match="must be of the same weights"):
        FeatureCache.open(cache.path, {**PRINT, "weights": "x"})
    with pytest.raises(UserError, match="must be a feature cache"):
        FeatureCache.open(str(tmp_path), PRINT)
    (tmp_path / "cache" / "done.json").write_text('{"done": 3}')
    with pytest.raises(UserError, match="got 3 of 5 items"):
        FeatureCache.open(cache.path, PRINT)


def test_an_interrupted_build_goes_on_where_it_was(tmp_path):
    class Interrupted(Backbone):
        def __call__(self, items):
            if len(self.computed) == 4:  # one for the shapes, three of the data set
                raise KeyboardInterrupt
            return super().__call__(items)

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "cache", Interrupted())
    backbone, said = Backbone(), []
    cache = build(tmp_path / "cache", backbone, say=said.append)
    assert backbone.computed == [3, 4]
    assert said == [f"feature cache at {cache.path}: 3 of 5 items are there"]
    whole = build(None)
    assert all(torch.equal(cache[i][level], whole[i][level]) for i in range(5) for level in STRIDES)


KILLED = """
import sys, time
from adet_ext.nas import feature_cache
from tests.nas.test_feature_cache import Backbone, build

class Slow(Backbone):
    def __call__(self, items):
        print(items[0], flush=True)
        time.sleep(0.05)
        return super().__call__(items)

feature_cache._SECONDS = 0
build(sys.argv[1], Slow(), range(200))
"""


def test_a_build_that_was_killed_goes_on_and_has_every_item_right(tmp_path):
    path, line = str(tmp_path / "cache"), ""
    process = subprocess.Popen([sys.executable, "-c", KILLED, path], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    with process:
        while line != "7\n":
            line = process.stdout.readline()
            assert line
        time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    backbone = Backbone()
    cache = build(path, backbone, range(200))
    assert 6 <= backbone.computed[0] <= 8 and backbone.computed[-1] == 199
    whole = build(None, items=range(200))
    assert all(torch.equal(cache[i][level], whole[i][level]) for i in range(200) for level in STRIDES)


def test_a_second_process_waits_for_the_first(tmp_path):
    path, said = str(tmp_path / "cache"), []
    code = KILLED.replace("range(200)", "range(20)")
    process = subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    with process:
        while process.stdout.readline() != "3\n":
            assert process.poll() is None
        backbone = Backbone()
        cache = build(path, backbone, range(20), say=said.append)
    assert said[0].endswith("waiting for the process that makes it")
    assert backbone.computed == [] and int(cache[19]["p3"][0, 0, 0]) == 1900


def test_files_before_the_header_are_made_anew(tmp_path):
    path = tmp_path / "cache"
    build(path)
    (path / "features.json").unlink()
    (path / "level0.bin").write_bytes(b"half")
    assert torch.equal(build(path)[4]["p3"], build(None)[4]["p3"])


def test_a_folder_of_something_else_is_not_written_to(tmp_path):
    (tmp_path / "thesis.txt").write_text("text")
    with pytest.raises(UserError, match="it has thesis.txt"):
        build(tmp_path)
    assert os.listdir(tmp_path) == ["thesis.txt"]


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("level1.bin", b"short", "level1.bin must have 960 bytes; got 5"),
        ("level1.bin", None, "level1.bin must have 960 bytes; got 0"),
        ("features.json", b"{", "cannot be read as a cache's header"),
        ("features.json", b"[]", "cannot be read as a cache's header"),
        ("features.json", b'{"format": 1}', "cannot be read as a cache's header"),
        ("done.json", b"", "done.json: cannot be read"),
    ],
)
def test_a_damaged_cache_is_refused(tmp_path, name, content, words):
    path = tmp_path / "cache"
    build(path)
    (path / name).unlink() if content is None else (path / name).write_bytes(content)
    with pytest.raises(UserError, match=words):
        build(path)


def test_a_header_of_another_format_is_refused(tmp_path):
    build(tmp_path / "cache")
    file = tmp_path / "cache" / "features.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 2}))
    with pytest.raises(UserError, match="must have format 1"):
        build(tmp_path / "cache")


@pytest.mark.parametrize(
    "value, dtype, words",
    [
        (7e4, "float16", "p3 of item 1 must be finite in float16; it is not. Keep them as float32"),
        (float("nan"), "float32", "p3 of item 1 must be finite in float32; it is not. Check the weights"),
    ],
)
def test_features_that_are_not_finite_are_refused_with_the_item(place, value, dtype, words):
    class Broken(Backbone):
        def __call__(self, items):
            found = super().__call__(items)
            if items == [1]:
                found["p3"][0, 0, 0, 0] = value
            return found

    with pytest.raises(UserError, match=words):
        build(place, Broken(), dtype=dtype)


def test_items_of_other_shapes_than_told_are_refused(place):
    with pytest.raises(UserError, match="features of item 2 must have the shapes .* Resize all images"):
        build(place, Backbone([(64, 96), (64, 96), (32, 48)]), range(3))


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"items": ()}, "must have items; got none"),
        ({"dtype": "int8"}, "dtype must be one of float32, float16"),
        ({"other": "take"}, "other must be refuse or beside"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        build(None, **settings)


def test_a_crop_is_the_same_part_of_every_level(place):
    cache = build(place)
    crop = cache.crop(3, (16, 32, 48, 64), STRIDES)
    assert torch.equal(crop["p3"], cache[3]["p3"][:, 2:8, 4:12])
    assert torch.equal(crop["p4"], cache[3]["p4"][:, 1:4, 2:6])
    assert list(cache.crop(3, (8, 8, 8, 8), {"p3": 8})) == ["p3"]


@pytest.mark.parametrize(
    "box, words",
    [
        ((8, 0, 16, 16), "multiples of 16, the stride of p4"),
        ((0, 0, 80, 16), "inside"),
        ((0, 96, 16, 16), "inside"),
        ((-16, 0, 32, 32), "inside"),
        ((0, 0, 0, 16), "not empty"),
    ],
)
def test_a_crop_off_the_grid_or_the_image_is_refused(box, words):
    with pytest.raises(ValueError, match=words):
        build(None).crop(0, box, STRIDES)


def test_a_batch_stacks_items():
    cache = build(None)
    assert torch.equal(cache.batch([4, 1])["p3"], torch.stack([cache[4]["p3"], cache[1]["p3"]]))


def test_progress_is_brought_to_the_disk_between(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_SECONDS", 0)
    seen = []

    def look(done, total):
        file = tmp_path / "cache" / "done.json"
        seen.append(json.loads(file.read_text())["done"] if file.exists() else 0)

    build(tmp_path / "cache", progress=look)
    assert seen == [0, 1, 2, 3, 4]


class TestFingerprint:
    def test_weights_count_by_name_dtype_shape_and_value(self):
        weights = {"a": torch.arange(4.0), "b": torch.tensor(3)}
        others = [
            {"a": torch.arange(4.0)},
            {"c": torch.arange(4.0), "b": torch.tensor(3)},
            {"a": torch.arange(4.0).view(2, 2), "b": torch.tensor(3)},
            {"a": torch.arange(4.0).half(), "b": torch.tensor(3)},
            {"a": torch.tensor([0.0, 1, 2, 3.0000002]), "b": torch.tensor(3)},
        ]
        prints = [fingerprint(state)["weights"] for state in (weights, *others)]
        assert len(set(prints)) == len(prints)
        assert fingerprint({"b": torch.tensor(3), "a": torch.arange(4.0)}) == fingerprint(weights)
        assert fingerprint({"a": torch.arange(8.0).view(4, 2).t()[0] / 2, "b": torch.tensor(3)}) == fingerprint(weights)

    def test_a_module_counts_by_its_state(self):
        net = torch.nn.BatchNorm2d(2)
        assert fingerprint(net) == fingerprint(net.state_dict())

    def test_settings_count(self):
        assert fingerprint({}, settings={"a": 1, "b": 2}) == fingerprint({}, settings={"b": 2, "a": 1})
        assert fingerprint({}, settings={"size": 384}) != fingerprint({}, settings={"size": 385})

    def test_files_count_by_name_size_and_time_or_by_content(self, tmp_path):
        one, two = tmp_path / "1.jpg", tmp_path / "2.jpg"
        for file in (one, two):
            file.write_bytes(b"image")
            os.utime(file, (1, 1))
        first, content = fingerprint({}, [one, two]), fingerprint({}, [one, two], by_content=True)
        assert fingerprint({}, [two, one])["files"] != first["files"]
        assert fingerprint({}, [one])["files"] != first["files"]
        os.utime(two, (2, 2))
        assert fingerprint({}, [one, two])["files"] != first["files"]
        assert fingerprint({}, [one, two], by_content=True) == content
        two.write_bytes(b"Image")
        os.utime(two, (1, 1))
        assert fingerprint({}, [one, two]) == first  # by size and time it cannot be seen
        assert fingerprint({}, [one, two], by_content=True) != content

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(UserError, match=r"gone\.jpg: cannot be read"):
            fingerprint({}, [tmp_path / "gone.jpg"])
