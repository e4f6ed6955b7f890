"""Graphs in files: as they were, bit for bit, or refused."""

import json
from importlib.metadata import version

import pytest
import torch
from safetensors.torch import load_file, save_file

from dictlearn.circuits.attribute import attribute
from dictlearn.circuits.graph import CircuitGraph
from dictlearn.circuits.nodes import NodeKind
from dictlearn.circuits.targets import Several, TopLogits
from dictlearn.core.errors import CorruptFileError, InputError
from dictlearn.core.files import sha256, write_json
from dictlearn.core.provenance import Provenance
from dictlearn.lm.identity import model_provenance
from tests.unit.circuits.graphs import known_graph, tensors_of


def bits(graph):
    """All that a graph holds; tensors as their bytes."""
    plain = {name: value for name, value in vars(graph).items() if isinstance(value, list | dict)}
    return plain, {name: (t.dtype, tuple(t.shape), t.numpy().tobytes())
                   for name, t in tensors_of(graph).items()}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_graph_comes_back_bit_for_bit(tmp_path, dtype):
    graph = known_graph("é\n", dtype)
    graph.rows[0, 0] = -0.0
    graph.nodes.values[4] = float("nan")
    assert graph.save(tmp_path) == tmp_path / "graph.json"
    found = CircuitGraph.load(tmp_path)
    assert len(bits(found)[1]) == 17
    assert bits(found) == bits(graph)
    found.save(tmp_path)  # over its own files


def test_an_attributed_graph_comes_back_with_its_measures(small, trained, prompt, tmp_path):
    own = {"sae": trained["sae"], "clt": trained["cross_layer_transcoder"]}
    for name, dictionary in own.items():
        graph = attribute(small, prompt, {name: dictionary}, Several([TopLogits(n=3)]),
                          progress=False, allow_other_model=True)  # fmt: skip
        graph.save(tmp_path / name)
        found = CircuitGraph.load(tmp_path / name)
        assert bits(found) == bits(graph)
        assert found.scores() == graph.scores()
        assert found.probabilities.equal(graph.probabilities)
        assert graph.probabilities.isfinite().all()
        assert found.n_features == [dictionary.n_features]
        own_about = found.about["dictionaries"][name]
        assert own_about["kind"] == dictionary.kind
        assert Provenance.from_dict(own_about["provenance"]) == dictionary.provenance
        assert Provenance.from_dict(found.about["model"]) == model_provenance(small)
        assert found.about["model"]["versions"]["dictlearn"] == version("dictlearn")
        settings = {"prompt": "ids", "n_features": 1024, "allow_other_model": True}
        assert found.about["settings"] == settings


def test_a_feature_is_where_it_first_writes(small, trained, prompt):
    clt = trained["cross_layer_transcoder"]
    graph = attribute(small, prompt, {"clt": clt}, progress=False, allow_other_model=True)
    features = graph.nodes.of_kind(NodeKind.FEATURE)
    assert graph.hooks == ["blocks.0.mlp.hook_out", "blocks.1.mlp.hook_out"]
    layers = graph.nodes.features[features] // (clt.n_features // 2)
    assert graph.nodes.hooks[features].equal(layers)
    assert len(layers.unique()) == 2
    assert (graph.nodes.hooks[~features] == -1).all()


def test_damage_is_refused(tmp_path):
    known_graph().save(tmp_path)
    for name in ("graph.json", "graph.safetensors"):
        path = tmp_path / name
        whole = path.read_bytes()
        for damaged in (whole[:-9], whole.replace(b"7", b"8", 1), b""):
            path.write_bytes(damaged)
            with pytest.raises(CorruptFileError, match=name):
                CircuitGraph.load(tmp_path)
        path.unlink()
        with pytest.raises(CorruptFileError, match=name):
            CircuitGraph.load(tmp_path)
        path.write_bytes(whole)
    CircuitGraph.load(tmp_path)


def test_another_program_s_file_is_not_overwritten(tmp_path):
    (tmp_path / "graph.json").write_text("{}")
    with pytest.raises(InputError, match="not a file that circuit graph wrote"):
        known_graph().save(tmp_path)
    assert (tmp_path / "graph.json").read_text() == "{}"
    assert not (tmp_path / "graph.safetensors").exists()


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("rows", torch.zeros(5, 15), "rows of shape"),
        ("rows", torch.zeros(5, 16).long(), "rows of shape"),
        ("ids", torch.tensor([1]), "ids of shape"),
        ("nodes/kinds", torch.full((16,), 9), "kinds within"),
        ("nodes/owners", torch.full((16,), 3), "owners of features within"),
        ("nodes/features", torch.full((16,), 10), "features within"),
        ("nodes/hooks", torch.full((16,), -1), "hooks of features within"),
        ("nodes/positions", torch.full((16,), 2), "positions within"),
        ("targets/positions", torch.tensor([0, -1]), "positions of targets within"),
        ("row_nodes", torch.tensor([2, 1, 9]), "different features"),
        ("row_nodes", torch.tensor([2, 1, 1]), "different features"),
        ("probabilities", torch.zeros(3).double(), "probabilities of shape"),
    ],
)
def test_parts_that_do_not_fit_are_refused(tmp_path, name, value, told):
    """Also with hashes that fit, as another program could have made them."""
    known_graph().save(tmp_path)
    path = tmp_path / "graph.safetensors"
    save_file(load_file(path) | {name: value}, path)
    data = json.loads((tmp_path / "graph.json").read_text())
    write_json(tmp_path / "graph.json", data | {"tensors_sha256": sha256(path)})
    with pytest.raises(CorruptFileError, match=told):
        CircuitGraph.load(tmp_path)


def test_texts_of_another_type_are_refused(tmp_path):
    known_graph().save(tmp_path)
    data = json.loads((tmp_path / "graph.json").read_text())
    for name, value in (
        ("tokens", [1, 2]), ("labels", "ab"), ("hooks", None), ("binary", [True]),
        ("n_features", [1, 2]), ("n_features", ["1", "2", "3"]),
    ):  # fmt: skip
        write_json(tmp_path / "graph.json", data | {"graph": data["graph"] | {name: value}})
        with pytest.raises(CorruptFileError):
            CircuitGraph.load(tmp_path)
