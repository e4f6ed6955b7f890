"""Where `dictlearn train` trains, of several sites that were harvested."""

import pytest

import dictlearn as dl
from dictlearn.cli.lists import kinds
from dictlearn.cli.terminal import leftover_fields
from dictlearn.cli.training import _at
from dictlearn.config_files import read_config_file
from dictlearn.core.errors import ConfigError, CorruptFileError, InputError

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


def test_lists_are_given_with_commas():
    assert leftover_fields(["--prefixes", "0.1,0.5"]) == {"prefixes": [0.1, 0.5]}
    assert leftover_fields(["--prefixes=0.1,"]) == {"prefixes": [0.1]}
    assert leftover_fields(["--name", "this, that"]) == {"name": "this, that"}


def test_kinds_say_how_lists_are_given(capsys):
    kinds("matryoshka_sae")
    said = " ".join(capsys.readouterr().out.split())
    assert "--prefixes a list of numbers 0.03125,0.09375,0.21875,0.46875" in said
    assert "--n-features a whole number required" in said


def test_a_choice_is_asked_for_in_the_words_of_either_way():
    with pytest.raises(InputError, match=r"with fit\(…, sites=…\).*with --at HOOK, or --at all"):
        TRANSCODER.among(OFFERED)
