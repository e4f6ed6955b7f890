"""A study from its name to its report, interrupted and continued."""

import json
import re
from dataclasses import replace

import pytest
import torch

import dictlearn as dl
from dictlearn.cli import main
from dictlearn.core.errors import InputError
from dictlearn.core.own_files import OwnFiles
from dictlearn.studies.folder import STUDY
from dictlearn.studies.run import run_study
from dictlearn.studies.study import MLP, RateSearch, Study

FILE = """
import dictlearn as dl
from dictlearn.studies.study import MLP, RateSearch, Study

def small(steps: int = 20) -> Study:
    '''A small study.'''
    return Study(
        name="small",
        question="Two kinds, two seeds",
        learned={
            "codes": dl.CodebookConfig(n_codes=64, k=4),
            "topk": dl.TopKSAEConfig(n_features=64, k=4),
            "topk_8": dl.TopKSAEConfig(n_features=64, k=8),
        },
        baselines={"mean": dl.MeanConfig(), "identity": dl.IdentityConfig()},
        fit=dl.FitConfig(steps=steps, batch_size=128, standardize_rows=256),
        places=(MLP(1),),
        seeds=(0, 1),
        train_tokens=6_000,
        held_out_tokens=2_500,
        bits=True,
        inspected=("codes", "topk"),
        n_cards=2,
        concept_tokens=4_000,
    )

STUDIES = {"small": small}
"""


def bench(monkeypatch, capsys, *arguments, fails: bool = False) -> str:
    monkeypatch.setattr("sys.argv", ["dictlearn", "bench", *map(str, arguments)])
    monkeypatch.setenv("COLUMNS", "160")
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr()
    assert (ended.value.code not in (0, None)) == fails, printed.err
    return " ".join((printed.err if fails else printed.out).split())


TINY = Study(
    name="tiny",
    question="?",
    learned={"topk": dl.TopKSAEConfig(n_features=16, k=2)},
    baselines={},
    fit=dl.FitConfig(steps=3, batch_size=64, standardize_rows=64),
    places=(MLP(0),),
    train_tokens=3_000,
    held_out_tokens=1_000,
)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "studies.py"
    path.write_text(FILE)
    return ["--studies", path]


def test_studies_are_listed_described_and_refused(monkeypatch, capsys, tmp_path, file):
    assert "A small study." in bench(monkeypatch, capsys, *file)
    described = json.loads(bench(monkeypatch, capsys, "small", "--steps", 3, "--describe", *file))
    assert described["fit"]["steps"] == 3
    assert "did you mean 'small'" in bench(monkeypatch, capsys, "smal", *file, fails=True)
    assert "did you mean 'steps'" in bench(
        monkeypatch, capsys, "small", "--step", 3, *file, fails=True
    )
    assert "--studies" in bench(
        monkeypatch, capsys, "small", "--studies", tmp_path / "none.py", fails=True
    )
    assert "--steps of study 'small' must be a whole number, got 'many'" in bench(
        monkeypatch, capsys, "small", "--steps", "many", *file, fails=True
    )


