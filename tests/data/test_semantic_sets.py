import json

import cv2
import numpy as np
import pytest
import torch

from adet_ext.config import get_cfg
from adet_ext.d2.data import DatasetCatalog, MetadataCatalog
from adet_ext.data.camvid import camvid_runs
from adet_ext.data.cityscapes import cityscapes_runs
from adet_ext.data.clips import holds_sequences, test_clips, training_clips
from adet_ext.data.frame_folders import frame_folder_runs, read_classes, register_frame_folders
from adet_ext.data.loader import build_test_loader, build_train_loader
from adet_ext.data.scene_augmentation import SceneAugmentation
from adet_ext.data.semantic_mapper import SemanticMapper
from adet_ext.data.semantic_sets import Run, register_semantic
from adet_ext.data.shapes_sequences import CLASSES, register_shapes_video
from adet_ext.errors import UserError


def write(path, labels=False, size=(24, 32), value=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = size if labels else (*size, 3)
    cv2.imwrite(str(path), np.full(shape, value, np.uint8))


def config(train, *, classes=2, frames=3, **keys):
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = (train,)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = classes
    cfg.INPUT.VIDEO.FRAMES = cfg.INPUT.VIDEO.FRAMES_TEST = frames
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.SEED = 5
    for key, value in keys.items():
        setattr(cfg.INPUT.SEMANTIC, key, value)
    return cfg


def mapper(is_train=False, num_classes=2, **augmentation):
    return SemanticMapper(is_train, augmentation=SceneAugmentation(**augmentation), num_classes=num_classes)


@pytest.fixture
def street(tmp_path, forget):
    """Three frames on Monday, of which the first has no labels, and two on Tuesday."""
    root = tmp_path / "street"
    for day, count in (("monday", 3), ("tuesday", 2)):
        for t in range(8, 8 + count):
            write(root / "train" / "images" / day / f"{t}.png", value=10 * t)
            if (day, t) != ("monday", 8):
                write(root / "train" / "labels" / day / f"{t}.png", labels=True)
    (root / "classes.json").write_text(json.dumps({"classes": ["road", "car"], "void_id": 7}))
    forget("street")
    return root / "train"


def test_frames_are_in_the_order_of_their_numbers_and_may_lack_labels(street):
    runs = frame_folder_runs(str(street))
    assert [run.sequence for run in runs] == ["monday", "tuesday"]
    assert [path.rsplit("/")[-1] for path in runs[0].frames] == ["8.png", "9.png", "10.png"]
    assert runs[0].labels[0] is None and runs[0].labels[2].endswith("labels/monday/10.png")


def test_a_training_clip_ends_at_every_frame_with_labels_that_has_enough_before_it(street):
    register_frame_folders("street", str(street))
    runs = DatasetCatalog.get("street")
    ends = [
        (clip["sequence"], clip["file_names"][-1][-6:]) for clip in training_clips(runs, config("street", frames=2))
    ]
    assert ends == [("monday", "/9.png"), ("monday", "10.png"), ("tuesday", "/9.png")]
    assert len(training_clips(runs, config("street", frames=3))) == 1
    with pytest.raises(UserError, match="INPUT.VIDEO.FRAMES is 4.*street"):
        training_clips(runs, config("street", frames=4))


def test_evaluation_scores_every_frame_with_labels_once(street):
    register_frame_folders("street", str(street))
    runs = DatasetCatalog.get("street")
    for frames in (1, 2, 3, 9, 0):
        scored = [
            path
            for clip in test_clips(runs, config("street", frames=frames))
            for path, label, counts in zip(clip["file_names"], clip["sem_seg_file_names"], clip["scored"])
            if counts and label
        ]
        assert sorted(scored) == sorted(
            p for run in runs for p, x in zip(run["file_names"], run["sem_seg_file_names"]) if x
        )
    assert [len(clip["file_names"]) for clip in test_clips(runs, config("street", frames=2))] == [2, 2, 1, 2]


def test_labels_of_no_class_become_255_and_frames_without_labels_are_all_of_it(street):
    labels = np.array([[0, 7], [1, 1]], np.uint8).repeat(12, 0).repeat(16, 1)
    cv2.imwrite(str(street / "labels" / "monday" / "9.png"), labels)
    register_frame_folders("street", str(street))
    clip = next(iter(build_test_loader(config("street", frames=0), "street")))[0]
    assert clip["frames"].dtype == torch.uint8 and clip["frames"].shape == (3, 3, 24, 32)
    assert clip["sem_segs"].dtype == torch.int64 and (clip["sem_segs"][0] == 255).all()
    assert clip["sem_segs"][1, 0, 31] == 255 and clip["sem_segs"][1, 0, 0] == 0 and clip["sem_segs"][1, 23, 0] == 1
    assert (clip["height"], clip["width"], clip["sequence"]) == (24, 32, "monday") and len(clip["file_names"]) == 3


def test_frames_with_labels_are_also_a_data_set_of_images(street):
    assert register_frame_folders("street", str(street), images=True) == ["road", "car"]
    assert MetadataCatalog.get("street").evaluator_type == "sem_seg"
    assert len(DatasetCatalog.get("street")) == 4
    cfg = config("street", ENABLED=True, PAD_TO=40, CROP=40)
    image = next(iter(build_train_loader(cfg)))[0]
    assert image["image"].shape == (3, 40, 40) and image["sem_seg"].shape == (40, 40)
    # Detectron2's own way of augmenting is left for its own models, with 7 turned into 255 too.
    write(street / "labels" / "monday" / "9.png", labels=True, value=7)
    plain = [x for x, _ in zip(build_test_loader(config("street"), "street"), range(1))][0][0]
    assert (plain["sem_seg"] == 255).all()


@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda s: (s / "images" / "monday" / "9.png").rename(s / "images" / "monday" / "11.png"), "9.png: there"),
        (lambda s: write(s / "images" / "monday" / "10.jpg"), "monday: frame 10 is there twice"),
        (lambda s: (s / "images" / "wednesday").mkdir(), "wednesday: there is no image"),
        (lambda s: (s.parent / "classes.json").unlink(), "classes.json: there is no such file"),
        (lambda s: (s.parent / "classes.json").write_text("{}"), 'classes.json: "classes" must be'),
        (lambda s: (s.parent / "classes.json").write_text('{"classes": ["a"], "void_id": 0}'), '"void_id" must be'),
        (lambda s: (s.parent / "classes.json").write_text('{"classes": ["a"], "palette": [1]}'), '"palette" must be'),
    ],
)  # fmt: skip
def test_a_wrong_folder_is_named_when_it_is_registered(street, change, sentence):
    change(street)
    with pytest.raises(UserError, match=sentence):
        register_frame_folders("street", str(street))


