"""Agreement with the numbers of AdelaiDet's FCOS and BlendMask, for weights rebuilt from names and shapes.

``python -m tests.modeling.golden`` prints the largest error of each quantity. The folder ``tests/golden`` has the
numbers: ``NAME.json`` the state-dict keys and the weights' sums, ``NAME.npz`` what the model gives, ``inputs.*`` the
picture and the ground truth.
"""

import hashlib
import json
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from adet_ext import load_config
from adet_ext.d2.modeling import build_model
from adet_ext.d2.structures import BitMasks, Boxes, Instances, PolygonMasks

FOLDER = Path(__file__).parent.parent / "golden"
CONFIGS = {"fcos_R_50_1x": "FCOS/R_50_1x.yaml", "blendmask_R_50_1x": "BlendMask/R_50_1x.yaml"}

# Absolute, and relative to the largest value: ten times the spread of the reference implementation with itself.
TOLERANCES = {
    "features": (1.1e-4, 4e-5),
    "cls_logits": (8e-4, 4e-5),
    "bbox_reg": (5e-4, 6e-5),
    "ctrness": (2.5e-4, 1.2e-4),
    "top_feats": (5e-4, 8e-5),
    "bases": (1.5e-4, 7e-5),
    "scores": (8e-5, 1e-4),
    "boxes": (1.2e-2, 2.2e-5),
    "masks": (2.3e-4, 2.5e-4),
    "losses": (5e-4, 7e-5),
    "grad_norm": (math.inf, 1.5e-3),
}

_GAINS = {
    "stem.conv1.weight": 1 / 64,
    ".conv3.weight": 0.25,
    "cls_logits.weight": 3.0,
    "bbox_pred.weight": 2.0,
    "top_layer.weight": 2.0,
}
_OFFSETS = {"cls_logits.bias": -12.0, "bbox_pred.bias": 4.0}


def rule_value(key: str, shape: torch.Size) -> torch.Tensor:
    """The value that the weight rule gives a state-dict entry, float32."""

    def by_suffix(table, default):
        return next((value for suffix, value in table.items() if key.endswith(suffix)), default)

    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little") % 2**63
    generator = torch.Generator().manual_seed(seed)
    leaf = key.rsplit(".", 1)[-1]
    draw = torch.rand if leaf == "running_var" else torch.randn
    n = draw(tuple(shape), generator=generator, dtype=torch.float32).double()
    if leaf == "running_var":
        value = 1 + 0.1 * n
    elif leaf == "running_mean":
        value = 0.05 * n
    elif leaf == "bias":
        value = by_suffix(_OFFSETS, 0.0) + 0.05 * n
    elif len(shape) > 1:
        centered = n - n.mean(dim=tuple(range(1, n.dim())), keepdim=True)
        value = by_suffix(_GAINS, 1.0) * math.sqrt(2 / n[0].numel()) * centered
    else:
        value = 1 + 0.05 * n
    return value.float()


def fill(model: torch.nn.Module) -> None:
    """Give a model the weights of the rule."""
    state = model.state_dict()
    model.load_state_dict({k: rule_value(k, v.shape) if v.is_floating_point() else v for k, v in state.items()})


