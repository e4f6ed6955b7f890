"""`dictlearn attribute`: tables of a prompt's graph, and its folder."""

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
    attributed(*common, "--target", " She", "--minus", " He", "--out", tmp_path / "graph")
    attributed(*common)
    assert "' She'" in capsys.readouterr().out, "the most probable tokens by default"


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
