"""Sound COCO files of a seed, and changes that spoil them."""

import contextlib
import copy
import json
import random

import numpy as np
import pycocotools.mask as mask_util

__all__ = ["HEIGHT", "IMAGES", "WIDTH", "change_bytes", "change_key", "change_value", "spoiled_file"]

HEIGHT, WIDTH, IMAGES = 40, 60, 3

_NASTY = [
    0, -1, 1, 2, 7, 0.5, 1.0, -0.0, 2**31, 2**32 + 3, 2**53 + 1, 2**63, -(2**63) - 1, 10**20, 10**400, -(10**400),
    1e8, -1e8, 4e8, 1e12, 1e16, 1e308, -1e308, 1e-320, float("nan"), float("inf"), float("-inf"), True, False, None,
    "", "1", "a\nb", "\u00e9", "\ud800", "x\x00y", "../x.png", "/etc/passwd", "a\\b.png", [], {}, [[]], [1, 2],
]  # fmt: skip


def good_file(rng: random.Random) -> dict:
    """Return a sound COCO dict with polygons, run-length codes or boxes alone, perhaps with crowds."""
    kind = rng.choice(["polygons", "polygons", "rle", "runs", "mixed", "boxes"])
    images, annotations = [], []
    for i in range(IMAGES):
        images.append({"id": i + 1, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH})
        for _ in range(rng.randint(0, 3)):
            x, y, w, h = rng.randint(0, 30), rng.randint(0, 20), rng.randint(6, 29), rng.randint(6, 19)
            annotation = {
                "id": len(annotations) + 1,
                "image_id": i + 1,
                "category_id": rng.choice([3, 7, 8]),
                "bbox": [x, y, w, h],
                "area": w * h,
                "iscrowd": int(rng.random() < 0.05),
            }
            form = rng.choice(["polygons", "rle", "runs"]) if kind == "mixed" else kind
            if form == "polygons":
                annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x + 0.5, y + h]]
            elif form != "boxes":
                annotation["segmentation"] = _code(x, y, w, h, compressed=form == "rle")
            annotations.append(annotation)
    categories = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}, {"id": 8, "name": "owl"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def _code(x: int, y: int, w: int, h: int, compressed: bool) -> dict:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    mask[y : y + h, x : x + w] = 1
    if compressed:
        code = mask_util.encode(mask)
        return {"size": [HEIGHT, WIDTH], "counts": code["counts"].decode()}
    flat = np.concatenate([[0], mask.T.reshape(-1), [2]])
    ends = (
        np.flatnonzero(np.diff(flat)[:-1]) if flat[1] == 0 else np.concatenate([[0], np.flatnonzero(np.diff(flat[1:]))])
    )
    bounds = np.concatenate([[0], ends if flat[1] == 0 else ends[1:], [HEIGHT * WIDTH]])
    runs = np.diff(bounds).tolist()
    return {"size": [HEIGHT, WIDTH], "counts": runs if flat[1] == 0 else [0, *runs]}


def _places(value, path=()):
    """Yield the paths of all values in nested lists and dicts."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        yield (*path, key)
        yield from _places(child, (*path, key))


def _holder(data, path):
    for key in path[:-1]:
        data = data[key]
    return data


def change_value(rng: random.Random, data: dict) -> None:
    """Change one value, wherever it is."""
    places = [p for p in _places(data) if len(p) > 2 or rng.random() < 0.05]
    path = rng.choice(places)
    holder = _holder(data, path)
    old = holder[path[-1]]
    if type(old) in (int, float) and rng.random() < 0.5:
        holder[path[-1]] = rng.choice(
            [-old, old * 10**9, old + rng.choice([-100, 100]), old / 100, str(old), float(old), old + 1e-7, [old]]
        )
    elif isinstance(old, list) and rng.random() < 0.5:
        part = rng.randrange(len(old) + 1)
        holder[path[-1]] = rng.choice([old[:part], old + old, old[::-1], [old], old + [rng.choice(_NASTY)]])
    else:
        holder[path[-1]] = copy.deepcopy(rng.choice(_NASTY))


def change_key(rng: random.Random, data: dict) -> None:
    """Remove, rename, add or swap one key."""
    dicts = [data] + [h for p in _places(data) if isinstance(h := _holder(data, (*p, 0)), dict)]
    holder = rng.choice(dicts)
    if not holder:
        return
    key = rng.choice(list(holder))
    action = rng.randrange(4)
    if action == 0:
        del holder[key]
    elif action == 1:
        holder[key + "s"] = holder.pop(key)
    elif action == 2:
        new = rng.choice(
            ["ignore", "iscrowd", "area", "keypoints", "num_keypoints", "info", "score", "segmentation", "rle"]
        )
        holder[new] = copy.deepcopy(rng.choice(_NASTY))
    else:
        holder[key] = copy.deepcopy(rng.choice(dicts).get(key, rng.choice(_NASTY)))


def _change_all(rng: random.Random, data: dict) -> None:
    """Change every annotation alike, as a faulty converter does."""
    annotations = data["annotations"]
    action = rng.randrange(10)
    scale = rng.choice([1 / WIDTH, 100, 1e7, 0.01])
    shift = rng.choice([-200, 200, -35, 35, 1e9])
    for number, a in enumerate(annotations):
        polygons = a["segmentation"] if isinstance(a.get("segmentation"), list) else []
        if action == 0:
            a["id"] = number
        elif action == 1:
            a["id"] = rng.choice([f"ann{number}", -number, 2**62 + number, 2**64 + number, number + 0.5])
        elif action == 2:
            a["iscrowd"] = rng.choice([1, True, None, 1.0, "0"])
        elif action == 3:
            a["area"] = rng.choice([-1, 0, 1e11, float("nan"), None, "12", 10**400])
        elif action == 4:
            a["bbox"] = [v * scale for v in a["bbox"]]
            a.update(segmentation=[[v * scale for v in p] for p in polygons]) if polygons else None
        elif action == 5:
            a["bbox"][0] += shift
            a.update(
                segmentation=[[v + shift * (i % 2 == 0) for i, v in enumerate(p)] for p in polygons]
            ) if polygons else None
        elif action == 6:
            a["bbox"][2:] = rng.choice([[0, 0], [1e-9, 5], [5e-5, 0.4], [1e300, 1e300], [-5, -5]])
        elif action == 7:
            a.pop(rng.choice(["area", "iscrowd", "segmentation"]), None)
        elif action == 8:
            a["segmentation"] = rng.choice([[], [[]], None, [[1, 1, 2, 2]], [[5, 5, 5.2, 5, 5.2, 5.2]], [[9] * 6]])
        else:
            a["image_id"] = str(a["image_id"])
    if action == 9:
        for image in data["images"][: rng.randint(1, IMAGES)]:
            image["id"] = str(image["id"])


def change_bytes(rng: random.Random, content: bytes) -> bytes:
    """Cut, change or encode the text of a file in another way."""
    action, place = rng.randrange(8), rng.randrange(len(content))
    if action == 0:
        return content[:place]
    if action == 1:
        return content[:place] + bytes([rng.randrange(256)]) + content[place + 1 :]
    if action == 2:
        return content[:place] + content[place + rng.randint(1, 30) :]
    if action == 3:
        return content.decode().encode(rng.choice(["utf-8-sig", "utf-16", "utf-16-le", "utf-32"]))
    digits = [i for i in range(len(content)) if content[i : i + 1].isdigit()]
    place = rng.choice(digits or [0])
    new = [b"9" * rng.choice([30, 400, 5000]), b"NaN", b"-Infinity", b"1e999", b"[" * 100_000, b"1E5", b"-", b"0"]
    return content[:place] + rng.choice(new) + content[place + (action < 6) :]


def spoiled_file(seed: int) -> bytes:
    """Return the file of a seed: a sound one with one to three changes."""
    rng = random.Random(seed)
    data = good_file(rng)
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
        with contextlib.suppress(AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError):
            rng.choice([change_value, change_value, change_value, change_key, _change_all])(rng, data)
    content = json.dumps(data).encode()
    return change_bytes(rng, content) if rng.random() < 0.2 else content