@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda s: write(s / "images" / "monday" / "10.png", size=(24, 33)), "10.png: the frame is 33 x 24"),
        (lambda s: write(s / "labels" / "monday" / "10.png", True, size=(23, 32)), "10.png: the labels are"),
        (lambda s: write(s / "labels" / "monday" / "10.png", True, value=2), "10.png: a pixel has class 2.*2 classes"),
        (lambda s: (s / "images" / "monday" / "8.png").write_bytes(b"no"), "monday/8.png: this is not an image"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_named_when_it_is_read(street, change, sentence):
    register_frame_folders("street", str(street))
    change(street)
    with pytest.raises(UserError, match=sentence):
        next(iter(build_train_loader(config("street"))))


def test_a_missing_file_is_named_when_the_set_is_loaded(tmp_path, forget):
    forget("gone")
    write(tmp_path / "a.png")
    runs = [Run("x", [str(tmp_path / "a.png"), str(tmp_path / "b.png")], [None, None])]
    register_semantic("gone", lambda: runs, ["a"], [(0, 0, 0)])
    with pytest.raises(UserError, match="data set gone: .*b.png is missing"):
        DatasetCatalog.get("gone")


def test_sequences_and_images_cannot_be_mixed():
    assert holds_sequences(["camvid_video_train"]) and not holds_sequences(["camvid_sem_seg_train", "shapes_train"])
    with pytest.raises(UserError, match="one kind"):
        holds_sequences(["camvid_video_train", "camvid_sem_seg_train"])


def test_camvid_is_cut_at_gaps_and_sorted_by_time(tmp_path):
    names = ["B_f0060", "A_00030", "A_00091", "A_00060", "A_00300", "A_00330", "B_f0030"]
    lines = [f"/SegNet/CamVid/train/{name}.png /SegNet/CamVid/trainannot/{name}.png" for name in names]
    (tmp_path / "train.txt").write_text("\n".join(lines) + "\n")
    runs = camvid_runs(str(tmp_path), "train")
    stems = [[path.rsplit("/")[-1][:-4] for path in run.frames] for run in runs]
    assert stems == [["A_00030", "A_00060", "A_00091"], ["A_00300", "A_00330"], ["B_f0030", "B_f0060"]]
    assert runs[0].frames[0] == str(tmp_path / "train" / "A_00030.png")
    assert runs[0].labels[0] == str(tmp_path / "trainannot" / "A_00030.png")
    (tmp_path / "train.txt").write_text("one\n")
    with pytest.raises(UserError, match="train.txt, line 1"):
        camvid_runs(str(tmp_path), "train")
    with pytest.raises(UserError, match="val.txt: there is no such file"):
        camvid_runs(str(tmp_path), "val")


def test_a_cityscapes_run_is_the_snippet_around_an_annotated_frame(tmp_path):
    images = tmp_path / "leftImg8bit_sequence" / "val" / "ulm"
    for frame in (17, 18, 19, 20, 48, 49):
        write(images / f"ulm_000000_{frame:06d}_leftImg8bit.png")
    for frame in (19, 49):
        write(tmp_path / "gtFine" / "val" / "ulm" / f"ulm_000000_{frame:06d}_gtFine_labelTrainIds.png", labels=True)
    runs = cityscapes_runs(str(tmp_path), "val")
    assert [run.sequence for run in runs] == ["ulm/ulm_000000_000019", "ulm/ulm_000000_000049"]
    assert [path[-22:-16] for path in runs[0].frames] == ["000017", "000018", "000019", "000020"]
    assert [label is not None for label in runs[0].labels] == [False, False, True, False]
    assert len(runs[1].frames) == 2
    records = [{"file_names": run.frames, "sem_seg_file_names": run.labels} for run in runs]
    clips = training_clips(records, config("x", frames=2))
    assert [clip["file_names"][0][-22:-16] for clip in clips] == ["000018", "000048"]
    (images / "ulm_000000_000049_leftImg8bit.png").unlink()
    with pytest.raises(UserError, match="ulm_000000_000049_gtFine.*there is no frame"):
        cityscapes_runs(str(tmp_path), "val")


def test_moving_shapes_are_smooth_and_labeled(forget):
    forget("moving")
    spec = register_shapes_video("moving", 2, 4, size=(48, 64), seed=3, label_every=2)
    clips = [batch[0] for batch in build_test_loader(config("moving", classes=len(CLASSES), frames=0), "moving")]
    assert len(clips) == 2 and clips[0]["frames"].shape == (4, 3, 48, 64)
    assert not torch.equal(clips[0]["frames"], clips[1]["frames"])
    labeled = [bool((labels != 255).any()) for labels in clips[0]["sem_segs"]]
    assert labeled == [True, False, True, False]
    labels = clips[0]["sem_segs"][0]
    assert labels.max() < 9 and (labels >= 6).any() and (labels < 6).any()
    assert (clips[0]["sem_segs"][0] == clips[0]["sem_segs"][2]).float().mean() > 0.7
    with pytest.raises(UserError, match="at least 1 sequence"):
        register_shapes_video("moving", 0, 4)
    from adet_ext.d2.utils import PathManager

    assert PathManager.isfile(PathManager.get_local_path(spec.path("labels", 1, 2)))
    with pytest.raises(FileNotFoundError):
        PathManager.open(spec.path("labels", 2, 0), "rb")


def coordinates(height, width):
    """A frame whose pixels tell where they were, and labels that go with them."""
    rows, columns = np.indices((height, width))
    frame = np.stack([rows, columns, np.full_like(rows, 9)], -1).astype(np.uint8)
    return frame, ((rows + columns) % 5).astype(np.uint8)


def test_frames_and_labels_of_a_clip_stay_together():
    frame, labels = coordinates(40, 60)
    augment = SceneAugmentation(pad_to=44, crop=30, flip=True, pad_color=(200, 201, 202))
    flips = 0
    for seed in range(12):
        np.random.seed(seed)
        frames, maps = augment([frame, frame], [labels, labels])
        assert np.array_equal(*frames) and np.array_equal(*maps) and frames[0].shape == (30, 30, 3)
        inside = frames[0][..., 2] == 9
        rows, columns = frames[0][..., 0].astype(int), frames[0][..., 1].astype(int)
        assert ((rows + columns) % 5 == maps[0])[inside].all()
        assert (maps[0][~inside] == 255).all() and (frames[0][~inside] == (200, 201, 202)).all()
        flips += bool((np.diff(columns, axis=1)[inside[:, 1:] & inside[:, :-1]] < 0).all())
    assert 0 < flips < 12


def test_padding_is_even_and_the_scale_is_within_its_range():
    frame, labels = coordinates(40, 60)
    frames, maps = SceneAugmentation(pad_to=50)([frame], [labels])
    assert frames[0].shape == (50, 60, 3) and (maps[0][:5] == 255).all() and (maps[0][-5:] == 255).all()
    assert np.array_equal(frames[0][5:45], frame)
    np.random.seed(0)
    heights = [SceneAugmentation(scales=(0.5, 2.0))([frame], [labels])[0][0].shape[0] for _ in range(60)]
    assert 20 <= min(heights) < 26 and 68 < max(heights) <= 80
    assert SceneAugmentation(longer_side=30)([frame], [labels])[0][0].shape == (20, 30, 3)


def test_evaluation_keeps_labels_at_the_size_of_the_files(street):
    register_frame_folders("street", str(street))
    clip = next(iter(build_test_loader(config("street", frames=0, LONGER_SIDE=16), "street")))[0]
    assert clip["frames"].shape == (3, 3, 12, 16) and clip["sem_segs"].shape == (3, 24, 32)


def test_clips_depend_on_the_seed_and_the_position_alone(street):
    register_frame_folders("street", str(street))
    cfg = config("street", frames=2, CROP=20)
    first = [batch for batch, _ in zip(build_train_loader(cfg), range(4))]
    later = next(iter(build_train_loader(cfg, start_iter=3)))
    assert [x["file_names"] for x in later] == [x["file_names"] for x in first[3]]
    assert all(torch.equal(a["frames"], b["frames"]) for a, b in zip(later, first[3]))


@pytest.mark.parametrize(
    "keys, sentence",
    [
        ({"MIN_SCALE": 3.0}, "MIN_SCALE must be"),
        ({"CROP": -1}, "CROP must be"),
        ({"PAD_VALUE": "grey"}, "PAD_VALUE must be"),
    ],
)
def test_wrong_augmentations_are_named(keys, sentence):
    with pytest.raises(UserError, match=sentence):
        SceneAugmentation.from_config(config("x", **keys))


def test_colors_and_void_have_defaults(tmp_path):
    (tmp_path / "classes.json").write_text('{"classes": ["a", "b", "c"]}')
    classes, colors, void = read_classes(str(tmp_path))
    assert classes == ["a", "b", "c"] and len(set(colors)) == 3 and void == 255
