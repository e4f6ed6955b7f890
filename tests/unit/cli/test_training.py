"""Where `dictlearn train` trains, of several sites that were harvested."""

import dataclasses
import re
from typing import get_type_hints

import pytest
import torch
from typer.main import get_command

import dictlearn as dl
from dictlearn.activations.store import write_store
from dictlearn.cli import app, main
from dictlearn.cli.lists import kinds
from dictlearn.cli.terminal import leftover_fields
from dictlearn.cli.training import _FIT, _at
from dictlearn.config_files import read_config_file
from dictlearn.core.batches import Rows
from dictlearn.core.config import matches
from dictlearn.core.errors import ConfigError, CorruptFileError, InputError
from dictlearn.core.provenance import Provenance
from dictlearn.dictionaries.registry import KINDS
from dictlearn.training.config import FitConfig

IN, OUT, OTHER = (dl.Site(f"blocks.{hook}", 4) for hook in ("0.in", "0.out", "1.out"))
MLP, SAME, NEXT = dl.Sites(IN, OUT), dl.Sites(OUT, OUT), dl.Sites(IN, OTHER)
OFFERED = (MLP, SAME, NEXT)
TRANSCODER, SAE = dl.TranscoderConfig(n_features=8), dl.SAEConfig(n_features=8)


def test_a_target_of_several_sites_is_ambiguous_where_they_differ():
    with pytest.raises(
        InputError,
        match=r"a transcoder differs.*'blocks\.0\.in -> blocks\.0\.out' or "
        r"'blocks\.0\.out -> blocks\.0\.out'",
    ):
        _at(TRANSCODER, OFFERED, "t", ["blocks.0.out"])
    assert _at(TRANSCODER, OFFERED, "t", ["blocks.1.out"]) == {"t": NEXT}
    assert _at(SAE, OFFERED, "s", ["blocks.0.out"]) == {"s": SAME}, "one for both"


def test_both_sides_name_one_pair():
    for pair, arrow in (
        (MLP, "blocks.0.in -> blocks.0.out"),
        (SAME, "blocks.0.out -> blocks.0.out"),
    ):
        assert _at(TRANSCODER, OFFERED, "t", [arrow]) == {"t": pair}
        assert _at(SAE, OFFERED, "s", [arrow]) == {"s": SAME}


def test_all_are_all_that_differ():
    assert _at(TRANSCODER, OFFERED, "t", ["all"]) == {
        "t-blocks.0.in-blocks.0.out": MLP,
        "t-blocks.0.out-blocks.0.out": SAME,
        "t-blocks.1.out": NEXT,
    }
    assert _at(SAE, OFFERED, "s", ["all"]) == {
        "s-blocks.0.out": SAME,
        "s-blocks.1.out": dl.Sites(OTHER, OTHER),
    }
    assert _at(SAE, OFFERED, "s", []) == {}


def test_unknown_places_are_told_the_nearest():
    with pytest.raises(InputError, match=r"at 'blocks\.0\.uot'; did you mean 'blocks\.0\.out'"):
        _at(SAE, OFFERED, "s", ["blocks.0.uot"])
    with pytest.raises(InputError, match=r"did you mean 'blocks\.0\.in -> blocks\.0\.out'"):
        _at(SAE, OFFERED, "s", ["blocks.0.in -> blocks.0.uot"])


@pytest.mark.parametrize("at", ["[]", "3", "[1]", '{a = "b"}'])
def test_a_config_file_names_hooks_or_leaves_them_out(at, tmp_path):
    (tmp_path / "a.toml").write_text(
        f'dictionaries.sae = {{kind = "sae", n_features = 8, at = {at}}}'
    )
    with pytest.raises(ConfigError, match=r"\[dictionaries.sae\]: at must be a hook or a list"):
        read_config_file(tmp_path / "a.toml")


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("[", CorruptFileError, "not valid TOML"),
        ("\xff", CorruptFileError, "not valid TOML"),
        ("fit = 3", ConfigError, r"required a section \[fit\], got 3"),
        ("dictionaries.a = {}", ConfigError, r"\[dictionaries.a\] needs a kind"),
        ("dictionaries.a = {kind = []}", ConfigError, r"\[dictionaries.a\] needs a kind"),
        ('dictionaries.a = {kind = "sea"}', ConfigError, r"\[dictionaries.a\]: unknown kind 'sea'"),
        ('dictionaries.a = {kind = "sae", cls = 1, n_features = 8}', ConfigError, "no field 'cls'"),
        (
            'fit.steps = 0\ndictionaries.a = {kind = "mean"}',
            ConfigError,
            r"\[fit\]: .*steps must",
        ),
        ("", InputError, "at least one section"),
    ],
)
def test_errors_of_a_config_file_name_it(text, error, words, tmp_path):
    (tmp_path / "a.toml").write_text(text, encoding="latin-1")
    with pytest.raises(error, match=rf"a\.toml: .*{words}"):
        read_config_file(tmp_path / "a.toml")


