"""The choice of a search: by timings, made once and kept."""

import logging

import pytest
import torch

from dictlearn.core.shortcuts import without_shortcuts
from dictlearn.kernels import fastest, kept, processor
from dictlearn.kernels.fastest import Timings
from dictlearn.kernels.rounding import bfloat16_tiles, int8_tiles


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """An empty cache, and searches so small that timing them takes no time."""
    monkeypatch.setenv(kept.FOLDER, str(tmp_path / "cache"))
    monkeypatch.setattr(fastest, "_TRIAL", (64, 128, 64, 8))
    timings = fastest.timings  # tests put others in their place
    timings.cache_clear()
    yield tmp_path / "cache"
    timings.cache_clear()


@pytest.mark.parametrize(
    ("timings", "exact", "pays"),
    [
        (Timings("x"), None, False),
        (Timings("x", int8=0.7, int8_search=0.6), int8_tiles, True),
        (Timings("x", int8=0.7, int8_search=0.8), int8_tiles, False),
        (Timings("x", bfloat16=0.5, int8=0.7, int8_search=0.6), bfloat16_tiles, False),
        (Timings("x", bfloat16=0.7, int8=0.5, int8_search=0.4), int8_tiles, True),
        (Timings("x", bfloat16=1.4, int8=0.97, int8_search=0.96), None, True),
    ],
)
def test_the_least_time_decides_unless_it_saves_too_little(timings, exact, pays):
    assert timings.exact() is exact
    assert timings.int8_search_pays() is pays


def test_timings_are_kept_and_followed(folder, caplog):
    with caplog.at_level(logging.INFO):
        found = fastest.timings()
    assert f"kept in {fastest.path()}" in caplog.text
    assert (found.int8_search is not None) == processor.has_int8()
    assert (found.bfloat16 is not None) == processor.multiplies_bfloat16()
    assert [file.name for file in folder.iterdir()] == [fastest.path().name]
    fastest.timings.cache_clear()
    caplog.clear()
    assert fastest.timings() == found
    assert not caplog.text
    fastest.forget()
    assert not fastest.path().exists()


def test_a_damaged_file_is_told_of_and_replaced(folder, caplog):
    folder.mkdir()
    fastest.path().write_text('{"format": 2, "machine": 3}')
    found = fastest.timings()
    assert "are not used" in caplog.text
    fastest.timings.cache_clear()
    assert fastest.timings() == found


def test_where_nothing_can_be_kept_a_process_times_for_itself(folder):
    folder.write_text("not a folder")
    assert fastest.timings() is fastest.timings()


def test_rounding_is_for_wide_and_long_float32(folder, monkeypatch):
    monkeypatch.setattr(fastest, "timings", lambda: Timings("x", int8=0.5))
    x, W = torch.ones(1024, 256), torch.ones(256, 8192)
    assert fastest.rounding(x, W, 32) is int8_tiles
    assert fastest.rounding(x, W, 33) is None, "many are chosen of few"
    for a, c in (
        (x[:1023], W),
        (x[:, :255], W[:255].repeat(1, 2)),
        (x, W[:, :8191]),
        (x.double(), W.double()),
    ):
        assert fastest.rounding(a, c) is None
    with without_shortcuts():
        assert fastest.rounding(x, W) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert fastest.rounding(x, W) is None


@pytest.mark.skipif(not processor.has_int8(), reason="torch has no int8 product here")
@pytest.mark.parametrize("levels", [90, 127])
def test_sums_that_saturate_are_noticed(monkeypatch, levels):
    exact = levels <= processor.int8_levels()
    monkeypatch.setattr(processor, "int8_levels", lambda: levels)
    assert fastest._sums_exactly() is exact


def test_a_folder_that_cannot_be_looked_into_holds_no_timings(folder, monkeypatch, caplog):
    def closed(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(fastest.Path, "exists", closed)
    monkeypatch.setattr(kept, "write_json", closed)
    assert fastest.timings().machine
    assert "every process times for itself" in caplog.text


def test_what_cannot_be_removed_stays(folder):
    folder.write_text("not a folder")
    fastest.forget()
    assert not kept.is_kept(fastest.path())
