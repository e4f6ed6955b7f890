"""Curves of circuits: against masks on neurons, sums of contributions, and their ends."""

import math

import pytest
import torch

from dictlearn.circuits.attribute import attribute
from dictlearn.circuits.curves import circuit_curves
from dictlearn.circuits.nodes import NodeKind
from dictlearn.circuits.targets import FeatureTarget, LogitDifference, TopLogits
from dictlearn.core.errors import InputError
from dictlearn.dictionaries.neurons import NeuronsConfig
from dictlearn.lm.mlps import mlp_sites, mlp_weights

QUIET = {"progress": False, "allow_other_model": True}
OUT = "_original_component.fc_out._original_component.weight"
TARGET = LogitDifference(3, 4)


def neurons(model, *layers):
    """The neurons of some layers as dictionaries."""
    sites = {f"mlp{layer}": mlp_sites(model, layer) for layer in layers}
    return {
        name: NeuronsConfig(mlp=mlp_weights(model, own)).build(own).double()
        for name, own in sites.items()
    }


def of_features(graph):
    return graph.nodes.of_kind(NodeKind.FEATURE).nonzero()[:, 0]


def test_everything_is_faithful_and_nothing_is_not(model, mixes, prompt):
    for dictionaries in (mixes["transcoders"], mixes["a mixture"]):
        graph = attribute(model, prompt, dictionaries, TARGET, **QUIET)
        n = len(of_features(graph))
        table = circuit_curves(model, graph, dictionaries, TARGET, [0, n], n_random=1)
        assert table["nodes"].tolist() == ["circuit"] * 2 + ["random"] * 2
        assert table["faithfulness"].tolist() == pytest.approx([0, 1, 0, 1], abs=1e-6)
        assert table["completeness"].tolist() == pytest.approx([1, 0, 1, 0], abs=1e-6)
        clean = float(graph.targets.values[0])
        assert table["only"][1] == pytest.approx(clean, abs=1e-5)
        assert table["without"][0] == pytest.approx(clean, abs=1e-5)
        assert abs(table["only"][0] - clean) > 1e-3


