"""The small LVIS file under its name, and nothing left behind."""

import pytest

from adet_ext.d2.data import DatasetCatalog, MetadataCatalog
from adet_ext.data.lvis import prepare_lvis, register_lvis_dataset

from .pieces import NAME, plain, written


@pytest.fixture(autouse=True)
def _forget_the_data_set():
    yield
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.pop(NAME, None)


@pytest.fixture
def registered(tmp_path) -> str:
    """The plain file's share of COCO's categories, under NAME; returns its path."""
    path = str(tmp_path / "share.json")
    prepare_lvis(written(tmp_path, plain()), path)
    register_lvis_dataset(NAME, str(tmp_path / "coco"), path)
    return path
