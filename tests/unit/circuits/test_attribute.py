"""`attribute`: graphs of prompts, whole and by the most influential features."""

import tempfile

import pytest
import torch

from dictlearn.circuits import attribute as module
from dictlearn.circuits import graph as graph_module
from dictlearn.circuits import rows as rows_module
from dictlearn.circuits.attribute import attribute
from dictlearn.circuits.graph import CircuitGraph
from dictlearn.circuits.local_model import local_model
from dictlearn.circuits.nodes import NodeKind
from dictlearn.circuits.targets import FeatureTarget, LogitDifference, Several, TopLogits
from dictlearn.core.errors import InputError, ProvenanceError
from dictlearn.dictionaries.topk_sae import TopKSAEConfig
from dictlearn.lm.loading import load_model
from dictlearn.lm.sites import hook_sites

QUIET = {"progress": False, "allow_other_model": True}


def test_every_row_adds_up_to_its_value(model, mixes, prompt):
    dictionaries = mixes["a mixture"]
    graph = attribute(model, prompt, dictionaries, LogitDifference(3, 4), **QUIET)
    n_features = int(graph.nodes.of_kind(NodeKind.FEATURE).sum())
    assert len(graph.row_nodes) == n_features == len(graph.row_nodes.unique())
    with local_model(model, prompt, dictionaries) as local:
        values = [local.value(f) for f in local.of_nodes(graph.row_nodes)]
    sums = graph.row_sums()
    torch.testing.assert_close(sums[1:], torch.tensor(values).double(), rtol=1e-6, atol=1e-9)
    assert float(sums[0]) == pytest.approx(float(graph.targets.values[0]))
    names = list(dictionaries)
    binary = [i for i, n in enumerate(names) if dictionaries[n].traits.binary]
    smooth = ~torch.isin(graph.nodes.owners[graph.row_nodes], torch.tensor(binary))
    coefficients = graph.nodes.values[graph.row_nodes]
    torch.testing.assert_close(sums[1:][smooth], coefficients[smooth], rtol=1e-6, atol=1e-9)


def test_the_most_influential_features_come_first(small, trained, prompt, monkeypatch):
    monkeypatch.setattr(module, "_QUEUE", 3)
    own = {"own": trained["transcoder"]}
    whole = attribute(small, prompt, own, LogitDifference(3, 4), **QUIET)
    part = attribute(small, prompt, own, LogitDifference(3, 4), n_features=7, **QUIET)
    assert len(part.row_nodes) == 7
    best = set(whole.influence()[: len(whole.row_nodes)].topk(3).indices.tolist())
    assert best <= set(part.row_nodes.tolist())
    at = {node: row for row, node in enumerate(whole.row_nodes.tolist())}
    for row, node in enumerate(part.row_nodes.tolist()):
        torch.testing.assert_close(part.rows[1 + row], whole.rows[1 + at[node]])
    none = attribute(small, prompt, own, LogitDifference(3, 4), n_features=0, **QUIET)
    assert none.rows.shape[0] == 1


