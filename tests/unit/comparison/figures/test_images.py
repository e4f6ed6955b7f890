"""Figures as files, where there is something to draw them with."""

import shutil

import plotly.graph_objects as go
import pytest

from dictlearn.comparison.figures.images import main_figures, write_images
from dictlearn.core.errors import InputError, StorageError

BROWSER = any(map(shutil.which, ("chromium", "google-chrome", "chrome")))


def test_the_main_figures_have_names_for_files(records):
    names = list(main_figures(records))
    assert "loss_recovered_zero-l0" in names
    assert all(name.replace("_", "").replace("-", "").isalnum() for name in names)


def test_an_unknown_format_is_refused(records, tmp_path):
    with pytest.raises(InputError, match="svg"):
        write_images(main_figures(records), tmp_path, "bmp")
    assert not list(tmp_path.iterdir())


def test_what_is_missing_is_named(records, tmp_path, monkeypatch):

    def without_browser(figure, *arguments, **options):
        raise RuntimeError("Image export requires Kaleido")

    monkeypatch.setattr(go.Figure, "to_image", without_browser)
    with pytest.raises(StorageError, match=r"dictlearn\[images\]"):
        write_images(main_figures(records), tmp_path)


@pytest.mark.skipif(not BROWSER, reason="no Chrome or Chromium on this machine")
@pytest.mark.parametrize(("format", "begins"), [("svg", b"<svg"), ("png", b"\x89PNG")])
def test_files_are_images(records, tmp_path, format, begins):
    pytest.importorskip("kaleido", reason="kaleido is not installed")
    figures = dict(list(main_figures(records).items())[:1])
    ((_, path),) = write_images(figures, tmp_path, format).items()
    assert path.read_bytes().startswith(begins)
