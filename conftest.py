"""What all tests share: the engine that is on is printed, and tests that need Detectron2 itself are marked."""

import contextlib
import importlib.util
import logging
import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # see adet_ext/utils/threads.py; before torch is loaded

import pytest  # noqa: E402

from adet_ext.d2 import ENGINE, REASON  # noqa: E402
from adet_ext.d2.data import DatasetCatalog, MetadataCatalog  # noqa: E402


def pytest_report_header(config):
    return f"adet_ext engine: {ENGINE} ({REASON})"


def pytest_configure(config):
    config.addinivalue_line("markers", "needs_detectron2: compares with the real Detectron2; skipped without it")


def _detectron2_imports() -> bool:
    if importlib.util.find_spec("detectron2") is None:
        return False
    try:
        import detectron2._C  # noqa: F401
    except Exception:  # one that was built for another torch fails in several ways
        return False
    return True


def pytest_collection_modifyitems(config, items):
    if _detectron2_imports():
        return
    mark = pytest.mark.skip(reason="compares with Detectron2, which is not installed here")
    for item in items:
        if "needs_detectron2" in item.keywords:
            item.add_marker(mark)


@contextlib.contextmanager
def _loggers_kept():
    """Training sets loggers up for good; tests of other files listen to the same ones."""

    def loggers():
        return [logging.getLogger(), *(x for x in logging.Logger.manager.loggerDict.values() if hasattr(x, "handlers"))]

    before = {logger: (logger.level, logger.propagate, list(logger.handlers)) for logger in loggers()}
    yield
    for logger in loggers():
        level, propagate, handlers = before.get(logger, (logging.NOTSET, True, []))
        logger.setLevel(level)
        logger.propagate, logger.handlers[:] = propagate, handlers


# A file's own fixtures may set loggers up too, and what they leave may write to a stream that a test has closed since.
@pytest.fixture(autouse=True, scope="module")
def _loggers_as_before_the_file():
    with _loggers_kept():
        yield


@pytest.fixture(autouse=True)
def _loggers_as_before():
    with _loggers_kept():
        yield


@pytest.fixture
def forget():
    """Take data sets out of the catalogs again after a test."""
    names = []
    yield names.append
    for name in names:
        for catalog in (DatasetCatalog, MetadataCatalog):
            if name in catalog:
                catalog.remove(name)
