"""Files are whole or absent, and what is broken is named."""

import errno
import hashlib
import math

import pytest
import torch
import yaml

from dictlearn.core.errors import CorruptFileError, StorageError
from dictlearn.core.files import (
    JSON_FORMAT,
    atomic_path,
    plain_data,
    read_json,
    read_own_json,
    read_tensors,
    sha256,
    writable_folder,
    write_json,
    write_tensors,
    write_text,
)


def test_a_failing_block_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail():
        with atomic_path(path) as part:
            part.write_text("half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_a_storage_error_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with (
        pytest.raises(StorageError, match=r"could not write .*a\.txt .*No space left"),
        atomic_path(path),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_text_and_json_round_trip(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"name": "é", "value": None})
    written = {"format": JSON_FORMAT, "name": "é", "value": None}
    assert read_own_json(path, "test", "write it again") == written
    assert read_json(path).keys() == {*written, "sha256"}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"value": math.nan})
    assert read_json(path)["name"] == "é"


def test_a_hash_that_is_there_is_checked_and_one_that_is_due_is_required(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"name": "a"})
    whole = path.read_text()
    for old, new in (('"format": 2', '"format": 1'), ('"sha256"', '"sha"'), ('"a"', '"b"')):
        path.write_text(whole.replace(old, new))
        with pytest.raises(CorruptFileError, match="its hash differs"):
            read_own_json(path, "test", "write it again")
    path.write_text('{"format": 1, "name": "a"}')  # as the first version wrote it
    assert read_own_json(path, "test", "write it again")["name"] == "a"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 101 + "]" * 101, "nested more than 100 deep"),
        ("[" * 100_000, "RecursionError"),
        ("[18446744073709551616]", "beyond 64 bits"),
        ("9" * 6000, "4300"),
    ],
)
def test_data_that_nothing_could_handle_are_refused(text, words):
    with pytest.raises(ValueError, match=words):
        plain_data(text)


def test_data_within_the_limits_are_read():
    assert plain_data("[-18446744073709551615, 1e400, [], [], {}]")[0] == 1 - 2**64
    assert str(plain_data("[" * 99 + "]" * 99)).count("[") == 99
    with pytest.raises(ValueError, match="refers to another"):
        plain_data("&a [*a]", yaml.safe_load)


@pytest.mark.parametrize("text", ['{"a": 1', "", "[1, 2]", '"a"'])
def test_json_that_is_no_object_is_named(tmp_path, text):
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(CorruptFileError, match=r"broken\.json"):
        read_json(path)


def test_absent_json_is_named(tmp_path):
    with pytest.raises(CorruptFileError, match=r"absent\.json: cannot be read"):
        read_json(tmp_path / "absent.json")


def test_bytes_that_are_no_text_are_named(tmp_path):
    path = tmp_path / "binary.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CorruptFileError, match=r"binary\.json"):
        read_json(path)


def test_tensors_round_trip_to_the_bit(tmp_path):
    base = torch.arange(6.0).view(2, 3)
    tensors = {
        "transposed": base.T,  # not contiguous
        "shared": base,  # the same storage as above
        "half": base.bfloat16(),
        "empty": torch.zeros(0, 3),
        "count": torch.tensor(7),
    }
    path = tmp_path / "a.safetensors"
    write_tensors(path, tensors, {"format": "1"})
    read = read_tensors(path)
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(read[name], tensor)
        assert read[name].dtype == tensor.dtype


def test_tensors_that_share_memory_are_written_each_as_it_is(tmp_path):
    x = torch.arange(12.0).view(3, 4)
    tensors = {"whole": x, "again": x, "rows": x[1:], "turned": x.T, "empty": x[:0], "alone": x + 1}
    write_tensors(tmp_path / "shared.safetensors", tensors, {})
    found = read_tensors(tmp_path / "shared.safetensors")
    assert found.keys() == tensors.keys()
    assert all(found[name].equal(tensors[name]) for name in tensors)


def test_absent_safetensors_is_named(tmp_path):
    with pytest.raises(CorruptFileError, match=r"absent\.safetensors"):
        read_tensors(tmp_path / "absent.safetensors")


def test_sha256(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc" * 1_000_000)
    assert sha256(path) == hashlib.sha256(b"abc" * 1_000_000).hexdigest()


def test_writable_folder_is_made(tmp_path):
    folder = writable_folder(tmp_path / "a" / "b", n_bytes=1)
    assert folder.is_dir()
    assert list(folder.iterdir()) == []


def test_a_file_is_no_folder(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(StorageError, match="required a folder that can be written"):
        writable_folder(path)
    with pytest.raises(StorageError, match="required a folder that can be written"):
        writable_folder(path / "inside")


def test_no_space(tmp_path):
    with pytest.raises(StorageError, match="GB are required"):
        writable_folder(tmp_path, n_bytes=10**18)


def test_files_get_the_permissions_of_ordinary_ones(tmp_path):
    (tmp_path / "ordinary").write_text("")
    write_text(tmp_path / "text", "a")
    write_tensors(tmp_path / "tensors", {"a": torch.zeros(1)}, {})
    modes = {path.name: path.stat().st_mode for path in tmp_path.iterdir()}
    assert set(modes.values()) == {modes["ordinary"]}