def test_edges_in_a_file_are_the_same_to_the_bit(small, trained, prompt, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(module, "_QUEUE", 3)
    monkeypatch.setattr(graph_module, "_BLOCK", 1)
    own, at = {"own": trained["transcoder"]}, (small, prompt)
    inside, outside = (
        attribute(*at, own, LogitDifference(3, 4), n_features=7, in_memory=budget, **QUIET)
        for budget in (1 << 20, 0)
    )
    assert len(rows_module._FILES) == 1
    assert not list(tmp_path.iterdir()), "the file has no name"
    assert outside.rows.equal(inside.rows)
    assert outside.row_nodes.equal(inside.row_nodes)
    assert outside.influence().equal(inside.influence())
    assert outside.scores() == inside.scores()
    assert all(map(torch.equal, outside.pruned(), inside.pruned()))
    outside.save(tmp_path / "graph")
    assert CircuitGraph.load(tmp_path / "graph").rows.equal(inside.rows)


@pytest.mark.parametrize(("limit", "size"), [("_PATTERNS", 9 * 9), ("_AT_ONCE", 9 * 16)])
def test_a_backward_pass_is_as_large_as_memory_allows(
    small, trained, prompt, monkeypatch, limit, size
):
    per_function = size * (small.cfg.n_heads if limit == "_PATTERNS" else 1)
    with local_model(small, prompt, {"own": trained["transcoder"]}) as local:
        assert local.run.final.shape == (9, 16)
        whole = module._Expansion(local, TopLogits().functions(local), 5, 0)
        assert whole._size == 64
        for room, at_once in ((3 * per_function, 3), (3 * per_function - 1, 2), (1, 1)):
            monkeypatch.setattr(module, limit, room)
            assert module._Expansion(local, [], 5, 0)._size == at_once


def test_a_cross_layer_transcoder_contributes_to_itself_in_later_layers(small, trained, prompt):
    own = {"clt": trained["cross_layer_transcoder"]}
    graph = attribute(small, prompt, own, **QUIET)
    features = graph.nodes.of_kind(NodeKind.FEATURE)
    between = graph.rows[len(graph.weights) :][:, features]
    n = own["clt"].n_features // 2
    first = graph.nodes.features[graph.row_nodes] < n
    assert not between[first].any(), "features of the first layer read only embeddings"
    assert between[~first].any()
    assert 0 < graph.scores()[0] < 1


def test_several_targets_and_features_as_targets(small, trained, prompt):
    own = {"own": trained["topk_sae"]}
    with local_model(small, prompt, own) as local:
        at = local.nodes.of_kind(NodeKind.FEATURE).nonzero()[-1, 0]
        feature, position = int(local.nodes.features[at]), int(local.nodes.positions[at])
        value = float(local.nodes.values[at])
    both = Several([FeatureTarget("own", feature, position), TopLogits(n=2, probability=1.0)])
    graph = attribute(small, prompt, own, both, **QUIET)
    assert graph.labels[0] == f"own {feature} @ {position}"
    assert float(graph.targets.values[0]) == pytest.approx(value)
    assert float(graph.weights.sum()) == pytest.approx(1.0)
    p = small(prompt[None])[0, -1].softmax(dim=0).topk(2)
    assert graph.targets.features[1:].tolist() == p.indices.tolist()
    ratio = float(graph.weights[1] / graph.weights[2])
    assert ratio == pytest.approx(float(p.values[0] / p.values[1]))


def test_a_text_of_the_builtin_model():
    model = load_model("builtin:stories")
    sae = TopKSAEConfig(n_features=64, k=4).build(hook_sites(model, "blocks.1.hook_mlp_out"))
    target = LogitDifference(" She", " He")
    text = "One day, Lily went to the park."
    graph = attribute(model, text, {"sae": sae}, target, **QUIET)
    assert "".join(graph.tokens[1:]) == text
    assert graph.labels == [" She -  He"]
    with torch.no_grad():
        logits = model(graph.ids[None])[0, -1]
    she, he = (model.tokenizer.encode(t, add_special_tokens=False)[0] for t in (" She", " He"))
    assert float(graph.row_sums()[0]) == pytest.approx(float(logits[she] - logits[he]), rel=1e-4)
    with pytest.raises(InputError, match=r"one token.*' went to'.*2"):
        attribute(model, text, {}, LogitDifference(" went to", " He"), **QUIET)


@pytest.mark.untyped
def test_what_does_not_fit_is_refused(small, trained, prompt, native):
    own = {"own": trained["sae"]}
    with pytest.raises(ProvenanceError, match="own"):
        attribute(native(seed=9).double(), prompt, own, progress=False)
    for options, told in (
        ({"n_features": -1}, "features of at least 0"),
        ({"n_features": 2.5}, "features of at least 0"),
        ({"in_memory": -1}, "bytes in memory of at least 0"),
        ({"prompt": prompt[None]}, "one sequence"),
        ({"prompt": "a text"}, "tokenizer"), ({"prompt": prompt[:0]}, "one sequence"),
    ):  # fmt: skip
        arguments = {"prompt": prompt, "target": LogitDifference(3, 4)} | options
        with pytest.raises(InputError, match=told):
            attribute(small, dictionaries=own, **arguments, **QUIET)


def test_a_model_with_an_unknown_part_is_refused(small, trained, prompt):
    """Squares in the stream are not linear: the sum is not the value, and the error says so."""
    hook = small.hook_dict["blocks.0.hook_resid_post"]
    hook.add_hook(lambda x, hook: x + x * x)
    try:
        with pytest.raises(InputError, match="missing from the sum"):
            attribute(small, prompt, {}, LogitDifference(3, 4), **QUIET)
    finally:
        hook.remove_hooks()


@pytest.mark.untyped
@pytest.mark.parametrize("prompt", [
    [3, 4], torch.tensor([3.0]), torch.tensor([True]), torch.tensor([3, -1]),
    torch.tensor([3, 10**6]), torch.ones(10_000, dtype=torch.long),
], ids=["a list", "real", "truths", "negative", "beyond the vocabulary", "long"])  # fmt: skip
def test_ids_that_the_model_cannot_read_are_refused(small, prompt):
    with pytest.raises(InputError, match="required"):
        attribute(small, prompt, {}, LogitDifference(3, 4), **QUIET)


def test_ids_of_fewer_bits_are_the_same_prompt(small, prompt):
    long = attribute(small, prompt, {}, LogitDifference(3, 4), **QUIET)
    short = attribute(small, prompt.to(torch.int8), {}, LogitDifference(3, 4), **QUIET)
    assert torch.equal(long.rows, short.rows)


@pytest.mark.untyped
@pytest.mark.parametrize(("target", "told"), [
    (lambda: TopLogits(n=0), "at least 1"), (lambda: TopLogits(n=-2), "at least 1"),
    (lambda: TopLogits(probability=0.0), "above 0"),
    (lambda: TopLogits(probability=float("nan")), "above 0"),
    (lambda: TopLogits(probability=7.0), "up to 1"), (lambda: Several([]), "a function"),
    (lambda: FeatureTarget("own", -1), "feature of 'own' from 0"),
    (lambda: FeatureTarget("own", 10**9), "feature of 'own' from 0"),
    (lambda: FeatureTarget("own", 3.5), "feature of 'own' from 0"),
    (lambda: FeatureTarget("own", 3, 1.5), "position"),
    (lambda: LogitDifference(3, 4.5), "token from 0"), (lambda: " She", "required a target"),
])  # fmt: skip
def test_targets_that_explain_nothing_are_refused(small, trained, prompt, target, told):
    with pytest.raises(InputError, match=told):
        attribute(small, prompt, {"own": trained["sae"]}, target(), **QUIET)


def test_dictionaries_may_be_coarser_than_the_model(small, prompt):
    """Rounding of the dictionary is no missing part of the model."""
    sites = hook_sites(small, "blocks.0.hook_resid_post")
    coarse = TopKSAEConfig(n_features=16, k=4).build(sites).float()
    graph = attribute(small, prompt, {"coarse": coarse}, LogitDifference(3, 4), **QUIET)
    sums = graph.row_sums()[: len(graph.targets)]
    torch.testing.assert_close(sums, graph.targets.values, rtol=1e-4, atol=1e-5)
