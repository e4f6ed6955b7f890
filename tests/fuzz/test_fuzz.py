"""Damaged files are refused by name, or read as what they were: the first mutations of each reader.

`make fuzz` tries more.
"""

import warnings

import pytest

from dictlearn.core.errors import CorruptFileError
from tests.fuzz import run
from tests.fuzz.readers import READERS
from tests.fuzz.run import Reader, fuzz


@pytest.mark.parametrize("name", READERS)
def test_damage_is_refused_by_name_or_without_effect(name, tmp_path):
    count = fuzz(name, READERS[name], tmp_path, range(200))
    assert not count.failures, "\n".join(count.failures)
    assert count.outcomes["refused"] > 20


WORD = b"whole"


def make(folder):
    (folder / "sample").mkdir()
    (folder / "sample" / "a.bin").write_bytes(WORD)


def reading(otherwise):
    """A reader of a whole file that does `otherwise` with a damaged one."""

    def read(folder):
        path = folder / "a.bin"
        data = path.read_bytes() if path.exists() else b""
        return data if data == WORD else otherwise(data)

    return Reader(make, read, sealed=True)


def raising(error):
    def otherwise(data):
        raise error

    return otherwise


def endless(data):
    while True:
        pass


@pytest.mark.parametrize(
    ("otherwise", "outcome", "words"),
    [
        (lambda data: data, "other", "other content"),
        (lambda data: WORD, "equal", ""),
        (raising(CorruptFileError("a.bin: damaged")), "refused", ""),
        (raising(CorruptFileError("damaged")), "unnamed", "CorruptFileError: damaged"),
        (raising(KeyError("x")), "foreign", "KeyError"),
        (lambda data: warnings.warn("odd", stacklevel=1), "foreign", "UserWarning: odd"),
        (lambda data: bytearray(2 << 30), "foreign", "MemoryError"),
        (endless, "foreign", "no end within 0.1 seconds"),
    ],
)
def test_each_kind_of_fault_is_found(otherwise, outcome, words, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "SECONDS", 0.1)
    count = fuzz("own", reading(otherwise), tmp_path / "made", range(3), keep=tmp_path / "kept")
    assert set(count.outcomes) <= {outcome, "equal"}
    assert count.outcomes[outcome] > 0
    assert bool(words) == bool(count.failures) == (tmp_path / "kept").exists()
    assert all(words in told and "--seed 0 --only" in told for told in count.failures)