def test_ablated_neurons_are_zeros_in_the_model(small, prompt):
    """In both layers at once, so that those of the second follow what the first has lost."""
    own = neurons(small, 0, 1)
    graph = attribute(small, prompt, own, TARGET, **QUIET)
    order = of_features(graph)[torch.randperm(len(of_features(graph)))]
    sizes = [1, len(order) // 3, len(order) // 2]
    table = circuit_curves(small, graph, own, TARGET, sizes, order=order, n_random=0)

    def by_hand(nodes, keep):
        def mask(layer):
            def zeros(post, hook):
                inside = torch.zeros_like(post[0], dtype=torch.bool)
                here = nodes[graph.nodes.owners[nodes] == layer]
                inside[graph.nodes.positions[here], graph.nodes.features[here]] = True
                return post * (inside == keep)

            return zeros

        hooks = [(f"blocks.{layer}.mlp.hook_post", mask(layer)) for layer in (0, 1)]
        logits = small.run_with_hooks(prompt[None], fwd_hooks=hooks)[0, -1]
        return float(logits[3] - logits[4])

    nothing, clean = by_hand(order[:0], True), by_hand(order[:0], False)
    for row, size in enumerate(sizes):
        only, without = by_hand(order[:size], True), by_hand(order[:size], False)
        assert table["only"][row] == pytest.approx(only, abs=1e-9)
        assert table["without"][row] == pytest.approx(without, abs=1e-9)
        faithfulness = (only - nothing) / (clean - nothing)
        assert table["faithfulness"][row] == pytest.approx(faithfulness, abs=1e-9)
        completeness = (without - nothing) / (clean - nothing)
        assert table["completeness"][row] == pytest.approx(completeness, abs=1e-9)


def test_a_linear_target_has_the_sums_of_contributions(small, prompt):
    """After the last MLP nothing bends but the norm, which is held; `small` has two layers."""
    own = neurons(small, 1)
    graph = attribute(small, prompt, own, TARGET, **QUIET)
    table = circuit_curves(small, graph, own, TARGET, n_random=0, hold=True)
    direct = graph.rows[0, of_features(graph)].double()
    strongest = direct[direct.abs().argsort(descending=True)]
    assert table["size"].tolist() == [2**i for i in range(len(table) - 1)] + [len(direct)]
    share = torch.stack([strongest[:n].sum() for n in table["size"]]) / direct.sum()
    assert table["faithfulness"].tolist() == pytest.approx(share.tolist(), abs=1e-9)
    assert table["completeness"].tolist() == pytest.approx((1 - share).tolist(), abs=1e-9)
    free = circuit_curves(small, graph, own, TARGET, n_random=0)
    assert (free["faithfulness"] - table["faithfulness"]).abs().max() > 1e-3


def test_a_planted_circuit_is_found_whole(native, prompt):
    """Only three neurons write: in the model itself, they are all that there is."""
    model, planted = native().double(), [2, 5, 11]
    weight = dict(model.blocks[1].mlp.named_parameters())[OUT]
    silent = torch.ones(weight.shape[1], dtype=torch.bool)
    silent[planted] = False
    weight.data[:, silent] = 0
    own = neurons(model, 1)
    assert own["mlp1"].atoms.any(dim=1).nonzero()[:, 0].tolist() == planted
    graph = attribute(model, prompt, own, TARGET, **QUIET)
    table = circuit_curves(model, graph, own, TARGET, [2, 3], n_random=20).set_index("nodes")
    circuit, random = table.loc["circuit"], table.loc["random"]
    assert circuit["faithfulness"].iloc[1] == pytest.approx(1, abs=1e-9)
    assert circuit["completeness"].iloc[1] == pytest.approx(0, abs=1e-9)
    assert abs(circuit["faithfulness"].iloc[0] - 1) > 1e-4, "two of three are not enough"
    assert random["faithfulness"].median() == pytest.approx(0, abs=1e-9)
    assert random["draw"].nunique() == 20


def test_random_orders_follow_the_seed(small, trained, prompt):
    own = {"own": trained["topk_transcoder"]}
    graph = attribute(small, prompt, own, TopLogits(3), **QUIET)
    one, same, other = (
        circuit_curves(small, graph, own, TopLogits(3), [2, 5], seed=seed) for seed in (1, 1, 2)
    )
    assert one.equals(same)
    random = one["nodes"] == "random"
    assert one[~random].equals(other[~random]), "batches do not change values"
    assert (one[random]["only"] != other[random]["only"]).all()
    values = torch.tensor([float(v) for v in graph.targets.values], dtype=torch.float64)
    n = len(of_features(graph))
    whole = circuit_curves(small, graph, own, TopLogits(3), [n], n_random=0)["only"]
    assert whole[0] == pytest.approx(float(graph.weights @ values)), "a mean by weight"


def test_a_target_that_no_feature_reaches_has_no_faithfulness(small, trained, prompt):
    own = {"own": trained["transcoder"]}
    target = FeatureTarget("own", 0, -1)  # what the dictionary reads comes before what it writes
    graph = attribute(small, prompt, own, TARGET, **QUIET)
    table = circuit_curves(small, graph, own, target, [1], n_random=0)
    assert math.isnan(table["faithfulness"][0])
    assert math.isnan(table["completeness"][0])
    assert table["only"][0] == table["without"][0]


def test_without_features_or_sizes_there_is_no_circuit(small, trained, prompt):
    graph = attribute(small, prompt, {}, TARGET, **QUIET)
    assert len(circuit_curves(small, graph, {}, TARGET)) == 0
    own = {"own": trained["sae"]}
    graph = attribute(small, prompt, own, TARGET, **QUIET)
    assert len(circuit_curves(small, graph, own, TARGET, [])) == 0


@pytest.mark.untyped
def test_what_does_not_fit_is_refused(small, trained, prompt):
    own = {"own": trained["sae"]}
    graph = attribute(small, prompt, own, TARGET, **QUIET)
    n, bias = len(of_features(graph)), len(graph.nodes) - 1
    for options, told in (
        ({"sizes": [n + 1]}, f"from 0 to {n}"),
        ({"sizes": [-1]}, "got -1"),
        ({"order": [0, 0]}, "each node once"),
        ({"order": [bias]}, "places of feature nodes"),
        ({"sizes": [1.5]}, "got 1.5"),
        ({"n_random": -1}, "at least 0, got -1"),
    ):
        with pytest.raises(InputError, match=told):
            circuit_curves(small, graph, own, TARGET, **options)
    with pytest.raises(InputError, match="dictionaries of the graph"):
        circuit_curves(small, graph, {"other": trained["sae"]}, TARGET)
