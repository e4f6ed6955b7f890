"""Names, places and fingerprints of texts on this machine."""

from pathlib import Path

import pytest

from dictlearn.text.corpora import source_hash
from dictlearn.text.places import place_of, source_at, source_name

MEGABYTE = 1 << 20


def test_recorded_name_does_not_tell_where_a_file_lies(tmp_path: Path) -> None:
    assert source_name(tmp_path / "a.txt") == "a.txt"
    assert source_name(f"hf:{tmp_path}") == f"hf:{tmp_path.name}"
    assert source_name(f"hf:{tmp_path}:config") == f"hf:{tmp_path.name}:config"
    for elsewhere in ("builtin:stories", "hf:name:config", "hf:owner/name"):
        assert source_name(elsewhere) == elsewhere
    assert source_name(["a"]) == "list in memory"


def test_a_name_and_a_place_make_the_source_again(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    for source in (str(tmp_path / "a.txt"), f"hf:{tmp_path}", f"hf:{tmp_path}:config"):
        assert source_at(source_name(source), str(place_of(source))) == source


def test_places_are_whole_paths_of_what_is_there(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "a.txt").write_text("a")
    monkeypatch.chdir(tmp_path)
    assert place_of("a.txt") == place_of(Path("./a.txt")) == tmp_path.resolve() / "a.txt"
    assert place_of("hf:.") == tmp_path.resolve()
    for nowhere in ("b.txt", "builtin:stories", "hf:name", "hf:a.txt", ["a"]):
        assert place_of(nowhere) is None
        assert source_hash(nowhere) == ""


def changed(path: Path, at: int) -> None:
    """Change one byte."""
    with path.open("r+b") as file:
        file.seek(at)
        old = file.read(1)
        file.seek(at)
        file.write(bytes([old[0] ^ 1]))


@pytest.mark.parametrize("at", [0, 1, MEGABYTE // 2 + 7, MEGABYTE - 1])
def test_every_byte_of_a_small_file_counts(at: int, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"ab" * (MEGABYTE // 2))
    before = source_hash(path)
    changed(path, at)
    assert source_hash(path) != before
    changed(path, at)
    assert source_hash(path) == before


def test_of_a_large_file_its_size_and_some_pieces_count(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(bytes(3 * MEGABYTE))
    found = {source_hash(path)}
    for at in (0, 3 * MEGABYTE - 1):
        changed(path, at)
        found.add(source_hash(path))
    with path.open("ab") as file:
        file.write(b"x")
    found.add(source_hash(path))
    assert len(found) == 4


def test_a_fingerprint_is_of_what_is_read_wherever_it_lies(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text("first")
        (tmp_path / name / "b.txt").write_text("second")
    one, two = tmp_path / "one", tmp_path / "two"
    assert source_hash(one) == source_hash(two)
    assert source_hash(one / "a.txt") == source_hash(two / "a.txt") != source_hash(one / "b.txt")
    (two / "notes.md").write_text("no text that is read")
    assert source_hash(one) == source_hash(two)
    assert source_hash(f"hf:{one}") != source_hash(f"hf:{two}"), "a data set has files of any kind"
    (two / "b.txt").rename(two / "c.txt")
    assert source_hash(one) != source_hash(two)
    (two / "c.txt").unlink()
    assert source_hash(one) != source_hash(two)
