"""Activations, dictionaries and reports do not lie among each other."""

import re
from itertools import permutations

import pytest
import torch

import dictlearn as dl
from dictlearn.cli.folders import show
from dictlearn.cli.measuring import evaluate
from dictlearn.core.errors import InputError
from dictlearn.core.folder_sorts import ACTIVATIONS, DICTIONARY, REPORT, require_apart
from dictlearn.core.sites import Site, Sites
from dictlearn.dictionaries.files import save
from dictlearn.dictionaries.topk_sae import TopKSAEConfig
from dictlearn.lm.saving import SAVED_FILE
from dictlearn.training.config import FitConfig
from dictlearn.training.fit import fit
from tests.unit.activations.test_store import write

SORTS = {"acts": ACTIVATIONS, "topk": DICTIONARY, "rep": REPORT}
TOPK = TopKSAEConfig(n_features=8, k=2)


def made(folder, sort):
    """A folder of that sort, with empty files."""
    folder.mkdir(parents=True)
    for name in sort.files:
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(("held", "new"), [*permutations(SORTS, 2)])
def test_another_sort_has_no_place_there_or_inside(tmp_path, held, new):
    held, new = SORTS[held], SORTS[new]
    folder = made(tmp_path / "held", held)
    told = f"held holds {held.name}, among which there is no place for {new.name}"
    with pytest.raises(InputError, match=f"{told}: choose another folder"):
        require_apart(folder, new)
    inner = folder / "a" / "b"
    with pytest.raises(InputError, match=rf"{told} \(in {re.escape(str(inner))}\)"):
        require_apart(inner, new)
    require_apart(folder, held)
    require_apart(tmp_path / "beside", new)


@pytest.mark.parametrize("inner", ["topk", "seed0/topk"])
def test_a_folder_of_several_dictionaries_takes_more_of_them_in_folders_alone(tmp_path, inner):
    made(tmp_path / inner, DICTIONARY)
    require_apart(tmp_path / "more", DICTIONARY)
    for sort in (ACTIVATIONS, DICTIONARY, REPORT):
        with pytest.raises(InputError, match=f"holds dictionaries, among .* for {sort.name}"):
            require_apart(tmp_path, sort)
        require_apart(tmp_path / "apart", sort)


def test_a_dictionary_has_no_place_within_another(tmp_path):
    folder = made(tmp_path / "first", DICTIONARY)
    with pytest.raises(InputError, match=r"first holds a dictionary, .* \(in "):
        require_apart(folder / "second", DICTIONARY)


def test_a_saved_model_is_no_dictionary(tmp_path):
    folder = made(tmp_path / "model", DICTIONARY)
    (folder / SAVED_FILE).touch()
    require_apart(tmp_path, DICTIONARY)
    require_apart(folder / "acts", ACTIVATIONS)


def test_a_config_of_others_is_no_dictionary(tmp_path):
    (tmp_path / "config.json").touch()
    (tmp_path / "model.safetensors").touch()
    for sort in SORTS.values():
        require_apart(tmp_path, sort)
        require_apart(tmp_path / "inside", sort)


def test_training_saving_and_harvesting_ask_before_they_write(tmp_path):
    store = write(tmp_path / "acts")
    trained = save(TOPK.build(Sites(Site("h", 4), Site("h", 4))), tmp_path / "topk")
    before = sorted(tmp_path.rglob("*"))
    rows, run = torch.randn(64, 4), FitConfig(steps=1, batch_size=16, standardize_rows=16)
    for out in (store.path, store.path / "sae"):
        with pytest.raises(InputError, match=r"acts holds harvested activations"):
            fit(TOPK, rows, run, out=out, progress=False)
        with pytest.raises(InputError, match=r"acts holds harvested activations"):
            save(TOPK.build(Sites(Site("h", 4), Site("h", 4))), out)
    for out in (trained, trained / "acts"):
        with pytest.raises(InputError, match="topk holds a dictionary"):
            write(out)
        with pytest.raises(InputError, match=r"topk holds a .* another library's files"):
            dl.save(dl.load(trained), out, format="saelens")
        with pytest.raises(InputError, match=r"topk holds a dictionary.* for results"):
            evaluate([trained], out)
        with pytest.raises(InputError, match=r"topk holds a dictionary.* for results"):
            show([trained], features="1", out=out)
    assert sorted(tmp_path.rglob("*")) == before, "nor is a folder made"
