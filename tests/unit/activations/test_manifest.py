import json
import os
from pathlib import Path

import pytest

from dictlearn.activations.store import ActivationStore
from dictlearn.core.errors import CorruptFileError
from dictlearn.core.files import read_own_json


def test_a_folder_that_is_absent(tmp_path):
    with pytest.raises(CorruptFileError, match="no such folder"):
        ActivationStore.open(tmp_path / "nowhere")


def test_a_folder_without_a_manifest_is_no_store(stored):
    (stored / "manifest.json").unlink()
    with pytest.raises(CorruptFileError, match="the harvest did not finish"):
        ActivationStore.open(stored)


def test_a_truncated_shard_is_named(stored):
    shard = stored / "shard_00003.safetensors"
    os.truncate(shard, shard.stat().st_size - 1)
    with pytest.raises(CorruptFileError, match=r"shard_00003.safetensors: required \d+ bytes"):
        ActivationStore.open(stored)


def test_an_absent_shard_is_named(stored):
    (stored / "shard_00006.safetensors").unlink()
    with pytest.raises(CorruptFileError, match=r"shard_00006.safetensors: absent"):
        ActivationStore.open(stored)


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_an_altered_byte_is_found_when_verifying(stored):
    for name in ("shard_00004.safetensors", "mlp_0.safetensors"):
        flip(stored / name, -1)
        ActivationStore.open(stored)
        with pytest.raises(CorruptFileError, match=f"{name}: its SHA-256"):
            ActivationStore.open(stored, verify=True)
        flip(stored / name, -1)
    ActivationStore.open(stored, verify=True)


def test_a_broken_header_is_named(stored):
    flip(stored / "shard_00001.safetensors", 8)
    with pytest.raises(CorruptFileError, match=r"shard_00001.safetensors: cannot be read"):
        ActivationStore.open(stored)


def edit_manifest(folder: Path, **changes) -> None:
    path = folder / "manifest.json"
    text = json.dumps({"format": 1} | read_own_json(path, "store", "") | changes)
    path.write_text(text if "format" in changes else text.replace('"format": 2', '"format": 1'))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 99}, "required store format 2, got 99"),
        ({"dtype": "int3"}, "malformed .*int3"),
        ({"n_rows": 7}, "malformed .*100 rows in shards"),
        ({"shards": [], "n_rows": 0}, "malformed"),
        ({"shards": None}, "malformed"),
        ({"sites": [{"source": {"hook": "a"}}]}, "malformed"),
    ],
)
def test_a_malformed_manifest_is_named(stored, changes, message):
    edit_manifest(stored, **changes)
    with pytest.raises(CorruptFileError, match=rf"manifest.json: .*{message}"):
        ActivationStore.open(stored)


def test_a_manifest_of_another_dtype_or_width_does_not_fit_its_shards(stored):
    edit_manifest(stored, dtype="bfloat16")
    with pytest.raises(CorruptFileError, match=r"shard_00000.safetensors: required torch.bfloat16"):
        ActivationStore.open(stored)


def test_mlp_weights_that_are_incomplete_are_named(stored):
    path = stored / "mlp_0.safetensors"
    data = path.read_bytes().replace(b'"b_in"', b'"b_if"')
    path.write_bytes(data)
    store = ActivationStore.open(stored)
    with pytest.raises(CorruptFileError, match=r"mlp_0.safetensors: was altered"):
        store.mlp_weights(store.sites[0])
