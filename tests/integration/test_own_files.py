"""Files of others are theirs: every command leaves them as they were, overwriting or not."""

import json
import shutil
from pathlib import Path

import pytest
import typer

import dictlearn as dl
from dictlearn.cli import app, main
from dictlearn.core.errors import ConfigError, InputError
from dictlearn.demo import DemoSize
from dictlearn.studies.run import run_study
from dictlearn.studies.study import MLP, Hook, Study

LIST = "dictlearn.files"
STUDY_OF_TWO = """
import dictlearn as dl
from dictlearn.studies.study import MLP, Study

def tiny() -> Study:
    return Study(
        name="tiny",
        question="?",
        learned={"topk": dl.TopKSAEConfig(n_features=16, k=2)},
        baselines={"mean": dl.MeanConfig()},
        fit=dl.FitConfig(steps=3, batch_size=64, standardize_rows=64),
        places=(MLP(0), MLP(1)),
        seeds=(0, 1),
        train_tokens=2_000,
        held_out_tokens=1_000,
        inspected=("topk",),
        n_cards=1,
        concept_tokens=1_000,
    )

STUDIES = {"tiny": tiny}
"""
TINY_DEMO = DemoSize(train_tokens=2_000, held_out_tokens=1_000, steps=3, batch_size=256,
                     n_features=64, n_cards=1, concept_tokens=1_000)  # fmt: skip
COMMANDS = {  # every command with --out: a small run of it, in which words in {} are folders
    "harvest": "--mlp 0 --tokens 2000",
    "train": "{store} --kind topk_sae --n-features 16 --k 2 --steps 3 --batch-size 64",
    "evaluate": "{one} --tokens 1000",
    "report": "{one} --parts cards --cards 1 --tokens 1000",
    "compare": "{results}",
    "show": "{one} --features 3 --tokens 1000",
    "export": "{one} --format saelens",
    "import": "saelens:{theirs}",
    "attribute": "{one} --prompt Once --features 5",
    "blind show": "{one} --tokens 1000 --held-out 200 --context 16 --prompts 1 --iterations 1",
    "demo": "",
    "bench": "tiny --studies {studies}",
}
CONTINUED = ("demo", "bench", "report")
"""Commands that go on with a run where it is repeated; others refuse to replace its results."""
WHILE_IT_RUNS = {"train": ["checkpoint.safetensors"]}
"""Files that a finished run has removed again."""


def commands_with_out() -> dict[str, bool]:
    """The commands that have `--out`, and whether they have `--overwrite`."""
    commands = typer.main.get_command(app).commands
    inner = {
        f"{group} {name}": step
        for group, command in commands.items()
        for name, step in getattr(command, "commands", {}).items()
    }
    options = {
        name: {flag for parameter in command.params for flag in parameter.opts}
        for name, command in (commands | inner).items()
    }
    return {name: "--overwrite" in flags for name, flags in options.items() if "--out" in flags}


def test_no_command_is_forgotten():
    found = commands_with_out()
    assert COMMANDS.keys() == found.keys()
    assert all(found.values()), "each has --overwrite"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    """What the commands take: a store, a dictionary, results, a file of studies."""
    folder = tmp_path_factory.mktemp("made")
    paths = {name: folder / name for name in ("store", "one", "results", "studies", "theirs")}
    model = dl.load_model("builtin:stories")
    tokens = dl.load_tokens("builtin:stories", model, n_tokens=2_000)
    held_out = dl.load_tokens("builtin:stories", model, split="held_out", n_tokens=1_000)
    store = dl.harvest(model, tokens, dl.mlp_sites(model, 0), paths["store"], progress=False)
    run = dl.FitConfig(steps=3, batch_size=64, standardize_rows=64)
    one = dl.fit(dl.TopKSAEConfig(n_features=16, k=2), store, run, progress=False)
    dl.save(one, paths["one"])
    dl.save(one, paths["theirs"], format="saelens")
    dl.evaluate({"one": one}, model, held_out, progress=False).save(paths["results"])
    paths["studies"].write_text(STUDY_OF_TWO)
    return paths