def test_a_study_leaves_everything_and_continues(monkeypatch, capsys, tmp_path, file):
    out = tmp_path / "run"
    table = bench(monkeypatch, capsys, "small", "--out", out, *file)
    assert "topk s1" in table
    assert re.search(r"part time .*train [\d.]+ s.* results: ", table)
    data = json.loads((out / "study.json").read_text())
    assert data["study"]["seeds"] == [0, 1]
    assert data["model"]["model_hash"]
    assert data["held_out"]["hash"] != data["train"]["hash"]
    assert data["versions"]["torch"]
    names = {f"{name} s{seed}" for name in ("codes", "topk", "topk_8") for seed in (0, 1)}
    records = dl.Records.load(out)
    assert records.dictionaries.keys() == names | {"mean", "identity"}
    assert {r.seed for n, r in records.dictionaries.items() if n in names} == {0, 1}
    report = (out / "report.html").read_text()
    assert all(name in report for name in records.dictionaries)
    page = (out / "report.md").read_text()
    assert f"Written by <code>dictlearn bench small --studies {file[1]}</code>" in page
    assert "| topk_8 | topk_sae | 64 |" in page, "seeds are one row"
    assert page.count("## ") == 5
    assert "At L0 4, topk_sae recovers most" in page or "At L0 4, codebook recovers most" in page
    for part in ("concepts.json", "agreement.json", "features.json"):
        assert (out / part).exists()

    kept = ["results.json", "dictionaries/seed0/topk/weights.safetensors"]
    before = {part: (out / part).read_bytes() for part in kept}
    (out / "report.html").unlink()
    (out / "results.json").unlink()
    for part in (out / "dictionaries" / "seed1" / "codes").iterdir():
        part.unlink()  # as if killed before everything was written
    (out / "dictionaries" / "seed1" / "topk" / "config.json").unlink()
    bench(monkeypatch, capsys, "small", "--out", out, *file)
    assert (out / "report.html").exists()
    assert {part: (out / part).read_bytes() for part in kept} == before

    (out / "report.html").unlink()
    data["revision"] = "of another day"
    OwnFiles(out, STUDY).write_json("study.json", data)
    bench(monkeypatch, capsys, "small", "--out", out, *file)
    assert "revision of another day" in (out / "report.md").read_text()
    assert "continued with revision" in (out / "report.md").read_text()
    (out / "report.html").unlink()
    data["held_out"]["hash"] = "other tokens"
    OwnFiles(out, STUDY).write_json("study.json", data)
    refused = bench(monkeypatch, capsys, "small", "--out", out, *file, fails=True)
    assert "it differs in held_out.hash" in refused
    refused = bench(monkeypatch, capsys, "small", "--steps", 9, "--out", out, *file, fails=True)
    assert "it differs in study.fit.steps" in refused


