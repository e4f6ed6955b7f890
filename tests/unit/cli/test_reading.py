"""The text of a command: how much of it is read, and what is refused before a model is loaded."""

import json

import pytest

import dictlearn as dl
from dictlearn.cli import main
from dictlearn.cli.options import TokenCount, _token_count
from dictlearn.cli.reading import reading
from dictlearn.core.errors import CorruptFileError, InputError
from dictlearn.core.provenance import Provenance


@pytest.fixture(scope="module")
def model():
    return dl.load_model("builtin:stories", check=False)


@pytest.fixture
def text(tmp_path):
    """A file of about 1,500 tokens."""
    path = tmp_path / "small.jsonl"
    rows = [{"text": f"The bear number {i} ate an apple."} for i in range(150)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_count_is_a_number_or_all():
    assert _token_count("300_000") == TokenCount(300_000)
    assert _token_count("all") == TokenCount(None)
    default = TokenCount(40_000, at_most=True)
    assert _token_count(default) is default
    assert str(default) == "40000, or all of a shorter text", "as help shows it"


def test_a_shorter_text_is_read_whole_where_no_number_was_asked_for(model, text, capsys):
    def read(tokens):
        return reading(text, "train", tokens, context=16)(model)

    every = read(TokenCount(None))
    assert capsys.readouterr().err == "", "all is all"
    assert 0 < every.n_tokens < 10_000
    assert read(TokenCount(10_000, at_most=True)).hash == every.hash
    said = " ".join(capsys.readouterr().err.split())
    assert f"split 'train' of small.jsonl: all {every.n_tokens:,} tokens" in said
    assert "fewer than 10,000" in said
    some = read(TokenCount(100, at_most=True))
    assert some.hash == read(TokenCount(100)).hash
    assert 100 <= some.n_tokens < 116
    assert capsys.readouterr().err == "", "as much as asked for"
    with pytest.raises(InputError, match=rf"at most {every.n_tokens}, or n_tokens=None \(--tokens"):
        read(TokenCount(10_000))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"split": "test"}, "required split train or held_out or all, got 'test'"),
        ({"tokens": TokenCount(-5)}, r"n_tokens= \(--tokens\) of at least one context \(2\)"),
        ({"tokens": TokenCount(9), "context": 10}, r"at least one context \(10\), got 9"),
        ({"context": 1}, "a context from 2 to the model's n_ctx, got 1"),
        ({"column": "story"}, "required a column 'story', got text"),
        ({"ids_column": "text"}, "required token ids"),
        ({"dataset_split": "train"}, "needs a data set with splits"),
    ],
)
def test_arguments_are_checked_without_a_model(text, settings, words):
    given = {"split": "train", "tokens": TokenCount(None)} | settings
    with pytest.raises(InputError, match=words):
        reading(text, **given)


def test_a_text_is_looked_at_without_a_model(tmp_path):
    (tmp_path / "small.txt").write_text(" \n\n")
    (tmp_path / "bad.jsonl").write_text("{")
    for name, error, words in (
        ("small.txt", InputError, "at least one document with text, got none"),
        ("smal.txt", InputError, "no text source .*did you mean 'small.txt'"),
        ("bad.jsonl", CorruptFileError, "not valid JSON"),
    ):
        with pytest.raises(error, match=words):
            reading(str(tmp_path / name), "train", TokenCount(None))
    reading("hf:nobody/nothing", "train", TokenCount(None)), "asked when it is read"


@pytest.fixture
def told(monkeypatch, capsys):
    """The error of a command, on a model that is not there."""

    def told(*words):
        monkeypatch.setattr("sys.argv", ["dictlearn", *map(str, words), "--model", "/no/model"])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        return " ".join(capsys.readouterr().err.split())

    return told


@pytest.fixture
def dictionary(tmp_path, text):
    site = dl.Site("h", 4)
    sae = dl.TopKSAEConfig(n_features=8, k=2).build(dl.Sites(site, site), seed=0)
    sae.provenance = Provenance(model="m", text="small.jsonl", text_path=text)
    return dl.save(sae, tmp_path / "sae")


def test_commands_check_the_text_before_the_model_is_loaded(told, dictionary, text, tmp_path):
    out = ("--out", tmp_path / "out")
    for command in (
        ("harvest", "--mlp", 0, *out),
        ("evaluate", dictionary, *out),
        ("report", dictionary, *out),
        ("show", dictionary, "--features", 0),
        ("blind", "show", dictionary, *out),
    ):
        error = told(*command, "--text", text, "--tokens", "-5")
        assert "required --tokens of at least one context" in error
        assert "n_tokens" not in error
        assert "no text source" in told(*command, "--text", tmp_path / "none.txt")
        assert "/no/model" in told(*command, "--text", text, "--tokens", "all")
        assert "number, or all; got 'few'" in told(*command, "--tokens", "few").replace("│ ", "")
        if "blind" not in command:
            assert "got 'test'" in told(*command, "--text", text, "--split", "test")
    assert "harvest needs --hook NAME or --mlp LAYER" in told("harvest", *out)
    error = told("blind", "show", dictionary, *out, "--text", text, "--held-out", 1)
    assert "at least one context (64), got 1" in error
    assert not (tmp_path / "out").exists()
