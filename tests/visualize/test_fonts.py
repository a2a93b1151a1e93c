"""Fonts: every text is drawn with its characters, where an installed font has them."""

import os

import matplotlib
import pytest
from matplotlib import font_manager

from adet_ext.visualize import fonts

FOLDER = os.path.join(matplotlib.get_data_path(), "fonts", "ttf")
RARE = "\ue000"  # of the private use area: no text has it, and no installed font shall matter


@pytest.fixture(autouse=True)
def afresh(monkeypatch):
    real = fonts._characters

    def characters(path):
        extra = {RARE} if os.path.basename(path).startswith("DejaVuSerif") else set()
        return real(path) - {RARE} | extra

    monkeypatch.setattr(fonts, "_characters", characters)
    for cached in (fonts._file_for, fonts._installed):
        cached.cache_clear()
    yield
    for cached in (fonts._file_for, fonts._installed):
        cached.cache_clear()


def installed(monkeypatch, *names):
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [os.path.join(FOLDER, name) for name in names])


def test_common_letters_have_the_packaged_font():
    assert fonts.font(12, "Größe, кот 97%").getname()[0] == "DejaVu Sans"


def test_other_characters_have_an_installed_font_that_has_them(monkeypatch, tmp_path):
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"no font")
    installed(monkeypatch, str(broken), "cmr10.ttf", "DejaVuSerif.ttf")
    assert fonts.font(12, f"{RARE} 97%").getname()[0] == "DejaVu Serif"


def test_missing_fonts_warn_once_and_draw_anyway(monkeypatch, caplog):
    installed(monkeypatch, "cmr10.ttf")
    for _ in range(2):
        assert fonts.font(12, f"{RARE} 97%").getname()[0] == "DejaVu Sans"
    assert len([r for r in caplog.records if "no installed font has" in r.message]) == 1
