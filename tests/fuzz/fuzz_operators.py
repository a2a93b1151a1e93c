"""Random calls of the operators, with good and bad arguments, on CPU, meta and fake tensors.

Each call must give the right result or raise one error that names an argument. The same call is made with tensors
without data: it must then agree with the kernel, about refusal as about sizes, types and strides.

    python -m tests.fuzz.fuzz_operators --calls 4000 --seed 0
"""

import argparse
import faulthandler
import inspect
import logging
import random
import time
from collections import Counter
from contextlib import nullcontext

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from adet_ext.layers import (
    blend_factored,
    blend_masks,
    blend_reference,
    blur_pool,
    dr1_conv,
    extension,
    group_norm_relu,
    nms_mask,
    paste_masks,
    resized_cross_entropy,
    roi_pred,
    roi_sample,
)

FACES = {
    "blend_masks": blend_masks.blend_masks,
    "assemble_masks": blend_masks.assemble_masks,
    "blend_factored": blend_factored.blend_factored,
    "blend_vector": blend_factored.blend_vector,
    "crop_bases": blend_reference.crop_bases,
    "blur_pool": blur_pool.blur_pool,
    "dr1_conv": dr1_conv.dr1_conv,
    "group_norm_relu": group_norm_relu.group_norm_relu,
    "nms_mask": nms_mask.nms_mask,
    "paste_masks": paste_masks.paste_masks,
    "resized_cross_entropy": resized_cross_entropy.resized_cross_entropy,
    "roi_sample": roi_sample.roi_sample,
    "roi_pred": roi_pred.roi_pred,
    "roi_pred_dense": roi_pred.roi_pred_dense,
}
INTS = (-(2**63), -(2**31), -1, 0, 1, 2, 3, 17, 4097, 2**31 - 1, 2**31, 2**40, 2**63 - 1)
FLOATS = (float("nan"), float("inf"), -float("inf"), -1.0, 0.0, 1e-300, 1e300, 0.5)
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32, torch.int64, torch.bool)
OTHERS = (None, "x", [], [1.0], 3, 0.5, object())
SLOW = 10.0  # seconds


