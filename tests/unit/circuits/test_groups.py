"""Groups of nodes and pinned ones: how they are set, and what pruning leaves of them."""

import pytest
import torch

from dictlearn.circuits.groups import marked, shown
from dictlearn.core.errors import CorruptFileError, InputError
from tests.unit.circuits.graphs import known_graph


def test_nodes_are_given_by_name_or_number():
    graph = known_graph().grouped({"a": ["c 0 @ 1", 2, 0]}, pinned=["token 'One' @ 0", 0])
    assert graph.supernodes == {"a": [2, 0]}
    assert graph.pinned == [9], "node 0 is in a group"
    assert marked(graph) == [2, 0, 9]
    again = graph.grouped(pinned=[])
    assert (again.supernodes, again.pinned) == ({"a": [2, 0]}, [])
    assert graph.grouped({}).pinned == [9]
    assert graph.grouped() is graph


@pytest.mark.untyped
@pytest.mark.parametrize(("groups", "message"), [
    ({"a": ["c 0 @ 2"]}, "'c 0 @ 2': did you mean 'c 0 @ 1'"),
    ({"a": [16]}, "numbers below 16, got 16"),
    ({"a": [-1]}, "got -1"),
    ({"a": [1.5]}, "got 1.5"),
    ({"a": []}, "got none in 'a'"),
    ({"a": [0], "b": [1, 0]}, "got 'a 2 @ 0' in 'a' and in 'b'"),
])  # fmt: skip
def test_groups_that_do_not_fit_are_refused(groups, message):
    with pytest.raises(InputError, match=message):
        known_graph().grouped(groups)


@pytest.mark.parametrize(("text", "message"), [
    ("[]", "required a JSON object"),
    ('{"supernodes": {}}', "`pinned`"),
    ('{"supernodes": {"a": [0]}, "pinned": []}', "groups of nodes of this graph.*`str`, got `int`"),
    ('{"supernodes": {"a": ["c 0 @ 2"]}, "pinned": []}', "did you mean 'c 0 @ 1'"),
    ('{"supernodes": {"a": []}, "pinned": []}', "got none in 'a'"),
])  # fmt: skip
def test_files_of_groups_that_do_not_fit_are_refused(tmp_path, text, message):
    path = tmp_path / "groups.json"
    path.write_text(text)
    with pytest.raises(CorruptFileError, match=rf"groups\.json.*{message}"):
        known_graph().grouped_from(path)


def test_groups_from_a_file_replace_those_of_the_graph(tmp_path):
    path = tmp_path / "groups.json"
    path.write_text('{"supernodes": {"b": ["b 3 @ 1"]}, "pinned": ["a 2 @ 0"]}')
    graph = known_graph().grouped({"a": [2]}, pinned=[9]).grouped_from(path)
    assert (graph.supernodes, graph.pinned) == ({"b": [1]}, [0])


def test_pruning_leaves_marked_nodes_and_their_edges():
    """Node 0 has edges into the rows of nodes 2 and 1 (2, 3), and from 9 and 11 (row 4)."""
    graph = known_graph()
    keep, links = graph.pruned(0.3, 0.98)
    assert not keep[[0, 1]].any()
    kept, edges = shown(graph.grouped({"a": [0]}), 0.3, 0.98)
    assert (kept & ~keep).nonzero().flatten().tolist() == [0]
    assert (edges & ~links).nonzero().tolist() == [[2, 0], [4, 9], [4, 11]]
    both, edges = shown(graph.grouped({"a": [0]}, pinned=[1]), 0.3, 0.98)
    assert (both & ~keep).nonzero().flatten().tolist() == [0, 1]
    assert edges[3, [0, 10]].all()
    assert edges[1, 1]
    assert not edges[3, 15], "constants are left out by pruning"
    torch.testing.assert_close(graph.grouped({"a": [0]}).influence(), graph.influence())
