"""Dictionaries on disk: bit-equal, and broken files named."""

import json
from pathlib import Path

import pytest
import torch

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import (
    ConfigError,
    CorruptFileError,
    InputError,
    NonFiniteError,
    StorageError,
)
from dictlearn.core.files import write_json
from dictlearn.core.sites import Site, Sites
from dictlearn.dictionaries.files import load, load_all, save
from dictlearn.dictionaries.sae import SAEConfig

SITES = Sites(Site("h", 4), Site("h", 4))


@pytest.fixture
def saved(tmp_path) -> Path:
    return save(SAEConfig(n_features=8).build(SITES, seed=3), tmp_path / "sae")


def test_round_trip_is_bit_equal(saved):
    x = torch.randn(5, 4)
    original, loaded = SAEConfig(n_features=8).build(SITES, seed=3), load(saved)
    assert torch.equal(loaded(x), original(x))
    assert loaded.config == SAEConfig(n_features=8)
    assert not loaded.training


def test_weights_of_another_shape_are_refused(saved):
    path = saved / "config.json"
    data = json.loads(path.read_text())
    data["config"]["n_features"] = 7
    write_json(path, data)
    with pytest.raises(CorruptFileError, match="does not fit"):
        load(saved)
    data["config"]["n_features"] = 1 << 40
    write_json(path, data)
    with pytest.raises(CorruptFileError, match="n_features is 1,099,511,627,776, and no axis"):
        load(saved)


def test_an_altered_config_is_noticed(saved):
    path = saved / "config.json"
    path.write_text(path.read_text().replace('"n_features": 8', '"n_features": 7'))
    with pytest.raises(CorruptFileError, match=r"config.json: was altered or damaged"):
        load(saved)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_saved(saved, tmp_path, value):
    dictionary = load(saved)
    dictionary.b_dec.data[1] = value
    with pytest.raises(NonFiniteError, match=r"this Linear.*: b_dec holds NaN"):
        save(dictionary, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 99}', '{"format": 1}'])
def test_broken_config_is_named(saved, text):
    (saved / "config.json").write_text(text)
    with pytest.raises(CorruptFileError, match=r"config\.json"):
        load(saved)


def test_unknown_kind_and_misspelt_field_are_suggested(saved):
    path = saved / "config.json"
    data = json.loads(path.read_text())
    write_json(path, data | {"kind": "sa"})
    with pytest.raises(ConfigError, match="did you mean 'sae'"):
        load(saved)
    write_json(path, data | {"config": {"n_featurs": 8}})
    with pytest.raises(ConfigError, match="n_features"):
        load(saved)


@pytest.mark.parametrize("read", [load, load_all])
def test_an_absent_folder_is_named(saved, read):
    with pytest.raises(
        InputError, match=r"sea: required a .*; there is no such folder; did you mean 'sae'\?"
    ):
        read(saved.parent / "sea")
    with pytest.raises(InputError, match=r"deep: required a .*; there is no such folder$"):
        read(saved.parent / "no" / "deep")


def test_a_folder_of_something_else_and_one_without_a_config_are_told_apart(tmp_path):
    (tmp_path / "manifest.json").touch()
    with pytest.raises(InputError, match=r"a dictionary's folder; this one has manifest\.json"):
        load(tmp_path)
    (tmp_path / "weights.safetensors").touch()
    with pytest.raises(CorruptFileError, match=r"config\.json: cannot be read"):
        load(tmp_path)


@pytest.mark.parametrize("inside", [".", "seed0"])
def test_a_folder_of_several_is_read_by_load_all(tmp_path, inside):
    for n, name in ((6, "k16"), (4, "k8")):
        save(SAEConfig(n_features=n).build(SITES), tmp_path / inside / name)
    with pytest.raises(InputError, match=r"holds 2 dictionaries \(.*k8, .*k16\)") as refused:
        load(tmp_path)
    assert f"load_all({str(tmp_path)!r})" in str(refused.value)
    assert f"such as {tmp_path / inside / 'k8'}" in str(refused.value)
    found = load_all(str(tmp_path))
    assert [(name, d.n_features) for name, d in found.items()] == [("k8", 4), ("k16", 6)]


def test_a_file_in_the_way_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="folder"):
        save(SAEConfig(n_features=8).build(SITES), tmp_path / "file")


def test_saving_without_a_config_says_what_to_do(tmp_path):
    class Bare(FeatureDictionary):
        def __init__(self):
            super().__init__(SITES, 4)
            self.register_buffer("_atoms", torch.eye(4))

        def _encode(self, z):
            return z

    with pytest.raises(InputError, match="DictionaryConfig"):
        save(Bare(), tmp_path)


@pytest.mark.parametrize("name", ["config.json", "weights.safetensors"])
def test_a_model_of_another_library_is_not_overwritten(tmp_path, name):
    (tmp_path / name).write_text("theirs")
    with pytest.raises(InputError, match=rf"{name} is not a file that saving a dictionary wrote"):
        save(SAEConfig(n_features=8).build(SITES), tmp_path)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(name, "theirs")]


def test_a_saved_dictionary_is_replaced(saved):
    (saved / "notes.txt").write_text("mine")
    other = SAEConfig(n_features=4).build(SITES)
    assert load(save(other, saved)).config == other.config
    assert (saved / "notes.txt").exists()


def test_a_failed_save_leaves_no_config_behind(saved, monkeypatch):
    """An interrupted overwrite must not pair the old config with new weights."""

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dictlearn.core.files.save_file", fail)
    with pytest.raises(StorageError, match="No space left"):
        save(SAEConfig(n_features=8).build(SITES, seed=4), saved)
    assert not (saved / "config.json").exists()
    assert not list(saved.glob(".*part"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_the_dtype_comes_back(saved, tmp_path, dtype):
    dictionary = load(saved).to(dtype)
    again = load(save(dictionary, tmp_path / "again"))
    assert {t.dtype for t in again.state_dict().values() if t.is_floating_point()} == {dtype}
    x = torch.randn(4, dictionary.sites.source.d).to(dtype)
    assert torch.equal(again(x), dictionary(x))