@pytest.mark.untyped  # typer gives a command another class of context than it declares
@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("train --kind topk_sae --k 8,16 --steps 300 --out runs/a", "'activations', got '--k'"),
        ("train --kind topk_sae --out runs/a --k=8", "'activations', got '--k=8'"),
        ("bench --stepss 5", "'name', got '--stepss'"),
    ],
)
def test_an_option_is_no_argument(words, told, refused):
    said = refused(words)
    assert f"required argument {told}; usage: " in said
    assert f"{words.split()[0]} [options]" in said


def test_defaults_of_training_are_those_of_python():
    options = {one.name: one.default for one in get_command(app).commands["train"].params}
    fields = {one.name: one.default for one in dataclasses.fields(FitConfig)}
    shared = options.keys() & fields.keys() - {"seed"}  # which may be several
    assert shared == set(_FIT)
    assert {name: options[name] for name in shared} == {name: fields[name] for name in shared}


def test_lists_are_given_with_commas():
    assert leftover_fields(["--prefixes", "0.1,0.5"]) == {"prefixes": [0.1, 0.5]}
    assert leftover_fields(["--prefixes=0.1,"]) == {"prefixes": [0.1]}
    assert leftover_fields(["--name", "this, that"]) == {"name": "this, that"}


@pytest.mark.parametrize("word", ["none", "null", "None", " none"])
def test_every_optional_setting_can_be_none(word):
    """Those of training and of all kinds, which are "a number or none" in `dictlearn kinds`."""
    for config in (dl.FitConfig, *KINDS):
        hints, own = get_type_hints(config), [f for f in dataclasses.fields(config) if f.repr]
        required = {f.name: 24 for f in own if f.default is dataclasses.MISSING}
        optional = [f.name for f in own if matches(None, hints[f.name])]
        for name in optional:
            given = leftover_fields([f"--{name.replace('_', '-')}", word])
            assert getattr(config(**required | given), name) is None
    assert leftover_fields(["--k-aux", f"{word},4"]) == {"k_aux": [None, 4]}
    assert leftover_fields(["--k-aux=4", "--k-aux", word]) == {"k_aux": [4, None]}
    assert leftover_fields(["--dtype", f'"{word}"']) == {"dtype": word}, "in quotes it is a text"
    assert leftover_fields(["--name", "none of these, or those"]) == {
        "name": "none of these, or those"
    }


def test_kinds_say_how_lists_are_given(capsys):
    kinds("matryoshka_sae")
    said = " ".join(capsys.readouterr().out.split())
    assert "--prefixes a list of numbers 0.03125,0.09375,0.21875,0.46875" in said
    assert "--n-features a whole number required" in said


def test_a_choice_is_asked_for_in_the_words_of_either_way():
    with pytest.raises(InputError, match=r"with fit\(…, sites=…\).*with --at HOOK, or --at all"):
        TRANSCODER.among(OFFERED)


RECIPE = """
[fit]
steps = 9
[dictionaries.small-sae]
kind = "topk_sae"
n_features = 8
k = 2
[dictionaries.codes]
kind = "codebook"
n_codes = 8
k = 2
"""


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path / "recipe.toml"


def test_options_come_before_a_config_file(recipe):
    found = read_config_file(recipe).overridden(
        {"steps": 4, "k": 3, "small_sae.k": 4, "n_codes": 16, "seed": 5}
    )
    assert (found.fit.steps, found.fit.seed) == (4, 5)
    assert {name: config.to_dict()["k"] for name, config in found.configs.items()} == {
        "small-sae": 4, "codes": 3
    }  # fmt: skip
    assert (found.configs["small-sae"].n_features, found.configs["codes"].n_codes) == (8, 16)
    with pytest.raises(ConfigError, match=r"no dictionary .* --step, .*did you mean '--steps'"):
        read_config_file(recipe).overridden({"step": 4})
    with pytest.raises(ConfigError, match=r"TopKSAEConfig\.k must"):
        read_config_file(recipe).overridden({"k": [1, 2]})


