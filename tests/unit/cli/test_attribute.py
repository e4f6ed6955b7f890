"""`dictlearn attribute`: tables of a prompt's graph, and its folder."""

import pandas as pd
import pytest

from dictlearn.circuits.graph import CircuitGraph
from dictlearn.cli import app
from dictlearn.core.errors import InputError
from dictlearn.dictionaries.files import save
from dictlearn.dictionaries.topk_sae import TopKSAEConfig
from dictlearn.lm.loading import load_model
from dictlearn.lm.sites import hook_sites


@pytest.fixture(scope="module")
def sae(tmp_path_factory):
    """The folder of an untrained SAE."""
    model, folder = load_model("builtin:stories"), tmp_path_factory.mktemp("own") / "sae"
    save(
        TopKSAEConfig(n_features=32, k=4).build(hook_sites(model, "blocks.1.mlp.hook_out")), folder
    )
    return folder


def attributed(*arguments):
    app(["attribute", *map(str, arguments)], standalone_mode=False)


def test_a_difference_in_tables_and_files(sae, tmp_path, capsys):
    common = (sae, "--prompt", "One day, Lily went to the park.", "--features", 20, "--shown", 3)
    attributed(*common, "--target", " She", "--minus", " He", "--out", tmp_path / "graph")
    shown = capsys.readouterr().out
    for words in ("' She -  He'", "replacement score", "Most influential nodes", "graph.html"):
        assert words in shown
    graph = CircuitGraph.load(tmp_path / "graph")
    assert len(graph.row_nodes) == 20
    assert "Lily" in (tmp_path / "graph" / "graph.html").read_text()
    again = (*common, "--target", " She", "--minus", " He", "--out", tmp_path / "graph")
    with pytest.raises(InputError, match=r"graph\.json.* of an earlier run"):
        attributed(*again)
    attributed(*again, "--overwrite")
    attributed(*common)
    assert "' She'" in capsys.readouterr().out, "the most probable tokens by default"


def test_several_prompts_are_aggregated(sae, tmp_path, capsys):
    """Of options and of a file; each graph has a folder, and what is not its own stays."""
    texts, out = tmp_path / "prompts.txt", tmp_path / "graphs"
    texts.write_text("Once upon a time [/x]\n\nOne day, Tom\n")
    arguments = (sae, "--prompt", "One day, Lily", "--prompts", texts, "--features", 5,
                 "--by-position", "--out", out)  # fmt: skip
    attributed(*arguments)
    shown = capsys.readouterr().out
    for words in ("over 3 prompts", "mean target", "Strongest edges", "prompt_002", "nodes.csv"):
        assert words in shown
    graphs = [CircuitGraph.load(out / f"prompt_{i:03}") for i in range(3)]
    assert ["".join(g.tokens[1:]) for g in graphs] == [
        "One day, Lily", "Once upon a time [/x]", "One day, Tom",
    ]  # fmt: skip
    nodes, edges = (pd.read_csv(out / name) for name in ("nodes.csv", "edges.csv"))
    mean = sum(float(g.weights @ g.row_sums()[: len(g.weights)]) for g in graphs) / 3
    assert nodes.direct.sum() == pytest.approx(mean, rel=1e-5)
    assert edges[edges.target == "target"].weight.sum() == pytest.approx(mean, rel=1e-5)
    assert nodes.position.min() < -1
    with pytest.raises(InputError, match=r"nodes\.csv, edges\.csv of an earlier run"):
        attributed(*arguments)
    for theirs in (out / "nodes.csv", out / "prompt_001" / "graph.json"):
        before = theirs.read_bytes()
        theirs.write_text("mine")
        with pytest.raises(InputError, match=theirs.name.replace(".", r"\.")):
            attributed(*arguments, "--overwrite")
        assert theirs.read_text() == "mine"
        theirs.write_bytes(before)


def test_a_feature(sae, capsys):
    attributed(sae, "--prompt", "One day", "--feature", "sae 3")
    assert "'sae 3 @ 2'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--minus", " He"], "required --target"),
        (["--feature", "sae"], "--feature 'NAME NUMBER'"),
        (["--feature", "sae 3", "--target", " He"], "without --target"),
        (["--feature", "saee 3"], "did you mean 'sae'"),
        (["--target", " went to"], "one token"),
        (["--features", "-1"], "at least 0"),
    ],
)
def test_what_does_not_fit_is_refused(sae, options, told):
    with pytest.raises(InputError, match=told):
        attributed(sae, "--prompt", "One day", *options)


def test_prompts_are_required(sae, tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_text("\n \n")
    for options in ((), ("--prompts", empty)):
        with pytest.raises(InputError, match="required --prompt TEXT, or --prompts FILE"):
            attributed(sae, *options)
    with pytest.raises(InputError, match="cannot read the prompts"):
        attributed(sae, "--prompts", tmp_path / "absent.txt")
