"""From an own text and an own model to a report on a sweep, in three commands; and `dl.report`."""

import io
import json
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest

import dictlearn as dl
from dictlearn.cli import main
from dictlearn.cli.reporting import _PARTS
from dictlearn.core.errors import CorruptFileError, InputError, ProvenanceError
from dictlearn.core.own_files import OwnFiles
from dictlearn.records.features import FeatureRecords
from dictlearn.reporting import Part, Report
from tests.integration.test_options import save_model

RECORDS = ("agreement.json", "concepts.json", "features.json", "results.json")
CONTEXT = 16


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a random model and a text."""
    folder = tmp_path_factory.mktemp("user")
    save_model(folder / "model", 0)
    names = ("Lily", "Tom", "Ben", "Anna")
    rows = [f"{names[i % 4]} has {i} red apples and 2 dogs, and she is happy." for i in range(900)]
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def said(made) -> Callable[..., str]:
    """Runs commands in the folder; what one says, or its error."""

    def run(*words: object, refused: bool = False, at: Path = made) -> str:
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(at)
            patch.setattr("sys.argv", ["dictlearn", *map(str, words)])
            with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
                main()
        assert ended.value.code in ((2,) if refused else (0, None)), err.getvalue()
        return " ".join((err if refused else out).getvalue().split())

    return run


@pytest.fixture(scope="module")
def swept(made, said) -> Path:
    """The folder of a sweep that two commands trained."""
    said("harvest", "--model", "model", "--no-check-model", "--text", "text.jsonl",
         "--hook", "blocks.0.hook_resid_post", "--tokens", 2000, "--context", CONTEXT,
         "--out", "acts")  # fmt: skip
    said("train", "acts", "--kind", "topk_sae", "--n-features", 24, "--k", "2,4,8", "--steps", 4,
         "--batch-size", 256, "--out", "runs/x")  # fmt: skip
    return made / "runs" / "x"


WORDS = ("report", "runs/x", "--no-check-model", "--tokens", 400, "--cards", 1)


def test_a_report_in_three_commands(made, swept, said):
    told = said(*WORDS, "--out", "all")
    page = (made / "all" / "report.html").read_text(encoding="utf-8")
    assert "How each dictionary was trained" in page
    assert "topk_sae_k8" in told
    assert "report: all/report.html" in told
    assert "training step" in page, "the training curves of the log beside the dictionaries"
    assert "topk_sae_k8" in (made / "all" / "report.md").read_text(encoding="utf-8")
    assert {path.name for path in (made / "all").glob("*.json")} == {*RECORDS, "report.json"}
    assert "support_bits" in dl.Records.load(made / "all").dictionaries["topk_sae_k2"].sums

    def times() -> dict[str, int]:
        return {name: (made / "all" / name).stat().st_mtime_ns for name in RECORDS}

    before = times()
    (made / "all" / "report.html").unlink()
    said(*WORDS, "--out", "all")
    assert (made / "all" / "report.html").read_text(encoding="utf-8") == page
    assert times() == before, "nothing is measured twice"

    (made / "all" / "concepts.json").unlink()  # as if killed before it was written
    said(*WORDS, "--out", "all", "--parts", "concepts")
    assert {name for name, at in times().items() if at != before[name]} == {"concepts.json"}


FEW = ("--no-check-model", "--tokens", 100, "--parts", "metrics")


def test_model_and_text_are_found_from_anywhere_and_stay_private(made, swept, said, tmp_path):
    said("report", swept, *FEW, "--out", "rep", at=tmp_path)
    found = dl.Records.load(tmp_path / "rep")
    assert (found.provenance.model, found.tokens["source"]) == ("model", "text.jsonl")
    assert found.tokens["context"] == CONTEXT
    for path in (tmp_path / "rep").iterdir():
        assert str(made).encode() not in path.read_bytes(), path.name


def test_a_moved_project_has_its_own_model_and_text(made, swept, said, tmp_path):
    moved = tmp_path / "moved"
    for name in ("model", "text.jsonl", "runs/x/topk_sae_k2"):
        (moved / name).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (made / name).is_dir() else shutil.copy)(made / name, moved / name)
    evaluate = ("evaluate", moved / "runs" / "x", *FEW[:3], "--out")
    said(*evaluate, "one", at=tmp_path)
    with (moved / "text.jsonl").open("a") as text:
        text.write(json.dumps({"text": "One more."}) + "\n")
    told = said(*evaluate, "two", at=tmp_path, refused=True)
    assert f"the text {moved / 'text.jsonl'} is not the one that dictionary 'topk_sae_k2'" in told
    text = ("--text", moved / "text.jsonl")
    said(*evaluate, "two", *text, at=tmp_path)
    save_model(moved / "model", 1)
    told = said(*evaluate, "three", *text, at=tmp_path, refused=True)
    assert "'topk_sae_k2' was trained on model 'model'" in told
    shutil.rmtree(moved / "model")
    told = said(*evaluate, "three", *text, at=tmp_path, refused=True)
    assert f"the model 'model' in {moved / 'model'}, where there is none now" in told
    assert "--model" in told


def test_refusals_of_the_command_speak_of_options(made, swept, said):
    assert "--parts: there is no part 'concept'; did you mean 'concepts'" in said(
        *WORDS, "--parts", "concept", "--out", "new", refused=True
    )
    assert "required --cards of at least 1" in said(
        *WORDS, "--cards", 0, "--out", "n", refused=True
    )
    (made / "foreign").mkdir()
    (made / "foreign" / "results.json").write_text("mine")
    assert "not a file that a report wrote here" in said(*WORDS, "--out", "foreign", refused=True)
    assert set(_PARTS.split(",")) == {part.value for part in Part}


@pytest.fixture(scope="module")
def subject(made, swept):
    """The model, some tokens and the dictionaries."""
    model = dl.load_model(str(made / "model"), check=False)
    tokens = dl.load_tokens(str(made / "text.jsonl"), model, "held_out", 300, context=CONTEXT)
    return model, tokens, {k: dl.load(swept / f"topk_sae_k{k[1:]}") for k in ("k2", "k4")}


def test_parts_are_added_and_equal_what_the_functions_return(subject, tmp_path):
    model, tokens, both = subject
    quiet = {"out": tmp_path, "n_cards": 1, "progress": False}
    first = dl.report(both, model, tokens, parts=["metrics"], **quiet)
    assert first.path == tmp_path / "report.html"
    assert (first.concepts, first.agreement, first.cards, first.left_out) == (None,) * 3 + ({},)
    assert not (tmp_path / "features.json").exists()
    expected = dl.evaluate(both, model, tokens, progress=False)
    assert first.metrics.to_pandas().equals(expected.to_pandas())
    assert "support_bits" not in first.metrics.dictionaries["k2"].sums

    second = dl.report(both, model, tokens, parts=("cards", "agreement"), **quiet)
    assert second.metrics.to_pandas().equals(first.metrics.to_pandas())
    assert second.cards == dl.describe_features(both, model, tokens, 1, progress=False)
    pairs = dl.compare_features(both, model, tokens, progress=False)
    assert second.agreement.to_pandas().equals(pairs.to_pandas())

    third = dl.report(both, model, tokens, parts="bits,concepts", **quiet)
    expected = dl.evaluate(both, model, tokens, bits=True, progress=False)
    assert third.metrics.to_pandas().equals(expected.to_pandas())
    assert third.cards == second.cards, "the page has the parts of earlier calls"
    expected = dl.evaluate_concepts(both, model, tokens, progress=False)
    assert third.concepts.to_pandas().equals(expected.to_pandas())
    assert "k2" in third._repr_html_()
    assert repr(third) == f"Report({str(tmp_path / 'report.html')!r})"


def test_another_description_is_refused_or_replaced(subject, swept, tmp_path):
    model, tokens, both = subject
    quiet = {"out": tmp_path, "parts": ["cards"], "progress": False}
    (tmp_path / "notes").write_text("mine")
    dl.report(both, model, tokens, n_cards=1, **quiet)
    before = FeatureRecords.load(tmp_path)
    longer = dl.TopKSAEConfig(n_features=24, k=3)
    other = longer.restored(both["k2"].sites, both["k2"].state_dict())
    other.load_state_dict(both["k2"].state_dict())
    other.config, other.kind = longer, "topk_sae"
    fewer = replace(tokens, ids=tokens.ids[1:], ordinary=tokens.ordinary[1:], hash="other")
    moved = dl.load(swept / "topk_sae_k2")
    next(iter(moved.parameters())).data[0, 0] += 1
    for change, told in (
        ({"tokens": fewer}, r"it differs in tokens\.hash"),
        ({"n_cards": 2}, r"it differs in parts\.cards\.n_cards"),
        ({"dictionaries": {"k2": both["k2"]}}, r"it differs in dictionaries\.k4"),
        ({"dictionaries": {**both, "k2": moved}}, r"differs in dictionaries\.k2\.weights_sha256"),
        ({"dictionaries": {**both, "k2": other}}, r"differs in dictionaries\.k2\.config\.k"),
        ({"exclude_special": False}, r"it differs in tokens\.exclude_special"),
    ):
        arguments = {"dictionaries": both, "tokens": tokens, "n_cards": 1, **change}
        with pytest.raises(InputError, match=f"another report.*{told}.*overwrite=True"):
            dl.report(model=model, **arguments, **quiet)
    assert FeatureRecords.load(tmp_path) == before
    dl.report(both, model, tokens, n_cards=2, overwrite=True, **quiet)
    assert len(FeatureRecords.load(tmp_path).cards) == 4
    assert (tmp_path / "notes").read_text() == "mine"


def test_a_killed_report_goes_on(subject, tmp_path, monkeypatch):
    model, tokens, both = subject
    quiet = {"out": tmp_path, "parts": ["agreement", "cards"], "n_cards": 1, "progress": False}

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dictlearn.reporting.describe_features", killed)
        with pytest.raises(KeyboardInterrupt):
            dl.report(both, model, tokens, **quiet)
    with monkeypatch.context() as patch:
        for done in ("evaluate", "compare_features"):
            patch.setattr(f"dictlearn.reporting.{done}", killed)
        found = dl.report(both, model, tokens, **quiet)
    alone = dl.report(both, model, tokens, **quiet | {"out": tmp_path / "at once"})
    assert found.cards == alone.cards
    assert found.metrics.to_pandas().equals(alone.metrics.to_pandas())
    assert (tmp_path / "report.html").read_text() == (tmp_path / "at once/report.html").read_text()


def test_what_cannot_be_measured_is_left_out_with_the_reason(subject, tmp_path):
    model, tokens, both = subject
    short = replace(tokens, ids=tokens.ids[:5], ordinary=tokens.ordinary[:5], hash="short")
    nothing = dl.MeanConfig().build(both["k2"].sites)
    found = dl.report(nothing, model, short, out=tmp_path, n_cards=1, progress=False)
    assert isinstance(found, Report)
    assert found.left_out.keys() == {Part.AGREEMENT, Part.CONCEPTS}
    page = found.path.read_text(encoding="utf-8")
    assert "Left out, agreement: it compares features, and these dictionaries have none" in page
    assert "Left out, concepts: evaluate_concepts needs a dictionary with features" in page
    quiet = {"out": tmp_path / "k2", "parts": ["concepts"], "progress": False}
    found = dl.report({"k2": both["k2"]}, model, short, **quiet)
    assert "a concept with at least 20 matches" in found.left_out[Part.CONCEPTS]


def test_mistakes_are_no_reason_to_leave_a_part_out(subject, tmp_path):
    model, tokens, both = subject
    quiet = {"out": tmp_path, "n_cards": 1, "parts": ["cards"], "progress": False}
    beyond = replace(tokens, ids=tokens.ids + model.cfg.d_vocab, hash="beyond")
    with pytest.raises(InputError, match="vocabulary"):
        dl.report(both, model, tokens, documents=beyond, **quiet)
    assert not list(tmp_path.iterdir()), "before work starts"

    for error in (InputError("required another argument"), CorruptFileError("damaged")):

        def refused(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("dictlearn.reporting.describe_features", refused)
            with pytest.raises(type(error), match=str(error)):
                dl.report(both, model, tokens, **quiet)
    dl.report(both, model, tokens, **quiet)
    (tmp_path / "features.json").write_text("{}")
    with pytest.raises(InputError, match=r"features\.json has changed"):
        dl.report(both, model, tokens, **quiet)


def test_one_dictionary_has_near_twins_and_a_chance_level(subject, tmp_path):
    model, tokens, both = subject
    quiet = {"out": tmp_path, "parts": ["agreement"], "progress": False}
    found = dl.report({"k2": both["k2"]}, model, tokens, **quiet)
    assert not found.left_out
    cosines = both["k2"].atoms @ both["k2"].atoms.T
    norms = cosines.diagonal().sqrt()
    cosines = (cosines / norms / norms[:, None]).fill_diagonal_(0)
    twins = (cosines > 0.9).any(dim=1).double().mean()
    assert found.agreement.dictionaries["k2"].twin_share == pytest.approx(twins.item())
    page = found.path.read_text(encoding="utf-8")
    level = found.agreement.pair("k2", "random directions").mmcs
    assert f"Chance level: {level:.2f} of learned features" in page
    assert "similarity of several dictionaries" not in page


def test_a_report_is_refused_before_work_starts(subject, tmp_path):
    model, tokens, both = subject
    for change, told in (
        ({"parts": ["card"]}, "parts: there is no part 'card'; did you mean 'cards'"),
        ({"n_cards": 0}, "n_cards of at least 1, got 0"),
        ({"dictionaries": {}}, "report needs a dictionary, or several"),
        ({"dictionaries": tmp_path}, "required a dictionary's folder"),
    ):
        arguments = {"dictionaries": both, "model": model, "tokens": tokens, **change}
        with pytest.raises(InputError, match=told):
            dl.report(**arguments, out=tmp_path / "out")
    elsewhere = dl.load_model("builtin:stories")
    with pytest.raises((ProvenanceError, InputError)):
        dl.report(both, elsewhere, tokens, out=tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.json"))


def test_dictionaries_are_read_from_folders_with_their_logs(subject, swept, tmp_path):
    model, tokens, _ = subject
    for seed in (0, 1):  # what `train --seed 0,1` writes
        shutil.copytree(swept, tmp_path / "seeds" / f"seed{seed}")
    found = dl.report(tmp_path / "seeds", model, tokens, out=tmp_path / "out", parts=(),
                      progress=False)  # fmt: skip
    assert len(found.metrics.dictionaries) == 6
    page = found.path.read_text(encoding="utf-8")
    assert "seed0/topk_sae_k2" in page
    assert "seed1/topk_sae_k2" in page
    frame = dl.overview(swept)
    loaded = {name: dl.load(swept / name) for name in frame.index}
    assert dl.overview(loaded).equals(frame)
    assert OwnFiles(tmp_path / "out", "a report").lists("report.html")