def test_overwriting_removes_what_the_study_wrote_and_nothing_else(tmp_path):
    (tmp_path / "mine.txt").write_text("kept")
    first = run_study(TINY, tmp_path)
    again = run_study(TINY, tmp_path, overwrite=True)
    assert (tmp_path / "mine.txt").read_text() == "kept"
    assert first.to_pandas().equals(again.to_pandas())
    with pytest.raises(InputError, match="another study"):
        run_study(replace(TINY, seeds=(5,)), tmp_path)
    with pytest.raises(InputError, match="layer from 0 to 3"):
        run_study(replace(TINY, places=(MLP(0), MLP(99))), tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    (tmp_path / "study.json").unlink()
    with pytest.raises(InputError, match=r"holds results\.json.* no study wrote them"):
        run_study(TINY, tmp_path)


def test_the_demo_overwrites_no_other_study(monkeypatch, capsys, tmp_path):
    (tmp_path / "study.json").write_text('{"study": {"name": "families"}}')
    (tmp_path / "results.json").write_text("hours of work")
    monkeypatch.setattr("sys.argv", ["dictlearn", "demo", "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        main()
    assert "holds a run of another study" in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "results.json").read_text() == "hours of work"


def test_one_inspected_dictionary_agrees_with_nobody(tmp_path):
    study = replace(TINY, inspected=("topk",), n_cards=1, concept_tokens=1_000)
    run_study(study, tmp_path)
    assert (tmp_path / "report.html").exists()
    assert not (tmp_path / "agreement.json").exists()


def test_the_report_works_in_a_browser(monkeypatch, capsys, tmp_path, file, looked_at):
    out = tmp_path / "run"
    bench(monkeypatch, capsys, "small", "--out", out, *file)
    for width in (1280, 390):
        seen = looked_at(out / "report.html", width, tmp_path)
        assert seen["errors"] == seen["violations"] == []
        assert seen["drawn"] == seen["plots"] >= 8
        assert seen["hovers"] == seen["plots"], "every plot answers a pointer"
        assert seen["window"] == width
        assert seen["width"] <= width, "the page itself never scrolls sideways"
        assert seen["smallest"] >= 12
        concepts = [box for box in seen["boxes"] if box[:2] == ["concepts", "concept"]]
        assert len(concepts) == 2, "of every inspected dictionary"
        assert seen["legends"]
        if width == 1280:
            assert all(inside <= box for *_, inside, box in concepts), "without scrolling"
        else:
            assert seen["unsaid"] == 0, "a figure that is cut says that it scrolls"
            for axes, top, bottom, end in seen["legends"]:
                assert axes < top < bottom <= end, "below the figure, and on the page"


def test_bench_runs_no_file_of_the_folder_one_stands_in(tmp_path, monkeypatch, capsys):
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "studies.py").write_text("raise SystemExit('executed')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["dictlearn", "bench"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert "families" in capsys.readouterr().out


def test_a_study_goes_on_without_a_dictionary_that_diverged(tmp_path):
    diverging = dl.SAEConfig(n_features=16, l1_coefficient=3e38)
    study = replace(
        TINY,
        learned={**TINY.learned, "sae": diverging},
        inspected=("sae", "topk"),
        concept_tokens=2_000,
        n_cards=1,
    )
    records = run_study(study, tmp_path / "both")
    alone = run_study(replace(study, learned=TINY.learned, inspected=("topk",)), tmp_path / "one")
    assert records.dictionaries.keys() == {"topk"}
    assert records.dictionaries["topk"].metrics == alone.dictionaries["topk"].metrics
    report = (tmp_path / "both" / "report.html").read_text()
    assert "diverged: its loss is" in report
    assert "diverged: its loss is" not in (tmp_path / "one" / "report.html").read_text()
    (tmp_path / "both" / "report.html").unlink()
    run_study(study, tmp_path / "both")  # reads what is there: training again would say so
    assert "diverged: its loss is" in (tmp_path / "both" / "report.html").read_text()


def test_a_search_trains_each_kind_at_the_rate_that_validation_tokens_favour(
    tmp_path, recwarn, monkeypatch
):
    study = replace(
        TINY,
        learned={
            **{f"topk_{k}": dl.TopKSAEConfig(n_features=32, k=k) for k in (2, 8)},
            **{f"codes_{k}": dl.CodebookConfig(n_codes=32, k=k) for k in (2, 8)},
        },
        fit=dl.FitConfig(steps=40, batch_size=64, standardize_rows=64),
        search=RateSearch(learning_rates=(1e-5, 1e-2), shorter=(20,), validation_tokens=600),
        seeds=(0, 1),
    )
    records = run_study(study, tmp_path)
    for name, record in records.dictionaries.items():
        assert record.provenance.training["fit_config"]["learning_rate"] == 1e-2, name
        assert record.provenance.training["fit_config"]["steps"] == 40
    assert records.dictionaries.keys() == {f"{n} s{seed}" for n in study.learned for seed in (0, 1)}
    tokens = {
        "train": json.loads((tmp_path / "study.json").read_text())["train"],
        "validation": dl.Records.load(tmp_path / "search" / "20").tokens,
        "held_out": records.tokens,
    }
    assert len({found["hash"] for found in tokens.values()}) == 3
    assert tokens["validation"]["n_tokens"] >= 600
    assert not [w for w in recwarn if "trained on text of this split" in str(w.message)]
    assert dl.Records.load(tmp_path / "search" / "20").dictionaries.keys() == {
        f"{name} rate {rate:g}" for name in study.learned for rate in (1e-5, 1e-2)
    }
    assert dl.Records.load(tmp_path / "lengths" / "20").dictionaries.keys() == {
        f"{name} s0" for name in study.learned
    }
    report = (tmp_path / "report.html").read_text()
    assert "Training length and learning rates" in report
    assert "40 steps of 64 rows, at a peak learning rate of 0.01 for" in report
    (tmp_path / "results.json").unlink()
    (tmp_path / "report.html").unlink()
    before = (tmp_path / "search" / "40" / "rate0.01" / "topk_2" / "weights.safetensors").stat()
    again = run_study(study, tmp_path)
    assert again.to_pandas().equals(records.to_pandas())
    assert (
        before
        == (tmp_path / "search" / "40" / "rate0.01" / "topk_2" / "weights.safetensors").stat()
    ), "not trained again"

    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
    run_study(study, tmp_path / "apart", nproc=2)
    weights = [p.relative_to(tmp_path) for p in tmp_path.glob("[sd]*/**/weights.safetensors")]
    assert len(weights) == 16 + 4
    for path in weights:
        assert (tmp_path / "apart" / path).read_bytes() == (tmp_path / path).read_bytes(), path
