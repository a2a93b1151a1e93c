import itertools
import random

import numpy as np
import pytest
import torch

from adet_ext.config import get_cfg
from adet_ext.d2.data import DatasetCatalog, MetadataCatalog
from adet_ext.data.batches import TrainingBatches
from adet_ext.data.loader import build_test_loader, build_train_loader
from adet_ext.data.shapes import register_shapes
from adet_ext.errors import UserError


@pytest.fixture
def shapes(forget):
    """A few small images, two thirds of them wider than high."""
    from adet_ext.data.catalog import replace_dataset

    dicts = []
    for i, size in enumerate([(48, 64), (64, 48), (48, 80)]):
        register_shapes(f"loader_shapes_{i}", 7, size, seed=i)
        forget(f"loader_shapes_{i}")
        dicts += DatasetCatalog.get(f"loader_shapes_{i}")
    for number, record in enumerate(dicts):
        record["image_id"] = number
    replace_dataset("loader_shapes", lambda: dicts, {"thing_classes": MetadataCatalog.get("shapes_val").thing_classes})
    forget("loader_shapes")
    return dicts


def config(**keys):
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = ("loader_shapes",)
    cfg.MODEL.MASK_ON = True
    cfg.INPUT.MASK_FORMAT = "bitmask"
    cfg.INPUT.MIN_SIZE_TRAIN = (40, 48, 56)
    cfg.INPUT.MIN_SIZE_TEST = 48
    cfg.INPUT.CROP.ENABLED = True
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SEED = 11
    for key, value in keys.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    return cfg


def seen(loader, count):
    """What identifies ``count`` batches to the last pixel."""
    return [
        [(x["image_id"], tuple(x["image"].shape), x["image"].numpy().tobytes(), len(x["instances"])) for x in batch]
        for batch in itertools.islice(loader, count)
    ]


def test_the_same_seed_gives_the_same_batches_and_another_others(shapes):
    first = seen(build_train_loader(config()), 6)
    assert first == seen(build_train_loader(config()), 6)
    assert first != seen(build_train_loader(config(SEED=12)), 6)


@pytest.mark.parametrize("start", [1, 5, 9])
def test_a_resumed_run_sees_the_batches_of_one_never_stopped(shapes, start):
    whole = seen(build_train_loader(config()), 11)
    assert seen(build_train_loader(config(), start_iter=start), 11 - start) == whole[start:]


def test_workers_change_nothing(shapes):
    assert seen(build_train_loader(config()), 6) == seen(build_train_loader(config(DATALOADER__NUM_WORKERS=2)), 6)


def test_processes_share_out_the_batches_of_one(shapes):
    whole = seen(build_train_loader(config()), 5)
    halves = [seen(build_train_loader(config(), rank=rank, world_size=2), 5) for rank in range(2)]
    assert [a + b for a, b in zip(*halves)] == whole


def test_repeated_images_are_augmented_anew(shapes):
    batches = seen(build_train_loader(config()), 30)
    views = {}
    for batch in batches:
        for image_id, *view in batch:
            views.setdefault(image_id, set()).add(tuple(view))
    assert max(len(v) for v in views.values()) > 1


def test_the_training_process_s_own_random_numbers_are_not_touched(shapes):
    def state():
        return random.random(), np.random.rand(), torch.rand(1).item()

    results = []
    for batches in (0, 3):
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        seen(build_train_loader(config()), batches)
        results.append(state())
    assert results[0] == results[1]


def test_loading_leaves_skipped_images_unread(shapes):
    read = []

    def mapper(record):
        read.append(record["image_id"])
        return record

    batches = build_train_loader(config(), mapper=mapper, start_iter=50)
    next(iter(batches))
    assert len(read) == 4


def test_a_batch_holds_images_of_one_aspect(shapes):
    for batch in itertools.islice(build_train_loader(config()), 12):
        assert len({x["width"] > x["height"] for x in batch}) == 1
    mixed = build_train_loader(config(DATALOADER__ASPECT_RATIO_GROUPING=False))
    assert any(len({x["width"] > x["height"] for x in batch}) == 2 for batch in itertools.islice(mixed, 12))