@pytest.fixture
def run(monkeypatch, capsys, made):
    """Runs a command into a folder; what it said if it was refused, else nothing."""
    monkeypatch.setattr("dictlearn.demo.DemoSize", lambda: TINY_DEMO)

    def run(command: str, out: Path, overwrite: bool = False) -> str:
        words = [*COMMANDS[command].format(**made).split(), "--out", str(out)]
        words += ["--overwrite"] if overwrite else []
        monkeypatch.setattr("sys.argv", ["dictlearn", *command.split(), *words])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr().err
        assert ended.value.code in (0, None, 2), said
        return "".join(said.split()) if ended.value.code else ""

    return run


def files_in(folder: Path) -> dict[str, bytes]:
    """The files below a folder, without lists, by their names in it."""
    found = (p for p in folder.rglob("*") if p.is_file() and p.name != LIST)
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


@pytest.mark.parametrize(("command", "has_overwrite"), commands_with_out().items())
def test_a_users_files_stay_to_the_byte(command, has_overwrite, run, tmp_path):
    clean, out, outside = tmp_path / "clean", tmp_path / "out", tmp_path / "outside"
    clean.mkdir()
    assert run(command, clean) == ""
    names = [*files_in(clean), *WHILE_IT_RUNS.get(command, [])]
    assert len(names) >= 1

    unrelated = {
        "notes.txt": b"mine",
        "theirs/config.json": b"{}",
        "shard_99999.safetensors": b"mine",
        ".shard_00000.safetensors.mine.part": b"mine",
    }
    for name in names:
        for overwrite in (False, True)[: 1 + has_overwrite]:
            (out / "theirs").mkdir(parents=True)
            for other, data in unrelated.items():
                (out / other).write_bytes(data)
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            outside.write_bytes(b"outside")
            if overwrite:
                (out / name).symlink_to(outside)
            else:
                (out / name).write_bytes(b"a user's")
            before = files_in(out)
            said = run(command, out, overwrite)
            assert files_in(out).items() >= before.items(), (name, said)
            assert not said or any(part in said for part in Path(name).parts), said
            assert outside.read_bytes() == b"outside"
            shutil.rmtree(out)

    (out / "theirs").mkdir(parents=True)
    for other, data in unrelated.items():
        (out / other).write_bytes(data)
    for again in (False, True):
        said = run(command, out, overwrite=again and has_overwrite)
        assert said == "", "what is own is replaced"
        if command not in CONTINUED:
            assert "(--overwrite)" in run(command, out)
        assert files_in(out).keys() == {*files_in(clean), *unrelated}
        assert files_in(out).items() >= unrelated.items()


HOSTILE = ["../precious", ".", "{absolute}", "link", "link/inner", "..\\precious", ""]
TINY = Study(
    name="tiny",
    question="?",
    learned={"topk": dl.TopKSAEConfig(n_features=16, k=2)},
    baselines={},
    fit=dl.FitConfig(steps=3, batch_size=64, standardize_rows=64),
    places=(MLP(0),),
    train_tokens=2_000,
    held_out_tokens=1_000,
)


@pytest.mark.parametrize("place", HOSTILE)
@pytest.mark.parametrize("how", ["demo", "bench", "bench --overwrite", "run", "run, overwriting"])
def test_what_a_study_file_says_removes_nothing(place, how, run, tmp_path):
    precious, out = tmp_path / "precious", tmp_path / "out"
    (precious / "inner").mkdir(parents=True)
    (precious / "inner" / "work").write_text("years")
    (precious / "work").write_text("years")
    out.mkdir()
    (out / "mine").write_text("mine")
    (out / "link").symlink_to(precious)
    name = "demo" if how == "demo" else "tiny"
    study = {"name": name, "places": [place.format(absolute=precious)]}
    (out / "study.json").write_text(json.dumps({"study": study}))
    before = files_in(tmp_path)
    if how.startswith("run"):
        with pytest.raises(InputError, match=r"study\.json|another study"):
            run_study(TINY, out, overwrite=how != "run")
    else:
        assert run(how.split()[0], out, "overwrite" in how), "it is refused"
    assert files_in(tmp_path) == before
    assert (out / "link").is_symlink()


