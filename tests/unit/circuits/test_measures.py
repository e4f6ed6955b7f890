"""Measures of graphs: against dense matrices, on graphs whose values are known."""

from dataclasses import replace

import pytest
import torch

from dictlearn.circuits.graph import CircuitGraph
from dictlearn.circuits.nodes import NodeKind, Nodes
from dictlearn.core.errors import InputError


def made(rows, weights=(1.0,), row_nodes=(1, 0)):
    """Two features of a dictionary at one token, an error, a token, a position, a bias."""
    at = [0]
    nodes = Nodes.joined([
        Nodes.of(NodeKind.FEATURE, [0, 0], owner=0, features=torch.tensor([4, 7])),
        Nodes.of(NodeKind.ERROR, at, owner=0), Nodes.of(NodeKind.TOKEN, at),
        Nodes.of(NodeKind.POSITION, at), Nodes.of(NodeKind.BIAS, [-1]),
    ])  # fmt: skip
    targets = Nodes.of(NodeKind.TARGET, [0] * len(weights))
    return CircuitGraph(
        ids=torch.zeros(1, dtype=torch.long),
        tokens=["a"],
        dictionaries=["d"],
        binary=[False],
        hooks=["hook"],
        nodes=nodes,
        targets=targets,
        labels=[f"t{i}" for i in range(len(weights))],
        weights=torch.tensor(weights, dtype=torch.float64),
        row_nodes=torch.tensor(row_nodes),
        rows=torch.tensor(rows, dtype=torch.float32),
        about={},
        n_features=[8],
        probabilities=torch.full((len(weights),), float("nan"), dtype=torch.float64),
    )


#          f4   f7    error token position bias
CHAIN = [[0.0, 3.0, -1.0, 0.0, 0.0, 9.0],  # the target: three quarters through f7
         [2.0, 0.0, 0.0, 1.0, 1.0, 5.0],  # f7: half through f4
         [0.0, 0.0, 1.0, 3.0, 0.0, 7.0]]  # f4  # fmt: skip


def test_influence_and_scores_by_hand():
    graph = made(CHAIN)
    found = graph.influence()
    f7, f4 = 0.75, 0.375
    expected = [f4, f7, 0.25 + f4 / 4, f7 / 4 + 0.75 * f4, f7 / 4, 0.0]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    replacement, completeness = graph.scores()
    embedded, error = expected[3] + expected[4], expected[2]
    assert replacement == pytest.approx(embedded / (embedded + error))
    weights = 1 + f7 + f4
    assert completeness == pytest.approx((0.75 + f7 + 0.75 * f4) / weights)


def test_influence_is_the_series_of_powers():
    """On random acyclic graphs, against the sum of powers of the square matrix."""
    generator = torch.Generator().manual_seed(0)
    for trial in range(5):
        n = 12
        A = torch.randn(n, n, generator=generator, dtype=torch.float64).tril(-1)
        nodes = Nodes.of(NodeKind.FEATURE, list(range(n)), owner=0, features=torch.arange(n))
        order = torch.randperm(n, generator=generator)[: 8 + trial]
        start = torch.randn(2, n, generator=generator, dtype=torch.float64)
        p = torch.tensor([0.7, 0.3], dtype=torch.float64)
        graph = replace(
            made(CHAIN), nodes=nodes, row_nodes=order, weights=p, rows=torch.cat([start, A[order]]),
            targets=Nodes.of(NodeKind.TARGET, [0, 0]), labels=["a", "b"], probabilities=p,
        )  # fmt: skip
        share = A.abs() / A.abs().sum(dim=1, keepdim=True).clamp_min(1e-30)
        missing = torch.ones(n, dtype=torch.bool)
        missing[order] = False
        share[missing] = 0
        first = p @ (start.abs() / start.abs().sum(dim=1, keepdim=True))
        expected = first @ torch.linalg.inv(torch.eye(n, dtype=torch.float64) - share)
        torch.testing.assert_close(graph.influence(), expected)


