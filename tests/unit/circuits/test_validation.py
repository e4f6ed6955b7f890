"""Removals: against passes by hand, and predicted effects against them."""

import pytest
import torch

from dictlearn.circuits.attribute import attribute
from dictlearn.circuits.nodes import NodeKind
from dictlearn.circuits.targets import FeatureTarget, LogitDifference, Several
from dictlearn.circuits.validation import compare_effects, removal_effects
from dictlearn.core.errors import InputError
from dictlearn.interventions.edit import Ablate
from dictlearn.interventions.inside import inside

QUIET = {"progress": False, "allow_other_model": True}
TARGET = LogitDifference(3, 4)


@pytest.fixture
def graph(model, mixes, prompt):
    return attribute(model, prompt, mixes["transcoders"], TARGET, **QUIET)


def strongest(graph, n):
    """The features of the largest total effect."""
    total = graph.total_effects()[0].abs() * graph.nodes.of_kind(NodeKind.FEATURE)
    return total.argsort(descending=True)[:n].tolist()


def test_removals_are_ablations_with_the_error_kept(model, mixes, prompt, graph):
    """One node at a time, and several of one dictionary together, by `inside` and its edits."""
    dictionaries = mixes["transcoders"]
    nodes = strongest(graph, 4)
    names = list(dictionaries)
    last = [n for n in nodes if graph.nodes.owners[n] == graph.nodes.owners[nodes[0]]]
    groups = [[node] for node in nodes] + [last, []]
    found = removal_effects(model, graph, dictionaries, TARGET, groups)[:, 0]
    with torch.no_grad():
        clean = model(prompt[None])[0, -1]
        for group, effect in zip(groups, found.tolist(), strict=True):
            edits = [
                Ablate(int(graph.nodes.features[n]), at=names[int(graph.nodes.owners[n])],
                       positions=int(graph.nodes.positions[n]))
                for n in group
            ]  # fmt: skip
            with inside(model, dictionaries, edits=edits, keep_error=True, allow_other_model=True):
                logits = model(prompt[None])[0, -1]
            cap = getattr(model.cfg, "output_logits_soft_cap", 0) or 0
            before, after = (cap * (v / cap).atanh() if cap > 0 else v for v in (clean, logits))
            expected = float((after - before)[3] - (after - before)[4])
            assert effect == pytest.approx(expected, abs=2e-5)  # some norms are in float32


def test_what_is_held_stays(small, trained, prompt):
    """With all else held, effects on what an affine map reads are those of the graph."""
    own = {"own": trained["topk_transcoder"]}
    graph = attribute(small, prompt, own, TARGET, **QUIET)
    nodes = graph.nodes.of_kind(NodeKind.FEATURE).nonzero()[:, 0].tolist()
    last = [n for n in nodes if graph.nodes.positions[n] == len(prompt) - 1]
    held = removal_effects(small, graph, own, TARGET, [[n] for n in last], hold=True)[:, 0]
    free = removal_effects(small, graph, own, TARGET, [[n] for n in last])[:, 0]
    assert not torch.allclose(held, free, rtol=1e-3)
    # The second MLP is the model's own and bends, so only signs of large effects must agree.
    direct = -graph.rows[0, last].double()
    big = direct.abs() > direct.abs().max() / 4
    assert (direct.sign() == held.sign())[big].all()


def test_effects_on_features(small, trained, prompt):
    """A removal in the second layer's dictionary does not change what is read before it."""
    own = {"own": trained["transcoder"]}
    graph = attribute(small, prompt, own, TARGET, **QUIET)
    nodes = graph.nodes.of_kind(NodeKind.FEATURE).nonzero()[:, 0]
    at, feature = (int(getattr(graph.nodes, f)[nodes[-1]]) for f in ("positions", "features"))
    both = Several([FeatureTarget("own", feature, at), TARGET])
    found = removal_effects(small, graph, own, both, [[int(nodes[0])], [int(nodes[-1])]])
    assert found.shape == (2, 2)
    assert found[:, 0].abs().max() < 1e-12, "the MLP's input comes before its output"
    assert found[:, 1].abs().min() > 0


def test_predicted_effects_agree_with_removals(model, mixes, prompt, graph):
    table = compare_effects(model, graph, mixes["transcoders"], TARGET, n=6)
    assert list(table.columns) == ["name", "direct", "predicted", "held", "actual"]
    assert table["predicted"].abs().is_monotonic_decreasing
    total = graph.total_effects()[0]
    assert table["predicted"].tolist() == pytest.approx((-total[strongest(graph, 6)]).tolist())


@pytest.mark.untyped
def test_what_does_not_fit_is_refused(small, trained, prompt):
    own = {"own": trained["sae"]}
    graph = attribute(small, prompt, own, TARGET, **QUIET)
    with pytest.raises(InputError, match=r"dictionaries of the graph \(own\), got other"):
        removal_effects(small, graph, {"other": trained["sae"]}, TARGET, [[0]])
    bias = len(graph.nodes) - 1
    with pytest.raises(InputError, match=r"whose 'own' has \d+ features, got one with"):
        removal_effects(small, graph, {"own": trained["identity"]}, TARGET, [[0]])
    for n in (-1, 2.5):
        with pytest.raises(InputError, match="number of nodes of at least 0"):
            compare_effects(small, graph, own, TARGET, n)
    for node in (bias, -1, 10**6, 0.5):
        with pytest.raises(InputError, match="places of feature nodes"):
            removal_effects(small, graph, own, TARGET, [[node]])
    assert removal_effects(small, graph, own, TARGET, []).shape == (0, 1)
