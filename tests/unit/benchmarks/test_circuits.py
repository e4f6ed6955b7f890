"""The comparison of attribution graphs: what it counts, and when two graphs agree."""

import argparse
import json
from dataclasses import asdict
from mmap import PAGESIZE, mmap
from pathlib import Path

import pytest
import torch

from benchmarks import circuits
from benchmarks.circuit_runs import PEER_GRAPH, Agreement, Case, Run, agreement, run
from benchmarks.peers import usage
from benchmarks.peers.usage import Usage, used
from dictlearn.circuits.graph import CircuitGraph
from dictlearn.circuits.nodes import NodeKind

CASE = Case(6, 20, builtin=True, k=4, of_layer=48)
ARGS = argparse.Namespace(threads=1, rounds=2, model=Path("absent"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of the smallest case, and its graph."""
    folder, threads = tmp_path_factory.mktemp("graph"), torch.get_num_threads()
    found = run(CASE, Path("absent"), folder, threads)
    return found, CircuitGraph.load(folder)


def theirs_of(graph: CircuitGraph) -> dict[str, torch.Tensor]:
    """The graph as circuit-tracer would have it: features, errors, tokens, targets, squared."""
    nodes, names = graph.nodes, ("kinds", "owners", "positions", "features")
    at = {tuple(int(getattr(nodes, n)[i]) for n in names): i for i in range(len(nodes))}
    own = sorted(tuple(int(getattr(nodes, n)[node]) for n in names[1:]) for node in graph.row_nodes)
    own = [feature for feature in own if feature[1] > 0]
    n_pos = len(graph.ids)
    order = [(int(NodeKind.FEATURE), *feature) for feature in own]
    order += [(int(NodeKind.ERROR), layer, p, -1) for layer in range(4) for p in range(n_pos)]
    order += [(int(NodeKind.TOKEN), -1, p, int(graph.ids[p])) for p in range(n_pos)]
    sources, n = [at[key] for key in order], len(order) + len(graph.weights)
    edges, row_of = torch.zeros(n, n), {int(v): i for i, v in enumerate(graph.row_nodes)}
    for i, source in enumerate(sources[: len(own)]):
        row = len(graph.weights) + row_of[source]
        edges[i, : len(order)] = graph.rows[row, sources]
    for target in range(len(graph.weights)):
        edges[len(order) + target, : len(order)] = graph.rows[target, sources]
    return {"features": torch.tensor(own), "tokens": graph.targets.features, "edges": edges}


def test_a_run_tells_sizes_and_usage_and_can_be_sent(made):
    found, graph = made
    assert found.nodes == len(graph.nodes) == 6 * (4 * (4 + 1 + 1) + 2) + 1
    assert found.features == len(graph.row_nodes) == 20
    assert 0 < found.usage.above < found.usage.whole
    assert Run.of(json.loads(json.dumps(asdict(found)))) == found


def test_equal_graphs_agree_and_a_changed_edge_is_found(made):
    _, graph = made
    theirs = theirs_of(graph)
    n, n_errors = len(theirs["features"]), 4 * 6
    rows = n + len(graph.weights)
    columns = n + n_errors - 4 + 6
    found = agreement(graph, theirs, n_layers=4)
    assert found == Agreement(n, n, rows * columns, 0.0)
    assert f"{rows * columns:,} edges" in found.said()
    first_error = n
    theirs["edges"][:, first_error] += 5.0
    assert agreement(graph, theirs, n_layers=4).difference == 0.0, "the first token's error"
    target = len(theirs["edges"]) - len(graph.weights)
    largest = float(
        theirs["edges"][target, [*range(n), *range(n + 1, n + n_errors + 6)]].abs().max()
    )
    theirs["edges"][target, n + 1] += largest / 4
    changed = agreement(graph, theirs, n_layers=4)
    assert changed.difference == pytest.approx(0.25, rel=0.5)
    theirs["features"][0, 2] += 1
    fewer = agreement(graph, theirs, n_layers=4)
    assert (fewer.features, fewer.of) == (n - 1, n)


def test_used_is_the_usage_of_a_call():
    n, kept = 160_000_000, []

    def touch():  # pages of its own: an allocator may have some left from other tests
        kept.append(mmap(-1, n))
        for place in range(0, n, PAGESIZE):
            kept[0][place] = 1

    found = used(touch)
    assert 0.9 * 160e6 < found.above < 200e6
    assert found.whole > found.above
    assert found.cpu_seconds > 0
    assert found.seconds > 0


def test_a_longer_context_is_in_a_folder_of_its_own(tmp_path):
    model, into = tmp_path / "model", tmp_path / "into"
    model.mkdir()
    into.mkdir()
    (model / "config.json").write_text('{"max_position_embeddings": 8, "hidden_size": 4}')
    (model / "model.safetensors").write_text("weights")
    name = Case(32, long=True).folder(model, into)
    told = json.loads((Path(name) / "config.json").read_text())
    assert told == {"max_position_embeddings": 32, "hidden_size": 4}
    assert (Path(name) / "model.safetensors").read_text() == "weights"
    assert Case(32).folder(model, into) == str(model.resolve())
    assert Case(32, builtin=True, long=True).folder(model, into) == "builtin:stories"


def test_processes_that_fail_are_said_in_the_table(monkeypatch):
    runs = iter([Run(Usage(s, 2 * s, 10**8, 10**9), 50, 20) for s in (1.0, 3.0)])
    monkeypatch.setattr(circuits, "process", lambda *given: next(runs, "ended with status 9"))
    steps = []
    cases = (Case(6, 20, builtin=True, limit="2 s"), Case(7, long=True))
    table = circuits.graphs(cases, ARGS, lambda: steps.append(1))
    assert table.rows[0][1:] == (
        "50", "20", "2.00 (1.00 to 3.00)", "4.00 (2.00 to 6.00)", "0.100", "1.00", "2 s",
    )  # fmt: skip
    assert table.rows[1][1:] == ("—",) * 6 + ("",)
    assert table.notes == [f"{cases[1]}: ended with status 9"]
    assert len(steps) == 3, "two rounds, and one of the long prompt"
    failed = circuits.answered(["python3", "-c", "import sys; sys.exit('no room')"])
    assert failed == "ended with status 1: no room"
    stop = "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"
    assert circuits.answered(["python3", "-c", stop]) == "was stopped (SIGTERM)"
    assert circuits.answered(["python3", "-c", 'print(1); print("{\\"a\\": 2}")']) == {"a": 2}


def test_the_graphs_of_both_stand_beside_each_other(made, monkeypatch):
    found, graph = made

    def process(case, folder, args):
        graph.save(folder)
        return found

    def answered(command):
        folder, batch = Path(command[-2]), command[-1]
        if batch == "512":
            return "ended with status 1: too large"
        from safetensors.torch import save_file

        save_file(theirs_of(graph), folder / PEER_GRAPH)
        double = Usage(2 * found.usage.seconds, 3 * found.usage.cpu_seconds, 10**9, 2 * 10**9)
        return {"usage": asdict(double), "version": "0.5.0"}

    monkeypatch.setattr(circuits, "process", process)
    monkeypatch.setattr(circuits, "prepared", lambda *given: 4)
    monkeypatch.setattr(circuits, "answered", answered)
    args = argparse.Namespace(**vars(ARGS), quick=False, peer="python")
    table = circuits.beside(CASE, args, lambda: None)
    assert [row[0] for row in table.rows] == [
        "dictlearn", "circuit-tracer 0.5.0, batch 32", "circuit-tracer 0.5.0, batch 128",
    ]  # fmt: skip
    assert table.rows[0][3:5] == ("1.00", "1.00")
    assert table.rows[1][3:] == ("2.00", "3.00", "1.00", "2.00")
    assert table.notes[0] == "circuit-tracer, batch 512 ended with status 1: too large"
    assert "differ by at most 0.0e+00" in table.notes[1]


def test_the_memory_that_is_free_limits_a_process(monkeypatch):
    given = []
    monkeypatch.setattr(usage.resource, "setrlimit", lambda which, limits: given.append(limits))
    limit = usage.limit_memory()
    assert given == [(limit, limit)]
    assert 0 < limit < 0.7 * torch.iinfo(torch.int64).max
