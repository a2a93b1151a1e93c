"""Penn-Fudan and CamVid: what the layouts made of their archives hold, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image

from adet_ext.cli.data import main
from adet_ext.d2.data import DatasetCatalog, MetadataCatalog
from adet_ext.data.pennfudan import FOLDER_OF, _register_built_in
from adet_ext.data.prepare_camvid import prepare_camvid
from adet_ext.data.prepare_pennfudan import prepare_pennfudan
from adet_ext.data.validate import validate_coco
from adet_ext.errors import UserError


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def people(tmp_path) -> Path:
    """Six images of 30 x 20; the n-th has a person with a hole, and, if n is even, a second one."""
    source = tmp_path / "PennFudanPed"
    for n in range(1, 7):
        mask = np.zeros((20, 30), np.uint8)
        mask[2:12, n : n + 8], mask[5:7, n + 2 : n + 4] = 1, 0
        if n % 2 == 0:
            mask[14:19, 20:29] = 2
        _save(source / "PNGImages" / f"Ped{n:05d}.png", np.full((20, 30, 3), 40 * n, np.uint8))
        _save(source / "PedMasks" / f"Ped{n:05d}_mask.png", mask)
    return source


def test_penn_fudan_becomes_a_coco_set_with_the_masks_of_the_archive(people, tmp_path, capsys):
    target = tmp_path / "out"
    assert main(["prepare-pennfudan", str(people), str(target)]) == 0
    assert "train: 5 images, 8 people" in capsys.readouterr().out
    assert sorted(p.name for p in (target / "val").iterdir()) == ["Ped00005.jpg"]
    for part, folder in FOLDER_OF.items():
        path = target / "annotations" / f"instances_{part}.json"
        checked = validate_coco(str(path), str(target / folder))
        assert checked.report.ok and checked.classes == ["person"]
        content = json.loads(path.read_text())
        for image in content["images"]:
            mask = np.array(Image.open(people / "PedMasks" / f"{Path(image['file_name']).stem}_mask.png"))
            mine = [a for a in content["annotations"] if a["image_id"] == image["id"]]
            for k, annotation in enumerate(mine, start=1):
                assert (mask_util.decode(annotation["segmentation"]) == (mask == k)).all()
                assert annotation["area"] == (mask == k).sum()
            pixels = np.array(Image.open(target / folder / image["file_name"]))
            assert pixels.shape == (20, 30, 3) and abs(int(pixels.mean()) - 40 * image["id"]) <= 1


def test_a_recipe_is_chosen_by_training_images_alone(people, tmp_path):
    target = tmp_path / "out"
    done = prepare_pennfudan(str(people), str(target))
    assert done == {"train": (5, 8), "val": (1, 1), "fit": (4, 6), "choose": (1, 2)}
    parts = {
        part: [
            i["file_name"]
            for i in json.loads((target / "annotations" / f"instances_{part}.json").read_text())["images"]
        ]
        for part in FOLDER_OF
    }
    assert sorted(parts["fit"] + parts["choose"]) == parts["train"] and parts["choose"] == ["Ped00006.jpg"]


def test_the_built_in_names_read_the_prepared_folder(people, tmp_path, monkeypatch):
    prepare_pennfudan(str(people), str(tmp_path / "pennfudan"))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    _register_built_in()
    records = DatasetCatalog.get("pennfudan_fit")
    assert len(records) == 4 and MetadataCatalog.get("pennfudan_fit").thing_classes == ["person"]
    assert {a["category_id"] for record in records for a in record["annotations"]} == {0}
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "elsewhere"))
    _register_built_in()
    with pytest.raises(UserError, match="instances_fit.json is missing; make it by .* data prepare-pennfudan Penn"):
        DatasetCatalog.get("pennfudan_fit")


def test_a_second_start_finishes_what_the_first_left(people, tmp_path):
    target = tmp_path / "out"
    prepare_pennfudan(str(people), str(target))
    kept, lost = target / "train" / "Ped00001.jpg", target / "train" / "Ped00002.jpg"
    before = kept.stat().st_mtime_ns
    lost.unlink()
    assert prepare_pennfudan(str(people), str(target))["train"] == (5, 8)
    assert lost.is_file() and kept.stat().st_mtime_ns == before


def test_an_incomplete_penn_fudan_is_refused(people, tmp_path):
    with pytest.raises(UserError, match="PNGImages is missing; .* must be the folder PennFudanPed of PennFudanPed.zip"):
        prepare_pennfudan(str(tmp_path), str(tmp_path / "out"))
    (people / "PedMasks" / "Ped00003_mask.png").unlink()
    with pytest.raises(UserError, match="Ped00003_mask.png is missing; .* must be complete"):
        prepare_pennfudan(str(people), str(tmp_path / "out"))
    _save(people / "PedMasks" / "Ped00003_mask.png", np.zeros((5, 5), np.uint8))
    with pytest.raises(UserError, match="Ped00003_mask.png is 5 x 5 pixels, its image 30 x 20"):
        prepare_pennfudan(str(people), str(tmp_path / "out"))
    (people / "PNGImages" / "Ped00001.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="Ped00001.png is not an image, or only a part of one"):
        prepare_pennfudan(str(people), str(tmp_path / "fresh"))


@pytest.fixture
def street(tmp_path) -> Path:
    """Two sequences; the second one has a gap in time, and a frame that is one off its place."""
    source = tmp_path / "CamVid"
    stems = {"train": ["A_000030", "A_000060", "B_f00010", "B_f00021", "B_f00030", "B_f00090", "B_f00100"]}
    stems["val"] = ["B_f00040", "B_f00042"]
    for split, names in stems.items():
        for i, name in enumerate(names):
            _save(source / split / f"{name}.png", np.full((6, 8, 3), i, np.uint8))
            _save(source / f"{split}annot" / f"{name}.png", np.full((6, 8), i + 5, np.uint8))
        lines = [f"/SegNet/CamVid/{split}/{n}.png /SegNet/CamVid/{split}annot/{n}.png" for n in reversed(names)]
        (source / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return source


def test_camvid_becomes_lists_sequences_and_runs_in_the_order_of_time(street, tmp_path, capsys):
    target = tmp_path / "out"
    assert main(["prepare-camvid", str(street), str(target)]) == 0
    assert "val: 2 images" in capsys.readouterr().out
    assert (target / "val.txt").read_text().splitlines() == [
        "val/B_f00040.jpg valannot/B_f00040.png",
        "val/B_f00042.jpg valannot/B_f00042.png",
    ]
    sequences = json.loads((target / "sequences.json").read_text())
    assert list(sequences["train"]) == ["A", "B"] and sequences["train"]["A"] == ["A_000030", "A_000060"]
    runs = json.loads((target / "runs.json").read_text())["train"]
    assert [(run["sequence"], run["step"], len(run["stems"])) for run in runs] == [
        ("A", 30, 2),
        ("B", 10, 3),
        ("B", 10, 2),
    ]
    copied, original = (x / "trainannot" / "A_000060.png" for x in (target, street))
    assert copied.read_bytes() == original.read_bytes()
    assert json.loads((target / "classes.json").read_text())["classes"][9] == "Pedestrian"


def test_a_broken_camvid_is_refused(street, tmp_path):
    _save(street / "trainannot" / "A_000030.png", np.full((6, 8), 12, np.uint8))
    with pytest.raises(UserError, match="A_000030.png must have the size of its frame and values up to 11"):
        prepare_camvid(str(street), str(tmp_path / "out"))
    (street / "val" / "B_f00040.png").unlink()
    with pytest.raises(UserError, match="B_f00040.png is missing; .* must be complete"):
        prepare_camvid(str(street), str(tmp_path / "out"))
