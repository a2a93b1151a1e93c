"""The package as it is installed: versions, what is in a wheel, what building does where something is missing."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import adet_ext

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="needs the checkout: setup.py is not here")


@pytest.fixture(scope="module")
def setup_py():
    pytest.importorskip("setuptools")
    spec = importlib.util.spec_from_file_location("adet_setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of what building needs, so that the checkout stays as it is."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("adet_ext", "csrc", "configs"):
        ignore = shutil.ignore_patterns("__pycache__", "_C.so", "_C.pyd", "_build.txt")
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    return folder


def build(source: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    pytest.importorskip("setuptools")
    env = {name: value for name, value in os.environ.items() if not name.startswith(("ADET_EXT_", "FORCE_CUDA"))}
    command = [sys.executable, "-W", "ignore", "setup.py", "-q", *arguments]
    return subprocess.run(command, cwd=source, env={**env, **environment}, capture_output=True, text=True)


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    """A wheel without compiled operators."""
    target = tmp_path_factory.mktemp("wheel")
    done = build(source, "bdist_wheel", "-d", str(target), ADET_EXT_NO_EXT="1")
    assert done.returncode == 0, done.stderr
    (path,) = target.iterdir()
    return path


def pins(python: str) -> dict[str, str]:
    """The versions in constraints.txt that hold for a Python version."""
    from packaging.requirements import Requirement

    found = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        line = line.partition("#")[0].strip()
        if not line:
            continue
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"python_version": python}):
            continue
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", line
        assert requirement.name.lower() not in found, f"{requirement.name} is pinned twice for Python {python}"
        found[requirement.name.lower()] = specifier.version
    return found


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_every_requirement_is_pinned_within_its_range(setup_py, python):
    from packaging.requirements import Requirement

    pinned = pins(python)
    for line in setup_py.INSTALL_REQUIRES + setup_py.EXTRAS["test"]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(pinned[requirement.name.lower()]), line


def test_every_requirement_has_its_reason():
    text = (ROOT / "setup.py").read_text()
    block = text.split("INSTALL_REQUIRES = [\n")[1].split("\n]\n")[0]
    for line in block.splitlines():
        assert re.fullmatch(r'    "\S+",  # \S.*', line), line


def test_every_requirement_is_imported_somewhere(setup_py):
    modules = {"opencv-python-headless": "cv2", "Pillow": "PIL", "PyYAML": "yaml"}
    modules["faster-coco-eval"] = "faster_coco_eval"
    sources = [*ROOT.glob("adet_ext/**/*.py"), *ROOT.glob("tools/*.py")]
    text = "\n".join(path.read_text() for path in sources)
    for line in setup_py.INSTALL_REQUIRES:
        name = re.match(r"[\w-]+", line)[0]
        module = modules.get(name, name)
        # torch imports TensorBoard for us.
        module = "torch.utils.tensorboard" if module == "tensorboard" else module
        assert re.search(rf"^\s*(import|from) {re.escape(module)}\b", text, re.MULTILINE), f"nothing imports {module}"


def test_the_version_has_one_source(setup_py):
    assert setup_py.version() == adet_ext.__version__


def test_a_wheel_without_operators_is_for_every_platform_and_holds_the_configs(wheel):
    assert wheel.name == f"adet_ext-{adet_ext.__version__}-py3-none-any.whl"
    names = zipfile.ZipFile(wheel).namelist()
    assert "adet_ext/py.typed" in names
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert f"adet_ext/configs/{path.relative_to(ROOT / 'configs').as_posix()}" in names
    assert "adet_ext/_build.txt" in names
    packages = {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "adet_ext").rglob("*.py")}
    packages -= {name for name in packages if "__pycache__" in name}
    assert packages <= {name.rpartition("/")[0] for name in names}, "a folder of modules lacks its __init__.py"
    assert not [name for name in names if name.startswith(("tests/", "tools/", "csrc/"))]


def test_an_installed_package_finds_its_configs_without_a_checkout(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import adet_ext; from adet_ext import model_zoo; from adet_ext.layers import status; "
        "print(adet_ext.__file__); print(model_zoo.get_config_file('BlendMask/R_50_1x.yaml')); print(status().reason)"
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "ADET_EXT_ENGINE": "embedded"}
    env.pop("ADET_EXT_OPS", None)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    package, config, reason = done.stdout.splitlines()[-3:]
    assert package.startswith(str(tmp_path / "site"))
    assert config == str(tmp_path / "site" / "adet_ext" / "configs" / "BlendMask" / "R_50_1x.yaml")
    assert reason == "ADET_EXT_NO_EXT was set"


def has_compiler() -> bool:
    return any(shutil.which(name) for name in ("c++", "g++", "clang++"))


def new_enough() -> bool:
    import torch

    from adet_ext.layers.extension import MIN_TORCH

    return tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2]) >= MIN_TORCH


@pytest.mark.skipif(not (has_compiler() and new_enough()), reason="needs a C++ compiler and torch >= 2.10")
def test_operators_compile_and_load(source, tmp_path):
    # Without optimization, which takes two thirds of the time.
    compiler = tmp_path / "c++"
    compiler.write_text(f'#!/bin/sh\nexec {os.environ.get("CXX") or shutil.which("c++") or "g++"} "$@" -O0\n')
    compiler.chmod(0o755)
    done = build(source, "build_ext", "--inplace", FORCE_CUDA="0", ADET_EXT_REQUIRE_EXT="1", CXX=str(compiler))
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("adet_ext: ")]
    assert len(said) == 1 and "compiled operators: C++, with torch" in said[0]
    code = "import torch; torch.ops.load_library('adet_ext/_C.so'); print(torch.ops.adet_ext.build_info())"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "runs_on_torch=2.10+" in done.stdout and "cuda=none" in done.stdout


def test_without_a_compiler_building_goes_on_and_says_so(source, tmp_path):
    done = build(source, "build_ext", "--build-lib", str(tmp_path), PATH=str(tmp_path), CXX="")
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("adet_ext: ")]
    assert len(said) == 1 and said[0].startswith("adet_ext: no compiled operators: ")
    assert (tmp_path / "adet_ext" / "_build.txt").read_text().strip() == said[0].removeprefix("adet_ext: ")


def test_a_required_extension_that_cannot_be_built_fails_the_build(source, tmp_path):
    bare = {"PATH": str(tmp_path), "CXX": ""}
    done = build(source, "build_ext", "--build-lib", str(tmp_path), ADET_EXT_REQUIRE_EXT="1", **bare)
    assert done.returncode != 0
    assert "ADET_EXT_REQUIRE_EXT is set" in done.stderr


def test_an_error_s_command_line_is_not_dragged_along(setup_py):
    error = RuntimeError("command '['g++', '-shared', 'a.o']' returned non-zero exit status 1.")
    assert setup_py.first_line(error) == "g++ returned non-zero exit status 1"
    assert setup_py.first_line(ValueError("\n first\nsecond")) == "first"
    assert len(setup_py.first_line(ValueError("x" * 999))) < 210
