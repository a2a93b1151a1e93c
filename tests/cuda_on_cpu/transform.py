"""Rewrite what is CUDA's own syntax in a source of csrc/cuda, so that a host compiler takes it.

Launches, shared memory, and the names under which operators are registered. All else is in shim/.
"""

import re

__all__ = ["NAMESPACE", "host_source"]

NAMESPACE = "adet_emulated"  # of the operators, torch.ops.adet_emulated

_BOUNDED = re.compile(r"__global__ void __launch_bounds__\(([^)]*)\)\s*(\w+)\(")
_KERNEL = re.compile(r"(\w[\w:]*(?:<[^<>;]*>)?)\s*<<<(.*?)>>>\(", re.DOTALL)
_DYNAMIC = re.compile(r"^( *)extern __shared__ (?:__align__\((\d+)\) )?([\w ]+?) (\w+)\[\];", re.MULTILINE)
_STATIC = re.compile(r"__shared__ (\w+\*?) (\w+)((?:\[[^\]]+\])*);")


def host_source(text: str, name: str) -> str:
    """Return C++ for the text of the CUDA or C++ source ``name``, with its lines where they were."""
    text = _DYNAMIC.sub(_dynamic, text)
    text = _STATIC.sub(r"auto& \2 = ::emulator::static_shared<\1\3, __COUNTER__>();", text)
    bounds = {kernel: bound for bound, kernel in _BOUNDED.findall(text)}
    text = _KERNEL.sub(lambda match: _launch(match, bounds), text)
    if "<<<" in text or "__shared__" in text:
        raise ValueError(f"{name} launches a kernel or declares shared memory in a way that is not known here")
    text = text.replace("_IMPL(adet_ext, CUDA, m)", "_IMPL(adet_ext, CPU, m)")
    text = re.sub(r"(STABLE_TORCH_LIBRARY\w*)\(adet_ext,", rf"\1({NAMESPACE},", text)
    return f'#line 1 "{name}"\n{text}'


def _dynamic(match: re.Match) -> str:
    indent, align, kind, name = match.groups()
    memory = f"::emulator::dynamic_shared<{kind}, {align or 1}>()"
    return f"{indent}{kind}* const {name} = {memory};" if indent else f"#define {name} ({memory})"


def _launch(match: re.Match, bounds: dict[str, str]) -> str:
    kernel, config = match.groups()
    name = kernel.split("<")[0].split("::")[-1]
    lines = "\n" * match[0].count("\n")
    place = f'"{name}", {bounds.get(name, 0)}, ::emulator::Config{{{" ".join(config.split())}}}'
    return f"{lines}::emulator::launch({place}, {kernel})("
