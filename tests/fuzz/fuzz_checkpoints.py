"""Load malformed checkpoints: each must load, or be refused in one sentence that names the file.

``python -m tests.fuzz.fuzz_checkpoints --files 2000 --seed 0`` from the root of the checkout; needs ``os.fork``.
"""

import argparse
import collections
import contextlib
import io
import json
import logging
import os
import pickle
import random
import resource
import signal
import struct
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

import numpy as np
import torch

from adet_ext import get_cfg
from adet_ext.engine import trainer as trainer_module
from adet_ext.engine.trainer import Trainer
from adet_ext.errors import UserError

from ..d2.test_engine import Batches, TinyTestModel  # noqa: F401  (registered by its name)

BATCH, MEMORY, SECONDS = 50, 3 << 30, 30


def make_trainer(folder: str) -> Trainer:
    cfg = get_cfg()
    words = ["MODEL.META_ARCHITECTURE", "TinyTestModel", "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "SEED", 3]
    words += ["DATASETS.TEST", (), "SOLVER.MAX_ITER", 8, "SOLVER.STEPS", (6,), "SOLVER.CHECKPOINT_PERIOD", 100]
    cfg.merge_from_list([*words, "SOLVER.WARMUP_ITERS", 2, "OUTPUT_DIR", folder])
    return Trainer(cfg)


def save(content, path: Path, rng: random.Random) -> None:
    """In one of the formats of torch."""
    torch.save(content, path, _use_new_zipfile_serialization=rng.random() < 0.6)


def spoil(data: bytes, rng: random.Random) -> bytes:
    """Cut off, overwritten, or with bytes too many."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        at, kind = rng.randrange(len(data) + 1), rng.randrange(6)
        # The structure is at the ends; in between there are mostly numbers.
        at = rng.choice([at, at % 700, max(len(data) - at % 700, 0)])
        length = rng.choice([1, 2, 4, 8, 64])
        if kind == 0:
            del data[at:]
        elif kind == 1:
            data[at : at + length] = rng.randbytes(length)
        elif kind == 2:
            data[at : at + length] = rng.choice([b"\xff", b"\x00", b"\x7f"]) * length
        elif kind == 3:
            data[at:at] = rng.randbytes(length)
        elif kind == 4:
            del data[at : at + length]
        elif at < len(data):
            data[at] ^= 1 << rng.randrange(8)
    return bytes(data)


def odd_tensor(rng: random.Random):
    return rng.choice([
        torch.zeros(3, 3, dtype=torch.complex64), torch.eye(3).to_sparse(), torch.zeros(0), torch.tensor(float("nan")),
        torch.zeros(1).expand(10**9), torch.full((4, 3, 3, 3), float("inf")), torch.zeros(4, dtype=torch.int8),
        torch.zeros(4, dtype=torch.bool), torch.zeros(4, dtype=torch.bfloat16), torch.zeros(2, 4, 1, 1).double(),
        torch.empty(4, device="meta"), torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8),
        torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]), torch.nn.Parameter(torch.ones(4)),
    ])  # fmt: skip


def odd_value(rng: random.Random, depth: int = 0):
    """Any plain value, nested or not."""
    kind = rng.randrange(14 if depth < 4 else 10)
    if kind >= 12:
        keys = [odd_value(rng, 9) if rng.random() < 0.3 else rng.choice("abc") for _ in range(rng.randrange(4))]
        return {key: odd_value(rng, depth + 1) for key in keys if isinstance(key, (str, int, float, bytes))}
    if kind >= 10:
        return [odd_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    simple = [None, True, rng.choice([-1, 0, 2**63, 10**400]), float("nan"), "text", b"bytes", "", -0.5, 3]
    return [*simple, odd_tensor(rng)][kind]


def places(tree, path=()):
    """The paths of everything in a nest of dictionaries and lists."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


class Code:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def bytes_of_torch(good, path, rng):
    buffer = io.BytesIO()
    torch.save(good, buffer, _use_new_zipfile_serialization=rng.random() < 0.5)
    path.write_bytes(spoil(buffer.getvalue(), rng))
    return path


def bytes_of_pickle(good, path, rng):
    arrays = {name: value.numpy() for name, value in good["model"].items()}
    content = rng.choice([{"model": arrays, "__author__": "x"}, {"blobs": arrays}, arrays])
    path = path.with_suffix(".pkl")
    path.write_bytes(spoil(pickle.dumps(content, protocol=rng.randrange(5)), rng))
    return path


def bytes_of_safetensors(good, path, rng):
    from safetensors.torch import save as as_safetensors

    path = path.with_suffix(".safetensors")
    path.write_bytes(spoil(as_safetensors(good["model"]), rng))
    return path


def safetensors_header(good, path, rng):
    sizes = [-1, 0, 1, 2**31, 2**63, 2**64, 10**40, 1.5, float("nan"), float("inf"), "4", None, [1], True]
    header = {
        name: {"dtype": "F32", "shape": list(value.shape), "data_offsets": [0, value.numel() * 4]}
        for name, value in good["model"].items()
    }
    entry = header[rng.choice(list(header))]
    what = rng.choice(["dtype", "shape", "data_offsets", "entry", "key"])
    if what == "dtype":
        entry["dtype"] = rng.choice(["F8_E4M3", "BF16", "F4", "X", "", None, 3, "C64", "BOOL"])
    elif what in ("shape", "data_offsets"):
        entry[what] = [rng.choice(sizes) for _ in range(rng.randrange(4))]
    elif what == "entry":
        header[rng.choice(list(header))] = odd_json(rng)
    else:
        header[rng.choice(["", "__metadata__", "a" * 5000])] = odd_json(rng)
    text = json.dumps(header).encode()
    length = rng.choice([len(text), len(text), 0, 2**63, 10**8, len(text) + 8, len(text) - 1])
    path = path.with_suffix(".safetensors")
    path.write_bytes(struct.pack("<Q", length) + text + bytes(rng.choice([0, 100, 4000])))
    return path


def odd_json(rng):
    return rng.choice([None, 1, -1.5, "x", [], {}, [[]], {"a": {"b": []}}, {"dtype": "F32"}, float("nan")])


def nesting(good, path, rng):
    content = odd_value(rng) if rng.random() < 0.5 else {**good, "model": odd_value(rng)}
    if rng.random() < 0.3:
        path = path.with_suffix(".pkl")
        with contextlib.suppress(Exception):  # not everything pickles
            path.write_bytes(pickle.dumps(content, protocol=2))
            return path
    save(content, path.with_suffix(".pth"), rng)
    return path.with_suffix(".pth")


def tensors(good, path, rng):
    model = dict(good["model"])
    for name in rng.sample(list(model), 2):
        model[name] = odd_tensor(rng)
    save({**good, "model": model}, path, rng)
    return path


def training_state(good, path, rng):
    for _ in range(rng.choice([1, 1, 3])):
        *parents, last = rng.choice([p for p in places(good) if p[0] != "model"])
        node = good
        with contextlib.suppress(KeyError, IndexError, TypeError):  # replaced by an earlier round
            for key in parents:
                node = node[key]
            if rng.random() < 0.3:
                del node[last]
            else:
                node[last] = odd_value(rng)
    save(good, path, rng)
    return path


def code(good, path, rng):
    marker = str(path.parent / "ran")
    evil = rng.choice([
        Code(os.system, f"touch {marker}"), Code(eval, f"open({marker!r}, 'w')"), Code(exec, f"open({marker!r}, 'w')"),
        Code(getattr, torch, "load"), Code(bytearray, 2**40), Code(np.zeros, 2**40), Code(torch.zeros, 2**40),
        Code(open, marker, "w"), Code(np.load, marker), Code(__import__, "os"), torch.nn.Linear(2, 2), Path(marker),
    ])  # fmt: skip
    content = rng.choice([evil, {"model": evil}, {**good, "trainer": evil}, {"model": {"net.0.weight": evil}}])
    if rng.random() < 0.5:
        path = path.with_suffix(".pkl")
        path.write_bytes(pickle.dumps(content, protocol=rng.randrange(5)))
    else:
        save(content, path, rng)
    return path


def pickle_program(good, path, rng):
    """Instructions of the unpickler in any order, with arguments of any size."""
    numbers = [b"\xff" * 4, b"\x00" * 4, struct.pack("<I", rng.randrange(2**32)), b"\x10\x00\x00\x00"]
    words = [bytes([rng.choice(b"().012FIJKLMNQRSTUVX]abcdeghijloprstu}\x80\x81\x82\x85\x86\x87\x88\x89\x8a\x8b\x8c"
                               b"\x8d\x8e\x8f\x90\x91\x92\x93\x94\x95\x96\x97\x98")]) + rng.choice([b"", *numbers])
             for _ in range(rng.randrange(1, 40))]  # fmt: skip
    path = path.with_suffix(".pkl")
    path.write_bytes(b"\x80\x02" + b"".join(words) + b".")
    return path


CLASSES = [
    bytes_of_torch, bytes_of_pickle, bytes_of_safetensors, safetensors_header, nesting, tensors, training_state, code,
    pickle_program,
]  # fmt: skip


def outcome(path: Path, folder: str) -> str:
    """ "loaded", "refused", or what is wrong."""
    trainer = make_trainer(folder)
    signal.alarm(SECONDS)
    try:
        rest = trainer.checkpointer.load(str(path))
        assert isinstance(rest, dict)
        if trainer.iter:  # the training state was loaded: it must serve
            trainer.start_iter = trainer.iter + 1
            trainer.train()
        result = "loaded"
    except UserError as error:
        named = path.name in str(error) or "not finite" in str(error) or "Loss became" in str(error)
        result = "refused" if named and "\n" not in str(error) else f"sentence: {str(error)[:200]}"
    except Exception:
        result = f"traceback: {traceback.format_exc()[-1500:]}"
    finally:
        signal.alarm(0)
    return "code ran" if (path.parent / "ran").exists() else result


def batch(numbers: range, seed: int, out: int) -> None:
    """Try the files of these numbers; write one line for each."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    torch.set_num_threads(1)
    trainer_module.build_train_loader = lambda cfg, start_iter=0: Batches(start_iter)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(folder)
        trainer.max_iter = 4
        trainer.train()
        for number in numbers:
            rng = random.Random(f"{seed} {number}")
            make = CLASSES[number % len(CLASSES)]
            good = torch.load(f"{folder}/model_final.pth")
            path = None
            while path is None:  # not everything can be saved
                with contextlib.suppress(Exception):
                    path = make(good, Path(folder, "malformed.pth"), rng)
            line = json.dumps([number, make.__name__, outcome(path, folder)])
            os.write(out, f"{line}\n".encode())
            path.unlink()


def run(n: int, seed: int) -> dict[str, dict[str, int]]:
    """Try ``n`` files; return counts by class and outcome. What is wrong is printed."""
    counts: dict = {make.__name__: collections.Counter() for make in CLASSES}
    for first in range(0, n, BATCH):
        numbers = range(first, min(first + BATCH, n))
        with tempfile.TemporaryFile() as results:
            process = os.fork()
            if not process:
                logging.disable()
                warnings.simplefilter("ignore")
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                try:
                    batch(numbers, seed, results.fileno())
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(0)
            _, status = os.waitpid(process, 0)
            results.seek(0)
            found = [json.loads(line) for line in results]
        for number, name, what in found:
            counts[name][what.partition(":")[0]] += 1
            if what not in ("loaded", "refused"):
                print(f"{seed} {number} {name} {what}", file=sys.stderr)
        if len(found) < len(numbers):  # the process ended in the middle of a file
            number = numbers[len(found)]
            what = "hang" if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM else "crash"
            counts[CLASSES[number % len(CLASSES)].__name__][what] += 1
            print(f"{seed} {number} {what}, status {status}", file=sys.stderr)
    return {name: dict(counter) for name, counter in counts.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    found = run(arguments.files, arguments.seed)
    for name, counter in found.items():
        print(f"{name:<22} {counter}")
    sys.exit(any(counter.keys() - {"loaded", "refused"} for counter in found.values()))
