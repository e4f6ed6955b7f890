"""The sums of `sums.py` find every known mistake of path finding, as do the searches themselves."""

from dataclasses import replace

import pytest

from dictlearn.circuits import local_model
from dictlearn.circuits.nodes import NodeKind
from dictlearn.circuits.paths.children import Children
from dictlearn.circuits.paths.graph import REST, PathGraph, paths_to_graph
from dictlearn.circuits.paths.search import greedy_paths
from dictlearn.circuits.targets import LogitDifference
from dictlearn.core.errors import InputError
from dictlearn.lm.frozen_tensors import FrozenPass
from tests.unit.circuits.paths.sums import every_path, incoming_gap, pruned

TARGET = LogitDifference(5, 9)
STEPS, SHARED, GRADIENTS = Children._steps, Children._shared, FrozenPass.gradients
PRODUCTS = local_model._products


@pytest.fixture
def gap(biased, transcoders, prompt):
    """The largest contribution that no path has, in a search without a limit."""
    return lambda: pruned(paths_to_graph(every_path(biased, prompt[:2], transcoders, TARGET)))


def few_heads(self, row, allowed, width=None):
    """At most as many heads of a layer as it has."""
    counts, found = {}, []
    for node, step in STEPS(self, row, allowed, width):
        heads = (step.node.kind, step.node.layer)
        counts[heads] = counts.get(heads, 0) + 1
        if step.node.kind != NodeKind.HEAD or counts[heads] <= self._local.n_heads:
            found.append((node, step))
    return found


def no_first_token(self, row, allowed, width=None):
    """The heads that read the first token are left out."""
    found = STEPS(self, row, allowed, width)
    return [one for one in found if one[1].node.kind != NodeKind.HEAD or one[1].node.position]


@pytest.mark.parametrize("steps", [few_heads, no_first_token])
def test_paths_that_are_left_out_are_found(gap, monkeypatch, steps):
    assert gap() < 1e-12
    monkeypatch.setattr(Children, "_steps", steps)
    assert gap() > 0.01


def unscaled(self, reading, one):
    """The bias of a feature's encoder is not multiplied with what its coefficient passes on."""
    return replace(SHARED(self, reading, one), offset=reading.offset)


def no_skip(dictionary):
    return dictionary.bias


def no_biases(self, seeds):
    return GRADIENTS(self, seeds)._replace(biases={})


def no_first_features(at, written, acts):
    found = PRODUCTS(at, written, acts)
    return found * (acts.rows() != 0)


@pytest.mark.parametrize(
    ("where", "name", "mutant"),
    [
        (Children, "_shared", unscaled),
        (local_model, "_constant", no_skip),
        (local_model, "POSITIONS", "hook_nowhere"),
        (FrozenPass, "gradients", no_biases),
        (local_model, "_products", no_first_features),
    ],
)
def test_what_does_not_add_up_is_refused(gap, monkeypatch, where, name, mutant):
    assert gap() < 1e-12
    monkeypatch.setattr(where, name, mutant)
    with pytest.raises(InputError, match="is missing from the sum of contributions"):
        gap()


def test_errors_are_not_counted_twice(biased, transcoders, prompt):
    """As they are where what is left of a node is its attribution less its children alone."""
    kinds = (NodeKind.FEATURE, NodeKind.HEAD, NodeKind.TOKEN)
    paths = greedy_paths(
        biased, prompt, transcoders, TARGET, filters=[lambda node: node.kind in kinds]
    )
    graph = paths_to_graph(paths)
    without = [
        replace(path, steps=tuple(replace(step, ends=()) for step in path.steps)) for path in paths
    ]
    published = {e: v for e, v in paths_to_graph(without).edges.items() if e[0] == REST}
    assert incoming_gap(graph) < 1e-12
    assert incoming_gap(PathGraph(graph.nodes, graph.edges | published)) > 0.1
