"""`dictlearn blind`: three steps, and no text before the third."""

import json
import random
import re

import pytest

from dictlearn.blind.case import GUESS_FILE, REVEALED_FILE, BlindCase
from dictlearn.cli import app
from dictlearn.core.errors import CorruptFileError, InputError
from dictlearn.dictionaries.files import save
from dictlearn.dictionaries.transcoder import TranscoderConfig
from dictlearn.lm.loading import load_model
from dictlearn.lm.mlps import mlp_sites

WORDS = ["apple", "bear", "cake", "elephant", "frog", "garden", "horse", "island", "mouse", "nest"]
"""None of which the commands have a use for."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folders of two untrained transcoders, and a text of few words."""
    folder, model = tmp_path_factory.mktemp("made"), load_model("builtin:stories")
    for layer in (0, 1):
        own = TranscoderConfig(n_features=12).build(mlp_sites(model, layer), seed=layer)
        save(own, folder / f"mlp{layer}")
    draw = random.Random(0)
    lines = [json.dumps({"text": " ".join(draw.choices(WORDS, k=40))}) for _ in range(150)]
    (folder / "text.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture
def run(made, tmp_path, capsys):
    """Runs a step in a folder; what it printed."""

    def run(step, *more):
        words = [tmp_path / "run", *more]
        if step == "show":
            words = [made / "mlp0", made / "mlp1", "--out", tmp_path / "run", "--prompts", 2]
            words += ["--text", made / "text.jsonl", "--tokens", 1500, "--held-out", 300]
            words += ["--context", 24, "--no-check-model", *more]
        app(["blind", step, *map(str, words)], standalone_mode=False)
        printed = capsys.readouterr()
        return printed.out + printed.err

    run.folder = tmp_path / "run"
    return run


def test_three_steps(run):
    shown = run("show", "--no-de-embeddings")
    assert "head " in shown
    assert "mlp0 " in shown
    written = "".join(path.read_text() for path in run.folder.iterdir())
    assert not re.search("|".join(WORDS), shown + written, re.IGNORECASE)
    with pytest.raises(InputError, match="required a guess before any text"):
        run("reveal")
    sealed = run("guess", "a horse", "--pattern", r"\bhorse\b")
    seal = json.loads((run.folder / GUESS_FILE).read_text())["seal"]
    assert seal in sealed
    with pytest.raises(InputError, match="no second one"):
        run("guess", "a mouse", "--pattern", "mouse")
    with pytest.raises(InputError, match="stays as it is"):
        run("show", "--overwrite")
    told = run("reveal", "--shown", 2)
    assert seal in told
    assert "random live feature" in told
    assert re.search("|".join(WORDS), told)
    assert json.loads((run.folder / REVEALED_FILE).read_text())["seal"] == seal
    assert run("reveal", "--shown", 2) == told, "as often as one likes"
    (run.folder / GUESS_FILE).write_text("{}")
    with pytest.raises(CorruptFileError):
        run("reveal")


def test_a_named_feature_and_its_tokens(run):
    shown = run("show", "--feature", "mlp1 3")
    case = BlindCase.load(run.folder)
    assert (case.dictionary, case.feature) == ("mlp1", 3)
    assert repr(case.routes[0].tokens[0].name) in shown
    assert len(case.routes) == 3, "directly, and through two heads"
    assert case.routes[0].features[0].name.startswith("mlp0 ")
    with pytest.raises(InputError, match=r"case\.json of an earlier run"):
        run("show")
    again = run("show", "--feature", "mlp1 3", "--overwrite")
    assert again == shown, "what is own is replaced"


def test_a_device_that_cannot_be_used_is_refused(run):
    for step in ("show", "reveal"):
        with pytest.raises(InputError, match="the device 'meta' cannot be used"):
            run(step, "--device", "meta")
    assert not run.folder.exists()


@pytest.mark.parametrize(
    ("more", "told"), [(["mlp1"], "'NAME NUMBER'"), (["mlp9 3"], "no dictionary 'mlp9'")]
)
def test_what_does_not_fit_is_refused(run, more, told):
    with pytest.raises(InputError, match=told):
        run("show", "--feature", *more)
    assert not run.folder.exists()