@pytest.mark.parametrize("name", ["../precious", ".", "..", "", "/precious", "a\\b", "C:x"])
def test_a_study_stays_in_its_folder(name):
    described = dict(vars(TINY))
    for change in ({"places": (Hook(name),)}, {"learned": {name: TINY.learned["topk"]}}):
        with pytest.raises(ConfigError, match="become folders inside"):
            Study(**described | change)


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    """Neither when a run goes on, nor when it is overwritten."""
    precious, out = tmp_path / "precious", tmp_path / "out"
    precious.mkdir()
    run_study(TINY, out)
    shutil.copytree(out / "dictionaries" / "topk", precious / "topk")
    shutil.move(out / "dictionaries", tmp_path / "elsewhere")
    (out / "dictionaries").symlink_to(precious)
    before = files_in(precious)
    (precious / "topk" / "config.json").rename(tmp_path / "config.json")
    (out / "results.json").unlink()
    for overwrite in (False, True):
        with pytest.raises(InputError, match="is a link"):
            run_study(TINY, out, overwrite=overwrite)
    (tmp_path / "config.json").rename(precious / "topk" / "config.json")
    assert files_in(precious) == before


def test_what_a_user_changed_or_added_in_a_run_is_kept(tmp_path):
    run_study(TINY, tmp_path)
    (tmp_path / "dictionaries" / "topk" / "notes.txt").write_text("mine")
    (tmp_path / "report.html").write_text("with remarks of mine")
    with pytest.raises(InputError, match=r"report\.html has changed"):
        run_study(TINY, tmp_path, overwrite=True)
    with pytest.raises(InputError, match=r"report\.html has changed"):
        run_study(TINY, tmp_path)
    assert (tmp_path / "results.json").exists(), "nothing was removed"
    (tmp_path / "report.html").rename(tmp_path / "mine.html")
    run_study(TINY, tmp_path, overwrite=True)
    assert (tmp_path / "mine.html").read_text() == "with remarks of mine"
    assert (tmp_path / "dictionaries" / "topk" / "notes.txt").read_text() == "mine"


def forget(folder: Path) -> None:
    """As if an earlier version, which kept no lists, had written what is there."""
    for path in folder.rglob(LIST):
        path.unlink()


def test_runs_of_versions_without_lists_go_on_and_are_not_removed(tmp_path):
    run_study(TINY, tmp_path)
    forget(tmp_path)
    with pytest.raises(InputError, match=r"none that kept a list .* delete them by hand"):
        run_study(TINY, tmp_path, overwrite=True)
    (tmp_path / "results.json").unlink()
    (tmp_path / "sums.safetensors").unlink()
    again = run_study(TINY, tmp_path)
    assert again.to_pandas().equals(dl.Records.load(tmp_path).to_pandas())
    assert run_study(TINY, tmp_path).to_pandas().equals(again.to_pandas())


def test_a_study_leaves_later_runs_in_its_folder_alone(tmp_path, made):
    """Files that another command wrote there are listed too, but not as the study's."""
    out = tmp_path / "run"
    run_study(TINY, out)
    dl.save(dl.load(made["one"]), out / "kept")
    records = dl.Records.load(made["results"])
    with pytest.raises(InputError, match=r"of another kind of run, a study"):
        records.save(out)
    run = dl.FitConfig(steps=3, batch_size=64, standardize_rows=64)
    store = dl.ActivationStore.open(made["store"])
    dl.fit({"more": dl.MeanConfig()}, store, run, out=out, progress=False)
    kept = {name: data for name, data in files_in(out).items() if name.startswith(("kept", "more"))}
    run_study(TINY, out, overwrite=True)
    assert files_in(out).items() >= kept.items()
    with pytest.raises(InputError, match="files of another run"):
        dl.fit({"kept": dl.MeanConfig()}, store, run, out=out, overwrite=True, progress=False)
    assert files_in(out).items() >= kept.items()
