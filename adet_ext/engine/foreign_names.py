"""Classifiers' checkpoints of other libraries: which kind a file is, and the names of its tensors in this package.

Kinds are told by their tensors' names and shapes. What a classifier has above its last feature is left out.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..modeling.backbone.efficientnet_lite import LITE_VARIANTS, lite_repeats

__all__ = ["Foreign", "recognize"]

_IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


class Foreign(NamedTuple):
    """A checkpoint of another library.

    ``names`` maps the file's names to those of the body. ``looks`` are the pairs of mean and standard deviation (0 to
    255, RGB) that weights of this kind are published for.
    """

    kind: str
    names: dict[str, str]
    looks: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...]


def recognize(model: Mapping[str, Any]) -> Foreign | None:
    """Return what kind of foreign classifier ``model``, tensors by name, is; None: none that is known.

    Raises:
        ValueError: a relative of a known kind that this package does not build.
    """
    if "layer1.0.conv1.weight" in model and ("conv1.weight" in model or "conv1.0.weight" in model):
        return _resnet(model)
    if "features.0.0.weight" in model and "features.1.conv.0.0.weight" in model:
        return Foreign("torchvision's MobileNet-v2", _renamed(model, _torchvision_mobilenet), (_IMAGENET,))
    if "_conv_stem.weight" in model:
        return _lite(model, "EfficientNet-Lite", _FLAT)
    if "conv_stem.weight" in model and "blocks.0.0.conv_dw.weight" in model:
        return _timm_mobile(model)
    return None


def _refuse(what: str) -> ValueError:
    return ValueError(
        f"the file holds {what}, which this package does not build; it takes plain ResNet and ResNeXt, MobileNet-v2 "
        "and EfficientNet-Lite of torchvision and timm"
    )


def _renamed(model: Mapping[str, Any], rename: Callable[[str], str | None]) -> dict[str, str]:
    """Return the names of ``model`` that ``rename`` gives a new name to, with it."""
    pairs = ((name, rename(name)) for name in model)
    return {name: new for name, new in pairs if new}


def _by_rules(rules: list[tuple[str, str]]) -> Callable[[str], str | None]:
    """A function that replaces what the first matching rule matches; None where none does."""

    def rename(name: str) -> str | None:
        for pattern, replacement in rules:
            new, count = re.subn(pattern, replacement, name)
            if count:
                return new
        return None

    return rename


_RESNET = [
    (r"^conv1\.", "stem.conv1."),
    (r"^bn1\.", "stem.conv1.norm."),
    *(
        (rf"^layer{stage}\.(\d+)\.{theirs}\.", rf"res{stage + 1}.\1.{ours}.")
        for stage in range(1, 5)
        for theirs, ours in (
            *((f"conv{i}", f"conv{i}") for i in (1, 2, 3)),
            *((f"bn{i}", f"conv{i}.norm") for i in (1, 2, 3)),
            (r"downsample\.0", "shortcut"),
            (r"downsample\.1", "shortcut.norm"),
        )
    ),
]


def _resnet(model: Mapping[str, Any]) -> Foreign:
    if "conv1.0.weight" in model:
        raise _refuse("a ResNet with a deep stem")
    odd = [
        name for name in model if re.match(r"layer\d\.\d+\.(se|attn|bn\d\.blur|aa)\b|layer\d\.\d+\.downsample\.2", name)
    ]
    if odd:
        raise _refuse(f"a variant of ResNet with {odd[0].rpartition('.')[0]}")
    return Foreign("a ResNet of torchvision or timm", _renamed(model, _by_rules(_RESNET)), (_IMAGENET,))


def _torchvision_mobilenet(name: str) -> str | None:
    """Ours has its convolutions, norms and activations in one row: 0, 1, (2), 3, 4, (5), 6, 7."""
    if re.match(r"features\.0\.\d\.", name):
        return name
    match = re.fullmatch(r"features\.(\d+)\.conv\.(\d)\.(.+)", name)
    if not match:
        return None
    block, place, rest = int(match[1]), int(match[2]), match[3]
    if re.match(r"[01]\.", rest):  # convolution and norm of the place-th part with an activation
        inner, rest = rest.split(".", 1)
        return f"features.{block}.conv.{3 * place + int(inner)}.{rest}"
    parts = 1 if block == 1 else 2  # the first block does not widen
    return f"features.{block}.conv.{3 * parts + place - parts}.{rest}"


# Rules within a block, with an expansion and without, for both layouts of EfficientNet.
_FLAT = {
    "stem": [(r"^_conv_stem\.", "stem."), (r"^_bn0\.", "stem.norm.")],
    "block": r"^_blocks\.(\d+)\.(.+)$",
    "wide": [("_expand_conv", "expand"), ("_bn0", "expand.norm"), ("_depthwise_conv", "depthwise")]
    + [("_bn1", "depthwise.norm"), ("_project_conv", "project"), ("_bn2", "project.norm")],
    "first": [("_depthwise_conv", "depthwise"), ("_bn1", "depthwise.norm"), ("_project_conv", "project")]
    + [("_bn2", "project.norm")],
}
_TIMM = {
    "stem": [(r"^conv_stem\.", "stem."), (r"^bn1\.", "stem.norm.")],
    "block": r"^blocks\.(\d+)\.(\d+)\.(.+)$",
    "wide": [("conv_pw", "expand"), ("bn1", "expand.norm"), ("conv_dw", "depthwise"), ("bn2", "depthwise.norm")]
    + [("conv_pwl", "project"), ("bn3", "project.norm")],
    "first": [("conv_dw", "depthwise"), ("bn1", "depthwise.norm"), ("conv_pw", "project"), ("bn2", "project.norm")],
}
_TENSORFLOW = ((127.0, 127.0, 127.0), (128.0, 128.0, 128.0))
_HALF = ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5))


def _block_number(name: str, layout: dict, starts: list[int]) -> tuple[int, str] | None:
    """Return the number of the block that ``name`` belongs to, counted over all stages, and the rest of the name."""
    match = re.match(layout["block"], name)
    if not match:
        return None
    *numbers, rest = match.groups()
    return (int(numbers[0]) if len(numbers) == 1 else starts[int(numbers[0])] + int(numbers[1])), rest


def _mobile_names(
    model: Mapping[str, Any], layout: dict, starts: list[int], stem: dict[str, str], block
) -> dict[str, str]:
    """Return new names for a body of inverted residuals; ``block`` names a part of block i."""
    names = {}
    for name in model:
        found = _block_number(name, layout, starts)
        if found is None:
            new = _by_rules(layout["stem"])(name)
            if new:
                part, _, rest = new.removeprefix("stem.").rpartition(".")
                names[name] = f"{stem[part]}.{rest}"
            continue
        number, rest = found
        parts = dict(layout["first" if number == 0 else "wide"])
        theirs, _, leaf = rest.rpartition(".")
        if theirs in parts:
            names[name] = f"{block(number, parts[theirs])}.{leaf}"
    return names


def _starts(repeats: list[int]) -> list[int]:
    return [sum(repeats[:stage]) for stage in range(len(repeats))]


def _lite(model: Mapping[str, Any], kind: str, layout: dict) -> Foreign:
    if any("se_reduce" in name or ".se." in name for name in model):
        raise _refuse("an EfficientNet with squeeze-and-excitation")
    found = {match.group() for match in (re.match(r"_?blocks\.\d+(\.\d+(?=\.))?", name) for name in model) if match}
    fitting = [variant for variant in LITE_VARIANTS if sum(lite_repeats(variant)) == len(found)]
    if not fitting:
        raise _refuse(f"an EfficientNet of {len(found)} blocks")
    names = _mobile_names(
        model,
        layout,
        _starts(lite_repeats(fitting[0])),
        {"": "stem", "norm": "stem.norm"},
        lambda number, part: f"blocks.{number}.{part}",
    )
    looks = (_TENSORFLOW, _HALF) if layout is _FLAT else (_HALF, _TENSORFLOW, _IMAGENET)
    return Foreign(kind, names, looks)


_MOBILENET_REPEATS = [1, 2, 3, 4, 3, 3, 1]
_MOBILENET_PLACES = {"expand": 0, "depthwise": 3, "project": 6}


def _timm_mobile(model: Mapping[str, Any]) -> Foreign:
    if model["blocks.0.0.conv_dw.weight"].shape[0] != 32 or any(".se." in name for name in model):
        raise _refuse("a mobile net that is neither MobileNet-v2 nor EfficientNet-Lite")
    # EfficientNet-Lite's second stage of stride 2 has 5x5 filters, MobileNet-v2's 3x3.
    if tuple(model["blocks.2.0.conv_dw.weight"].shape[2:]) == (5, 5):
        return _lite(model, "timm's EfficientNet-Lite", _TIMM)

    def block(number: int, part: str) -> str:
        part, _, norm = part.partition(".")
        place = _MOBILENET_PLACES[part] - (3 if number == 0 else 0) + (1 if norm else 0)
        return f"features.{number + 1}.conv.{place}"

    stem = {"": "features.0.0", "norm": "features.0.1"}
    names = _mobile_names(model, _TIMM, _starts(_MOBILENET_REPEATS), stem, block)
    return Foreign("timm's MobileNet-v2", names, (_IMAGENET,))