def build(name: str, overrides: tuple[str, ...] = ()) -> torch.nn.Module:
    model = build_model(load_config(CONFIGS[name], ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", *overrides]))
    fill(model)
    return model


def record(name: str) -> tuple[dict, np.lib.npyio.NpzFile]:
    return json.loads((FOLDER / f"{name}.json").read_text()), np.load(FOLDER / f"{name}.npz")


def inputs(case: str, masks: bool) -> list[dict]:
    """The model inputs of a case."""
    arrays = np.load(FOLDER / "inputs.npz")
    polygons = json.loads((FOLDER / "inputs.json").read_text())
    picture = {"a": arrays["image_a"], "b": arrays["image_a"][:301, :403]}

    def one(which: str, empty: bool = False, as_polygons: bool = False) -> dict:
        image = picture[which]
        size = image.shape[:2]
        count = 0 if empty else len(arrays[f"classes_{which}"])
        instances = Instances(size)
        instances.gt_boxes = Boxes(torch.from_numpy(arrays[f"boxes_{which}"][:count]))
        instances.gt_classes = torch.from_numpy(arrays[f"classes_{which}"][:count])
        if masks and as_polygons:
            instances.gt_masks = PolygonMasks([o["polygons"] for o in polygons[f"objects_{which}"][:count]])
        elif masks:
            instances.gt_masks = BitMasks(torch.from_numpy(arrays[f"bitmasks_{which}"][:count]))
        sem = arrays[f"basis_sem_{which}"].astype(np.int64) * (not empty)
        chw = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float()
        truth = {"instances": instances, "basis_sem": torch.from_numpy(sem)}
        return {"image": chw, "height": size[0], "width": size[1], **truth}

    if case == "eval_b":
        return [{**one("b"), "height": 452, "width": 605}]
    return {
        "eval_a": lambda: [one("a")],
        "train_a": lambda: [one("a", as_polygons=True)],
        "train_b": lambda: [one("a"), one("b")],
        "train_c": lambda: [one("a", empty=True), one("b")],
        "train_empty": lambda: [one("a", empty=True)],
    }[case]()


class Errors:
    """Collects the largest absolute error, and the largest relative to its tensor's largest value, by quantity."""

    def __init__(self):
        self.absolute: dict[str, float] = defaultdict(float)
        self.relative: dict[str, float] = defaultdict(float)

    def add(self, quantity: str, ours, theirs) -> None:
        ours = torch.as_tensor(ours).detach().double()
        theirs = torch.as_tensor(theirs).double()
        assert ours.shape == theirs.shape, f"{quantity}: {tuple(ours.shape)} for {tuple(theirs.shape)}"
        if not theirs.numel():
            return
        error = (ours - theirs).abs().max().item()
        assert math.isfinite(error), f"{quantity} is not finite"
        self.absolute[quantity] = max(self.absolute[quantity], error)
        largest = theirs.abs().max().item()
        if largest > 0:
            self.relative[quantity] = max(self.relative[quantity], error / largest)

    def within(self, quantity: str) -> bool:
        absolute, relative = TOLERANCES[quantity]
        return self.absolute[quantity] <= absolute and self.relative[quantity] <= relative


def compare_tensor(errors: Errors, quantity: str, tensor: torch.Tensor, golden, prefix: str) -> None:
    assert tuple(tensor.shape) == tuple(golden[f"{prefix}/shape"]), prefix
    step = (tensor.numel() // 1024) | 1
    errors.add(quantity, tensor.contiguous().flatten()[::step], golden[f"{prefix}/sample"])


def evaluate(name: str, case: str, errors: Errors | None = None, model=None) -> Errors:
    """Compare an evaluation: features, head, bases, raw detections with masks, and what leaves the model."""
    errors = errors or Errors()
    info, golden = record(name)
    model = (model or build(name)).eval()
    blend = hasattr(model, "blender")
    batch = inputs(case, masks=blend)
    with torch.no_grad():
        images = model.preprocess_image(batch)
        features = model.backbone(images.tensor)
        output, locations = model.proposal_generator.head_output(features)
        for level in ("p3", "p4", "p5", "p6", "p7"):
            compare_tensor(errors, "features", features[level], golden, f"{case}/features/{level}")
        for i in range(5):
            compare_tensor(errors, "cls_logits", output.logits[i], golden, f"{case}/head/cls_logits/{i}")
            compare_tensor(errors, "bbox_reg", output.distances[i], golden, f"{case}/head/bbox_reg/{i}")
            compare_tensor(errors, "ctrness", output.quality[i], golden, f"{case}/head/ctrness/{i}")
            if blend:
                dense = model.top_layer(output.box_tower[i])
                compare_tensor(errors, "top_feats", dense, golden, f"{case}/head/top_feats/{i}")
        detections = model.proposal_generator.detect(output, locations)
        fields = {}
        if blend:
            compare_tensor(errors, "bases", model.basis_module(features), golden, f"{case}/bases")
            model.visualize = True
            fields = model.branch_fields(features, output, detections)[0]
            model.visualize = False
        raw = detections.to_instances(images.image_sizes, locations, **fields)[0]
        final = model(batch)[0]["instances"]

    count = info["cases"][case]["detections"]
    assert len(raw) == count and len(final) == count
    for key, ours in (("classes", raw.pred_classes), ("levels", raw.fpn_levels), ("locations", raw.locations)):
        assert np.array_equal(ours.numpy(), golden[f"{case}/raw/{key}"]), key
    assert np.array_equal(final.pred_classes.numpy(), golden[f"{case}/final/classes"])
    assert tuple(final.image_size) == tuple(golden[f"{case}/final/image_size"])
    for stage, result in (("raw", raw), ("final", final)):
        errors.add("boxes", result.pred_boxes.tensor, golden[f"{case}/{stage}/boxes"])
        errors.add("scores", result.scores, golden[f"{case}/{stage}/scores"])
    if blend:
        compare_tensor(errors, "top_feats", raw.top_feat, golden, f"{case}/raw/top_feat")
        top = golden[f"{case}/raw/masks_top"]
        errors.add("masks", raw.pred_masks[: len(top), 0], top)
        errors.add("masks", raw.pred_masks.double().mean(dim=(1, 2, 3)), golden[f"{case}/raw/mask_means"])
        errors.add("pasted pixels", *_pasted(case, raw, final, images.image_sizes[0], golden))
    return errors


def _pasted(case: str, raw: Instances, final: Instances, frame, golden) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels that differ in pasted masks, for boxes that lie in the picture; and zeros."""
    bits = golden[f"{case}/final/masks_top_bits"]
    height, width = final.image_size
    theirs = np.unpackbits(bits, axis=1)[:, : height * width].reshape(len(bits), height, width).astype(bool)
    boxes = raw.pred_boxes.tensor[: len(bits)]
    inside = (boxes[:, :2] >= 0).all(1) & (boxes[:, 2] <= frame[1]) & (boxes[:, 3] <= frame[0])
    differing = (final.pred_masks[: len(bits)].numpy() != theirs).sum(axis=(1, 2))[inside.numpy()]
    return torch.from_numpy(differing).float(), torch.zeros(len(differing))


def train(name: str, case: str, errors: Errors | None = None) -> Errors:
    """Compare a training step: assignment, every loss term, and in ``train_a`` the gradients' norms."""
    errors = errors or Errors()
    info, golden = record(name)
    model = build(name).train()
    batch = inputs(case, masks=hasattr(model, "blender"))
    images = model.preprocess_image(batch)
    with torch.no_grad():
        model.eval()
        output, locations = model.proposal_generator.head_output(model.backbone(images.tensor))
        model.train()
    targets = model.proposal_generator.targets(locations, [x["instances"] for x in batch])
    for k in range(len(batch)):
        positive = (targets.labels[k] != model.proposal_generator.num_classes).nonzero()[:, 0]
        prefix = f"{case}/targets/{k}"
        assert np.array_equal(positive.numpy(), golden[f"{prefix}/positive"])
        assert np.array_equal(targets.labels[k, positive].numpy(), golden[f"{prefix}/labels"])
        assert np.array_equal(targets.objects[k, positive].numpy(), golden[f"{prefix}/object"])
        assert np.array_equal(targets.ltrb[k, positive].numpy(), golden[f"{prefix}/ltrb"])

    losses = model(batch)
    names = {key.rsplit("/", 1)[-1] for key in golden.files if key.startswith(f"{case}/loss/")}
    assert set(losses) == names
    for loss in names:
        errors.add("losses", losses[loss], golden[f"{case}/loss/{loss}"])
    if case == "train_a":
        sum(losses.values()).backward()
        norms = dict(model.named_parameters())
        for key, theirs in zip(info["grad_norm_keys"], golden["train_a/grad_norm"]):
            gradient = norms[key].grad
            assert (gradient is None) == (theirs == -1), key
            if gradient is not None:
                errors.add("grad_norm", gradient.double().norm(), theirs)
    return errors


def main() -> None:
    for name in CONFIGS:
        errors = Errors()
        for case in ("eval_a", "eval_b"):
            evaluate(name, case, errors)
        for case in ("train_a", "train_b", "train_c", "train_empty"):
            train(name, case, errors)
        print(f"{name}\n{'quantity':15s}{'absolute':>12s}{'relative':>12s}{'bound abs':>12s}{'bound rel':>12s}")
        for quantity in errors.absolute:
            bounds = "".join(f"{b:12.1e}" for b in TOLERANCES.get(quantity, ()))
            print(f"{quantity:15s}{errors.absolute[quantity]:12.1e}{errors.relative[quantity]:12.1e}{bounds}")


if __name__ == "__main__":
    main()
