"""What the tests of all projects share: projects are imported from their folders, and their configs are made small."""

import sys
from pathlib import Path

import pytest
import torch

from adet_ext import load_config
from adet_ext.d2.modeling import build_model

for _folder in sorted(Path(__file__).resolve().parent.glob("*/tests")):
    if str(_folder.parent) not in sys.path:
        sys.path.insert(0, str(_folder.parent))


@pytest.fixture
def small_config(small_arguments):
    """Return a function that loads a config of the project by its name, small, with overrides KEY, VALUE, ...

    ``small_arguments`` is the project's own: it returns the config's file and the overrides that make it small.
    """

    def make(*words: str):
        file, small = small_arguments(*words[:1])
        return load_config(file, [*small, *words[1:]])

    return make


@pytest.fixture
def small_model(small_config):
    """Build the model of :func:`small_config`, with the same weights every time."""

    def make(*words: str):
        torch.manual_seed(0)
        return build_model(small_config(*words))

    return make
