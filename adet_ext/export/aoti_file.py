"""Packages of AOTInductor, ``.pt2`` too: a model compiled to machine code for this kind of processor."""

import json
import os
import shutil
import tempfile
import zipfile

import torch
from torch.export import ExportedProgram

from ..errors import UserError, one_line
from .card import KEY, Card
from .exported import Runner
from .pt2_file import check_operators

__all__ = ["AOTI", "AotiRunner", "is_aoti", "write_aoti"]

AOTI = "aoti:"  # before the name of a package


def write_aoti(program: ExportedProgram, card: Card, path: str) -> None:
    """Compile a program, which takes a C++ compiler and minutes, and write it with its card to ``path``.

    Raises:
        UserError: it cannot be compiled.
    """
    configs = {"aot_inductor.metadata": {KEY: card.dumps()}}
    with tempfile.TemporaryDirectory() as folder:
        package = os.path.join(folder, "model.pt2")
        try:
            torch._inductor.aoti_compile_and_package(program, package_path=package, inductor_configs=configs)
        except Exception as error:  # lowering, compilers and linkers each have their own
            raise UserError(f"the model cannot be compiled: {one_line(error)}. Use --format pt2") from error
        shutil.copyfile(package, path)


def is_aoti(path: str) -> bool:
    """Return whether a file is a package of AOTInductor; false for what is no archive at all."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any("/data/aotinductor/" in name for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


class AotiRunner(Runner):
    """A package open in PyTorch. Opening it runs the machine code in it."""

    def __init__(self, path: str):
        """
        Raises:
            UserError: the file is not such a package or not one of ours, is damaged or for another processor, or needs
                operators that are not compiled here.
        """
        self.card = Card.loads(_block(path), path)
        check_operators(self.card, path)
        try:
            self.package = torch._inductor.aoti_load_package(path)
        except Exception as error:  # linkers and loaders each have their own
            raise UserError(f"{path} cannot be opened: {one_line(error)}") from error

    def __call__(self, images: torch.Tensor, sizes: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        with torch.inference_mode():
            return self.package(images) if self.card.source else self.package(images, sizes)


def _block(path: str) -> str | None:
    """Read the card without running anything."""
    if not is_aoti(path):
        raise UserError(f"{path} must be a package of AOTInductor to be opened as {AOTI}{path}; leave {AOTI} out")
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith("_metadata.json")]
        blocks = (json.loads(archive.read(name)).get(KEY) for name in names)
        return next(filter(None, blocks), None)