def test_an_epoch_shows_every_image_once():
    batches = TrainingBatches(10, seed=3, batch_size=5)
    epochs = [batches.epoch(i) for i in range(3)]
    assert all(sorted(e) == list(range(10)) for e in epochs) and epochs[0] != epochs[1]
    stream = [key for batch in itertools.islice(batches, 6) for key in batch]
    assert [position for position, _ in stream] == list(range(30))
    assert [index for _, index in stream] == epochs[0] + epochs[1] + epochs[2]


def test_repeat_factors_hold_on_average():
    factors = np.array([1.0, 2.5, 1.2])
    batches = TrainingBatches(3, seed=0, batch_size=1, repeat_factors=factors)
    counts = np.mean([np.bincount(batches.epoch(i), minlength=3) for i in range(400)], axis=0)
    assert np.allclose(counts, factors, atol=0.1)
    assert batches.epoch(5) == TrainingBatches(3, seed=0, batch_size=1, repeat_factors=factors).epoch(5)


def test_rare_classes_come_more_often(shapes):
    cfg = config(DATALOADER__SAMPLER_TRAIN="RepeatFactorTrainingSampler", DATALOADER__REPEAT_THRESHOLD=0.99)
    ids = [x[0] for batch in seen(build_train_loader(cfg), 20) for x in batch]
    assert max(ids.count(i) for i in set(ids)) > 80 / len(shapes)
    assert seen(build_train_loader(cfg, start_iter=7), 2) == seen(build_train_loader(cfg), 9)[7:]


def test_images_without_annotations_are_left_out_on_request(shapes):
    shapes[0]["annotations"] = []
    for filtered in (True, False):
        loader = build_train_loader(config(DATALOADER__FILTER_EMPTY_ANNOTATIONS=filtered))
        ids = {x[0] for batch in seen(loader, 30) for x in batch}
        assert (0 in ids) is not filtered


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_wrong_with_an_image_is_said_in_a_sentence_from_workers_too(shapes, workers):
    for record in shapes:
        record["width"] += 1
    with pytest.raises(UserError) as caught:
        next(iter(build_train_loader(config(DATALOADER__NUM_WORKERS=workers))))
    assert "pixels" in str(caught.value) and "\n" not in str(caught.value)


def test_a_mapper_may_decline_images(shapes):
    def mapper(record):
        return None if record["image_id"] % 2 else record

    ids = [x["image_id"] for b in itertools.islice(build_train_loader(config(), mapper=mapper), 5) for x in b]
    assert len(ids) == 20 and not any(i % 2 for i in ids)
    with pytest.raises(UserError, match="returned nothing"):
        next(iter(build_train_loader(config(), mapper=lambda record: None)))


def test_a_batch_that_processes_cannot_share_is_refused(shapes):
    with pytest.raises(UserError, match="IMS_PER_BATCH must be a multiple .* 3; got 4"):
        build_train_loader(config(), rank=0, world_size=3)


def test_no_data_is_refused(shapes):
    with pytest.raises(UserError, match="names no data set"):
        build_train_loader(config(DATASETS__TRAIN=()))
    with pytest.raises(UserError, match="no_such_set"):
        build_train_loader(config(DATASETS__TRAIN=("no_such_set",)))
    for record in shapes:
        record["annotations"] = []
    with pytest.raises(UserError, match="loader_shapes"):
        build_train_loader(config())
    with pytest.raises(UserError, match="SAMPLER_TRAIN"):
        build_train_loader(config(DATALOADER__SAMPLER_TRAIN="Fancy", DATALOADER__FILTER_EMPTY_ANNOTATIONS=False))


def test_a_random_seed_is_drawn_where_none_is_set(shapes):
    assert len(seen(build_train_loader(config(SEED=-1)), 2)) == 2


@pytest.mark.parametrize("batch_size, workers", [(1, 0), (4, 0), (2, 2)])
def test_evaluation_sees_every_image_once_in_order(shapes, batch_size, workers):
    cfg = config(DATALOADER__NUM_WORKERS=workers)
    loader = build_test_loader(cfg, "loader_shapes", batch_size=batch_size)
    batches = list(loader)
    assert len(batches) == len(loader) == -(-len(shapes) // batch_size)
    assert [x["image_id"] for b in batches for x in b] == list(range(len(shapes)))
    assert all("instances" not in x for b in batches for x in b)


def test_evaluation_says_what_is_wrong_with_an_image(shapes):
    shapes[2]["height"] += 5
    with pytest.raises(UserError, match="pixels"):
        list(build_test_loader(config(DATALOADER__NUM_WORKERS=1), "loader_shapes"))