def test_total_effects_by_hand():
    """An edge passes on the part of its feature that it is: f7 is 9, f4 is 11."""
    graph = made(CHAIN)
    f7, f4 = 3 / 9, 2 * 3 / 9 / 11
    expected = [2 * f7, 3.0, -1 + f4, f7 + 3 * f4, f7, 9 + 5 * f7 + 7 * f4]
    torch.testing.assert_close(graph.total_effects()[0], torch.tensor(expected).double())
    codes = replace(graph, binary=[True])
    torch.testing.assert_close(codes.total_effects(), graph.rows[:1].double())


def test_a_circle_is_refused():
    rows = [CHAIN[0], [1.0, 1.0, 0, 0, 0, 0], [1.0, 1.0, 0, 0, 0, 0]]
    with pytest.raises(InputError, match="circles"):
        made(rows).influence()
    with pytest.raises(InputError, match="circles"):
        made(rows).total_effects()


def test_all_influence_of_a_graph_without_errors_reaches_embeddings():
    graph = made([[0.0, 1.0, 0.0, 1.0, 0, 0], [1.0, 0, 0, 0, 2.0, 0], [0, 0, 0, 3.0, 0, 0]])
    assert graph.scores() == (1.0, 1.0)
    kinds = graph.nodes.of_kind(NodeKind.TOKEN, NodeKind.POSITION)
    assert float(graph.influence()[kinds].sum()) == pytest.approx(1.0)
    errors = made([[0.0, 0, 1.0, 0, 0, 0], CHAIN[1], CHAIN[2]])
    assert errors.scores()[0] == 0.0


def test_pruning_by_hand():
    graph = made(CHAIN)
    keep, links = graph.pruned(1.0, 1.0)
    assert keep.tolist() == [True] * 5 + [False]
    assert links.tolist() == [[v != 0 for v in row[:5]] + [False] for row in CHAIN]
    # Influence f7 .75, token .469, f4 .375, error .344, position .1875: the first has a third.
    keep, links = graph.pruned(0.3, 1.0)
    assert keep.tolist() == [False, True, False, True, True, False]
    assert links.nonzero().tolist() == [[0, 1], [1, 3], [1, 4]]
    # Of these edges the target's has 1 and those into f7 .375 each: without them f7 goes as well.
    keep, links = graph.pruned(0.3, 0.5)
    assert keep.tolist() == [False, False, False, True, True, False]
    assert not links.any()


def test_features_without_incoming_edges_go_and_those_not_expanded_stay():
    rows = [[1.0, 1.0, 0, 0, 0, 0], [0.0, 0, 0, 0, 0, 5.0]]  # f7 has only its bias
    graph = made(rows, row_nodes=(1,))
    keep, links = graph.pruned(1.0, 1.0)
    assert keep.tolist() == [True, False, False, True, True, False]
    assert links.nonzero().tolist() == [[0, 0]]


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_shares_out_of_range_are_refused(share):
    with pytest.raises(InputError, match="share of nodes"):
        made(CHAIN).pruned(share)
    with pytest.raises(InputError, match="share of edges"):
        made(CHAIN).pruned(0.5, share)


def test_tables():
    graph = made(CHAIN)
    table = graph.nodes_to_pandas()
    assert table["name"].tolist() == [
        "d 4 @ 0", "d 7 @ 0", "error of hook @ 0", "token 'a' @ 0", "position 0", "bias",
    ]  # fmt: skip
    assert table["dictionary"].dropna().tolist() == ["d", "d"]
    edges = graph.edges_to_pandas(1.0, 1.0)
    assert edges.iloc[0].tolist() == ["d 7 @ 0", "t0", 3.0]
    assert len(edges) == 7
    torch.testing.assert_close(graph.row_sums(), torch.tensor(CHAIN).double().sum(dim=1))