class Call:
    """A random call: a name, the function, and arguments by name."""

    def __init__(self, rng: random.Random):
        self.rng = rng
        self.random = torch.Generator().manual_seed(rng.randrange(2**31))
        self.dtype = rng.choice(DTYPES[:4])
        self.wide = torch.float64 if self.dtype == torch.float64 else torch.float32
        names = [f"face {name}" for name in FACES]
        names += [f"op {name}" for name in extension.native_operators() if extension.serves(name, torch.empty(0))]
        self.name = rng.choice(names)
        kind, name = self.name.split()
        if kind == "face":
            self.function = FACES[name]
            names = list(inspect.signature(self.function).parameters)
        else:
            self.function = getattr(torch.ops.adet_ext, name).default
            names = [argument.name for argument in self.function._schema.arguments]
        made = getattr(self, name.split("_backward")[0] if kind == "op" else name)(kind == "op", name)
        self.arguments = {key: made[key] for key in names if key in made}

    def randn(self, *shape, dtype=None):
        t = torch.randn(shape, generator=self.random).to(dtype or self.dtype)
        layout = self.rng.randrange(3)
        if t.dim() == 4 and layout == 1:
            t = t.contiguous(memory_format=torch.channels_last)
        return t

    def ints(self, high, *shape):
        return torch.randint(max(high, 1), shape, generator=self.random)

    def boxes(self, *shape):
        corner = torch.rand(*shape, 2, generator=self.random) * 30 - 5
        return torch.cat([corner, corner + torch.rand(*shape, 2, generator=self.random) * 20], -1).to(self.wide)

    def crops(self, channels):
        """N, D, and what all functions that crop take."""
        n, d = self.rng.randint(1, 2), self.rng.randint(0, 3)
        bases = self.randn(n, channels, self.rng.randint(1, 9), self.rng.randint(1, 9))
        return {
            "bases": bases, "boxes": self.boxes(d), "image": self.ints(n, d), "size": self.rng.randint(1, 9),
            "scale": 0.25, "sampling_ratio": self.rng.choice([1, 1, 2]), "top_interp": "nearest",
            "pooler_type": self.rng.choice(["ROIAlign", "ROIAlignV2", "ROIPool"]), "aligned": True, "nearest": False,
            "need_bases": True, "need_factors": True, "need_attentions": True, "deterministic": False, "weighting": 0,
        }  # fmt: skip

    def crop_bases(self, op, name):
        return self.crops(3)

    def blend_masks(self, op, name):
        made = self.crops(self.rng.randint(1, 4))
        d, (_, k, *_), side, size = made["boxes"].shape[0], made["bases"].shape, self.rng.randint(1, 5), made["size"]
        return {**made, "attentions": self.randn(d, k, side, side), "grad": self.randn(d, size, size)}

    def assemble_masks(self, op, name):
        return {**self.crops(4), "side": 2}

    def blend_vector(self, op, name):
        made = self.crops(self.rng.randint(1, 4))
        return {**made, "embeddings": self.randn(made["boxes"].shape[0], made["bases"].shape[1])}

    def blend_factored(self, op, name):
        c, k, r, rng = self.rng.randint(1, 4), self.rng.randint(1, 3), self.rng.randint(1, 3), self.rng
        made = self.crops(c)
        d, side = made["boxes"].shape[0], made["size"] if op else rng.randint(1, 5)
        t, sigma = self.randn(d, k, c), self.randn(d, k, r)
        made |= {"u": self.randn(k, r, side), "v": self.randn(k, r, side), "grad": self.randn(d, side, side)}
        return {**made, "t": t if op else t.flatten(1), "sigma": sigma if op else sigma.flatten(1)}

    def blur_pool(self, op, name):
        stride, taps = self.rng.choice([1, 2, 4]), self.rng.randint(1, 7)
        x = self.randn(self.rng.randint(0, 2), 3, self.rng.randint(0, 9), self.rng.randint(1, 9))
        height, width = x.shape[2:]
        grad = self.randn(*x.shape[:2], -(-height // stride), -(-width // stride))
        made = {"x": x, "grad": grad, "height": height, "width": width, "taps": taps, "stride": stride}
        return {**made, "padding": 1 if op else "reflect", "rows": 0, "columns": 0}

    def deform_conv(self, op, name):
        rng = self.rng
        n, groups, kernel = rng.randint(0, 2), rng.randint(1, 2), (rng.randint(1, 3), rng.randint(1, 3))
        stride, padding, dilation = ([rng.randint(1, 2), rng.randint(1, 2)] for _ in range(3))
        size = rng.randint(5, 9), rng.randint(5, 9)
        places = [
            (s + 2 * p - d * (k - 1) - 1) // t + 1 for s, p, d, k, t in zip(size, padding, dilation, kernel, stride)
        ]
        parts = kernel[0] * kernel[1] * groups
        made = {"x": self.randn(n, 4, *size, dtype=self.wide), "weight": self.randn(3, 4, *kernel, dtype=self.wide)}
        made |= {"offsets": self.randn(n, 2 * parts, *places, dtype=self.wide)}
        made |= {"mask": self.randn(n, parts, *places, dtype=self.wide), "stride": stride, "padding": padding}
        return {**made, "dilation": dilation, "grad": self.randn(n, 3, *places, dtype=self.wide)}

    def dr1_conv(self, op, name):
        n, c, o, h, w = self.rng.randint(0, 2), 16, self.rng.choice([16, 32]), *(self.rng.randint(0, 18),) * 2
        weight, bias = self.randn(o, c, 3, 3), self.randn(o)
        made = {"x": self.randn(n, c, h, w), "weight": weight, "bias": bias, "padding": 1, "turned": False}
        made |= {"a": self.randn(n, c, h, w), "before": None, "after2": None, "results": self.rng.choice([1, 2])}
        after = self.randn(n, o, h, w)
        return {**made, "b": after, "after": after, "after2": after if made["results"] == 2 else None}

    def group_norm_relu(self, op, name):
        n, maps = self.rng.randint(0, 2), range(self.rng.randint(1, 3))
        maps = [self.randn(n, 6, self.rng.randint(0, 9), self.rng.randint(1, 9)) for _ in maps]
        return {"maps": maps, "weight": self.randn(6), "bias": self.randn(6), "groups": 3, "eps": 1e-5}

    def nms_mask(self, op, name):
        n, k = self.rng.randint(0, 2), self.rng.randint(0, 20)
        boxes = self.boxes(n, k).float()
        return {"boxes": boxes, "classes": self.ints(3, n, k), "valid": self.ints(2, n, k).bool(), "threshold": 0.5}

    def paste_masks(self, op, name):
        d, side, size = self.rng.randint(0, 3), self.rng.randint(0, 5), (self.rng.randint(0, 20), 9)
        kind = self.wide if op else self.dtype
        masks = torch.rand(d, side, side, generator=self.random).to(kind)
        out = torch.zeros(d, *size, dtype=torch.bool)
        return {"masks": masks, "boxes": self.boxes(d), "image_size": size, "threshold": 0.5, "out": out}

    def resized_cross_entropy(self, op, name):
        n, c, (h, w) = self.rng.randint(0, 2), self.rng.randint(1, 20), (self.rng.randint(1, 9), self.rng.randint(1, 9))
        labels = self.ints(c, n, self.rng.randint(0, 30), self.rng.randint(1, 30))
        made = {"logits": self.randn(n, c, h, w, dtype=self.wide if op else None), "labels": labels}
        return {**made, "ignored": self.rng.choice([255, 0]), "gradient": self.rng.random() < 0.5}

    def roi_sample(self, op, name):
        n, d, c, (kh, kw) = self.rng.randint(1, 2), self.rng.randint(0, 4), 3, (self.rng.randint(1, 3), 2)
        features = [self.randn(n, c, self.rng.randint(1, 9), self.rng.randint(1, 9)) for _ in range(2)]
        made = {"features": features, "boxes": self.boxes(d), "image": self.ints(n, d), "level": self.ints(2, d)}
        made |= {
            "strides": [4, 8],
            "scales": [0.25, 0.125],
            "size": (kh, kw),
            "kh": kh,
            "kw": kw,
            "deterministic": True,
        }
        made |= {"border": 0 if op else "clamp", "channels_last": self.rng.random() < 0.5}
        sizes = [n, *(side for x in features for side in x.shape[2:])]
        return {**made, "sizes": sizes, "grad": self.randn(d, c, kh, kw)}

    def roi_pred(self, op, name):
        return {**self.roi_sample(op, name), "weight": self.randn(4, 3, 2, 2), "bias": self.randn(4)}

    def roi_pred_dense(self, op, name):
        n, h, w = self.rng.randint(1, 2), self.rng.randint(1, 5), self.rng.randint(1, 5)
        made = {"feature": self.randn(n, 3, 2 * h, 2 * w), "ltrb": self.randn(n, 4, h, w, dtype=self.wide).abs() * 9}
        made |= {"weight": self.randn(4, 3, 2, 2), "bias": None, "stride": 8, "feature_stride": 4}
        return {**made, "border": "zeros", "chunk": self.rng.choice([None, 2])}

    def spoil(self) -> None:
        """Replace one argument, or a part of it, by something random."""
        key = self.rng.choice(list(self.arguments))
        value = self.arguments[key]
        if isinstance(value, (list, tuple)) and value and self.rng.random() < 0.7:
            place, parts = self.rng.randrange(len(value)), list(value)
            parts[place : place + 1] = self.rng.choice([[], [self.other(value[place])], [value[place]] * 2])
            self.arguments[key] = type(value)(parts)
        else:
            self.arguments[key] = self.other(value)

    def other(self, value):
        if self.rng.random() < 0.1:
            return self.rng.choice(OTHERS)
        if isinstance(value, torch.Tensor):
            return self.other_tensor(value)
        if isinstance(value, float):
            return self.rng.choice(FLOATS)
        return self.rng.choice(INTS) if isinstance(value, int) else self.rng.choice(OTHERS)

    def other_tensor(self, t):
        axis = self.rng.randrange(t.dim()) if t.dim() else 0
        changes = [lambda: t[None], lambda: t.to("meta"), lambda: t.to(self.rng.choice(DTYPES)), lambda: t.mT]
        if t.dim():
            changes += [lambda: t.narrow(axis, 0, 0), lambda: t.select(axis, 0), lambda: torch.cat([t, t], axis)]
            changes += [lambda: t.transpose(0, axis), lambda: t.narrow(axis, 0, max(t.shape[axis] - 1, 0))]
        if t.dtype == torch.int64:
            changes += [lambda: t + 1, lambda: t - 1, lambda: torch.full_like(t, self.rng.choice(INTS))] * 2
        elif t.is_floating_point():
            changes += [lambda: torch.full_like(t, self.rng.choice(FLOATS)), lambda: t * 1e30]
        try:
            return self.rng.choice(changes)()
        except (RuntimeError, IndexError):  # no such axis
            return t[None]


def place(value, change):
    """``value`` with each of its tensors changed."""
    if isinstance(value, torch.Tensor):
        return change(value)
    return type(value)(place(part, change) for part in value) if isinstance(value, (list, tuple)) else value


def outcome(call: Call, change, mode=None) -> tuple[str, object]:
    """("right", results), ("refused", sentence) or ("fault", what is wrong)."""
    arguments = {key: place(value, change) for key, value in call.arguments.items()}
    begin = time.monotonic()
    try:
        with mode or nullcontext():
            result = call.function(**arguments)
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        sentence = str(error)
        known = [*call.arguments, "the number of levels", "device", "type"]
        if isinstance(error, NotImplementedError) or not any(name in sentence for name in known):
            return "fault", f"{type(error).__name__} names no argument: {sentence[:200]}"
        return "refused", sentence.partition("\n")[0]
    except Exception as error:  # what no user should meet
        return "fault", f"{type(error).__name__}: {str(error)[:200]}"
    if time.monotonic() - begin > SLOW:
        return "fault", f"took {time.monotonic() - begin:.0f} s"
    if result is None:
        return "right", [arguments["out"]]
    return "right", [result] if isinstance(result, torch.Tensor) else list(result)


def disagreement(cpu: list[torch.Tensor], other: list[torch.Tensor], device: str, strides: bool) -> str | None:
    for a, b in zip(cpu, other, strict=True):
        if b.device.type != device:
            return f"a result is on {b.device} instead of {device}"
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"a result is {tuple(a.shape)} {a.dtype}; without data {tuple(b.shape)} {b.dtype}"
        if strides and a.numel() and a.squeeze().stride() != b.squeeze().stride():
            return f"a result has strides {a.stride()}; without data {b.stride()}"
    return None


def check(call: Call) -> tuple[str, str]:
    """The class of what the call does, and a sentence."""
    tensors = [t for v in call.arguments.values() for t in (v if isinstance(v, (list, tuple)) else [v])]
    devices = {t.device.type for t in tensors if isinstance(t, torch.Tensor)}
    kind, found = outcome(call, torch.clone)
    if kind == "fault":
        return "fault", found
    if len(devices) > 1:
        return ("mixed devices refused", found) if kind == "refused" else ("fault", "mixed devices were not refused")
    if kind == "right" and devices == {"cpu"}:
        again = outcome(call, torch.clone)[1]
        if not all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(found, again)):
            return "fault", "a second call gives another result"
    fakes = FakeTensorMode()
    for device, mode, change in (
        ("meta", nullcontext(), lambda t: t.to("meta")),
        ("cpu", fakes, fakes.from_tensor),
    ):
        if devices != {"cpu"}:
            break
        other, without = outcome(call, change, mode)
        if other == "fault":
            return "fault", f"without data: {without}"
        if kind == "right" and other == "right":
            wrong = disagreement(found, without, device, call.name.startswith("op"))
            if wrong:
                return "fault", wrong
        elif kind != other and not (kind == "refused" and by_value(found)):
            return "fault", f"{kind} {found if kind == 'refused' else ''}; without data {other} {without}"[:300]
    return ("right" if kind == "right" else "refused"), "" if kind == "right" else found


def by_value(sentence: str) -> bool:
    """Whether an error is about numbers in a tensor, which one without data does not show."""
    words = "image[", "level[", "index", "out of bounds", "out of range", "on a CPU", "into memory", "to be ignored"
    return any(word in sentence for word in words)


def run(n: int, seed: int, faults: list[str] | None = None) -> Counter[str]:
    """Make ``n`` random calls; return how many ended in each class, by operator."""
    rng, counts = random.Random(seed), Counter()
    with torch.random.fork_rng(devices=[]):
        for number in range(n):
            call = Call(rng)
            for _ in range(rng.choice([0, 1, 1, 2])):
                call.spoil()
            with torch.no_grad():
                found, sentence = check(call)
            counts[f"{call.name}: {found}"] += 1
            if found == "fault" and faults is not None:
                faults.append(f"seed {seed}, call {number}, {call.name}: {sentence}")
    return counts


def main() -> None:
    logging.getLogger("torch._subclasses").setLevel(logging.CRITICAL)  # a traceback for every refused call
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--calls", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    faulthandler.enable()
    faults: list[str] = []
    counts = run(options.calls, options.seed, faults)
    for name, count in sorted(counts.items()):
        print(f"{count:6d}  {name}")
    totals = Counter()
    for name, count in counts.items():
        totals[name.rpartition(": ")[2]] += count
    print("\n".join(faults), dict(totals), sep="\n")


if __name__ == "__main__":
    main()