@pytest.fixture
def store(tmp_path):
    site = dl.Site("h", 4)
    rows = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    return write_store(
        tmp_path / "store", [Rows({"h": rows})], sites=[dl.Sites(site, site)], n_rows=64,
        dtype=torch.float32, provenance=Provenance(), tokens={},
    ).path  # fmt: skip


@pytest.fixture
def train(monkeypatch, capsys):
    """Trains with these options; what was said, and the errors."""

    def train(*words):
        monkeypatch.setattr("sys.argv", ["dictlearn", "train", *map(str, words)])
        with pytest.raises(SystemExit):
            main()
        said = capsys.readouterr()
        return said.out, " ".join(said.err.split())

    return train


ONE = ("--kind", "topk_sae", "--n-features", 8, "--k", 2, "--steps", 2, "--batch-size", 16,
       "--standardize-rows", 64)  # fmt: skip


@pytest.mark.untyped  # typer passes a context of its own kind
def test_one_dictionary_has_the_folder_and_several_have_theirs(train, store, recipe, tmp_path):
    said, _ = train(store, *ONE, "--out", tmp_path / "sae")
    assert dl.load(tmp_path / "sae").config == TOPK
    assert "topk_sae" in said
    assert re.search(r"time: [\d.]+ s\n", said)
    assert f"log:  {tmp_path / 'sae' / 'train.jsonl'}" in said
    _, error = train(store, *ONE, "--out", tmp_path / "sae")
    assert "already in" in error
    assert "(--overwrite)" in error
    assert "overwrite=True" not in error
    train(store, "--init", tmp_path / "sae", "--steps", 1, "--batch-size", 16,
          "--standardize-rows", 64, "--out", tmp_path / "more")  # fmt: skip
    assert dl.load(tmp_path / "more").config == TOPK
    train(store, *ONE, "--seed", "0,1", "--out", tmp_path / "seeds")
    assert dl.overview(tmp_path / "seeds").index.tolist() == ["seed0", "seed1"]
    train(store, "--config", recipe, "--k", 3, "--steps", 1, "--batch-size", 16, "--seed", 7,
          "--standardize-rows", 64, "--out", tmp_path / "both")  # fmt: skip
    for name in ("small-sae", "codes"):
        one = dl.load(tmp_path / "both" / name)
        assert one.config.to_dict()["k"] == 3
        assert one.provenance.training["fit_config"]["seed"] == 7


TOPK = dl.TopKSAEConfig(n_features=8, k=2)


@pytest.mark.untyped
def test_clipping_is_turned_off_and_options_come_back_to_none(train, store, recipe, tmp_path):
    train(store, *ONE, "--max-gradient-norm", "none", "--out", tmp_path / "sae")
    run = dl.load(tmp_path / "sae").provenance.training["fit_config"]
    assert run["max_gradient_norm"] is None
    recipe.write_text(
        RECIPE.replace("steps = 9", "steps = 9\nlearning_rate = 3.0\nmax_norm_ratio = 2")
    )
    few = ("--config", recipe, "--steps", 1, "--batch-size", 16, "--standardize-rows", 64)
    train(store, *few, "--learning-rate", "none", "--max-norm-ratio", "null",
          "--out", tmp_path / "both")  # fmt: skip
    run = dl.load(tmp_path / "both" / "codes").provenance.training["fit_config"]
    assert (run["learning_rate"], run["max_norm_ratio"]) == (None, None)
    _, error = train(store, *few, "--learning-rate", "fast", "--out", tmp_path / "none")
    assert "'--learning-rate'" in error
    assert "'fast'" in error


@pytest.mark.untyped
def test_mistakes_are_told_in_options(train, store, recipe, tmp_path):
    out = ("--out", tmp_path / "out")
    _, error = train(store, *ONE, "--out", store)
    assert f"{store} holds harvested activations" in error
    _, error = train(store, *ONE, "--batch-size", 0, *out)
    assert error.startswith("error: --batch-size must be")
    assert "required --n-features, --k" in train(store, "--kind", "topk_sae", *out)[1]
    assert "did you mean '--steps'" in train(store, *ONE[:6], "--step", 3, *out)[1]
    assert "did you mean '--steps'" in train(store, "--config", recipe, "--step", 3, *out)[1]
    assert "either --kind" in train(store, "--config", recipe, "--kind", "sae", *out)[1]
    assert not (tmp_path / "out").exists()
