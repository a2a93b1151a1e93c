"""What all tests share: the engine that is on is printed, and tests that need Detectron2 itself are marked."""

import importlib.util
import logging

import pytest

from adet_ext.d2 import ENGINE, REASON


def pytest_report_header(config):
    return f"adet_ext engine: {ENGINE} ({REASON})"


def pytest_configure(config):
    config.addinivalue_line("markers", "needs_detectron2: compares with the real Detectron2; skipped without it")


def _detectron2_imports() -> bool:
    if importlib.util.find_spec("detectron2") is None:
        return False
    try:
        import detectron2._C  # noqa: F401
    except Exception:
        return False
    return True


def pytest_collection_modifyitems(config, items):
    if _detectron2_imports():
        return
    mark = pytest.mark.skip(reason="compares with Detectron2, which is not installed here")
    for item in items:
        if "needs_detectron2" in item.keywords:
            item.add_marker(mark)


@pytest.fixture(autouse=True)
def _loggers_as_before():
    """Training sets loggers up for good; tests of other files listen to the same ones."""
    loggers = [logging.getLogger(name) for name in ("adet_ext", "detectron2", "fvcore")]
    before = [(logger.level, logger.propagate, list(logger.handlers)) for logger in loggers]
    yield
    for logger, (level, propagate, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.propagate, logger.handlers[:] = propagate, handlers
