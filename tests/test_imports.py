"""What may import what: no circle of imports, arrows that run downward, and nothing heavy before it is used."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import adet_ext

PACKAGE = Path(adet_ext.__file__).resolve().parent

# The rooms that a room's modules may import at no time, or the only ones they may.
FORBIDDEN = {"layers": {"modeling", "data"}, "modeling": {"data"}}
ALLOWED = {"d2": {"d2", "errors", "utils"}, "nas": {"nas", "errors", "utils", "report"}}


def module_files() -> dict[str, Path]:
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        names[name.removesuffix(".__init__")] = path
    return names


FILES = module_files()


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements that run when a module is imported."""
    for node in body:
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for field in ("body", "orelse", "finalbody"):
                yield from statements(getattr(node, field, []))
            for handler in getattr(node, "handlers", []):
                yield from statements(handler.body)


def imported(name: str, nodes: Iterator[ast.AST]) -> set[str]:
    """Return the full names of the modules that ``nodes`` of the module ``name`` import."""
    package = name if FILES[name].name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            base = ".".join([*parts, *filter(None, [node.module])])
            full = {f"{base}.{alias.name}" for alias in node.names}
            found |= {one if one in FILES else base for one in full}
    return found


TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}
ON_IMPORT = {name: imported(name, statements(tree.body)) for name, tree in TREES.items()}
EVER = {name: imported(name, ast.walk(tree)) for name, tree in TREES.items()}


def room(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


def test_no_circle_of_imports():
    graph = {
        name: {other for other in others if other in FILES and other != name} for name, others in ON_IMPORT.items()
    }
    assert len(list(TopologicalSorter(graph).static_order())) == len(FILES)  # raises CycleError with the circle
    assert sum(map(len, graph.values())) > len(FILES)  # relative imports were found


def test_arrows_run_downward():
    wrong = []
    for name, others in EVER.items():
        for other in others:
            if other.split(".")[0] != "adet_ext":
                continue
            here, there = room(name), room(other)
            if there in FORBIDDEN.get(here, ()) or here in ALLOWED and there not in ALLOWED[here]:
                wrong.append(f"{name} imports {other}")
    assert not wrong


def test_detectron2_is_imported_behind_the_door_alone():
    outside = [
        name for name, others in EVER.items() if room(name) != "d2" and any(o.startswith("detectron2") for o in others)
    ]
    assert not outside


@pytest.mark.parametrize("what", ["import adet_ext, adet_ext.cli.env", "import adet_ext.cli.train"])
def test_importing_loads_nothing_that_only_some_commands_use(what):
    heavy = ["ray", "cv2", "matplotlib", "tensorboard", "faster_coco_eval", "scipy", "lvis", "av"]
    if "train" in what:
        heavy.remove("cv2")
    code = f"{what}; import sys; print([name for name in {heavy} if name in sys.modules])"
    environment = {**os.environ, "ADET_EXT_ENGINE": "embedded"}  # Detectron2 loads what it likes
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=180)
    assert done.stdout.strip() == "[]", done.stderr


def test_projects_stand_on_the_package_and_on_no_other_project():
    folder = PACKAGE.parent / "projects"
    packages = {path.parent.name: path.parent for path in folder.glob("*/*/__init__.py")}
    assert not [name for name, others in EVER.items() if any(o.split(".")[0] in packages for o in others)]
    for package, root in packages.items():
        for path in root.rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            nodes = [n for n in ast.walk(tree) if isinstance(n, (ast.Import, ast.ImportFrom))]
            found = {alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names}
            found |= {n.module for n in nodes if isinstance(n, ast.ImportFrom) and not n.level}
            assert not {f.split(".")[0] for f in found} & ({"detectron2", *packages} - {package}), path
