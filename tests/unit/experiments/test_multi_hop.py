"""The multi-hop study: planted models beside truth tables, measures beside closed forms."""

import pytest
import torch

from dictlearn.circuits.attribute import attribute
from dictlearn.circuits.nodes import NodeKind
from dictlearn.circuits.targets import LogitDifference
from dictlearn.experiments.experiment import run_experiment, write_experiment_page
from dictlearn.experiments.multi_hop.measures import (
    Fidelity,
    between,
    feature_names,
    fidelity,
    graph_edges,
)
from dictlearn.experiments.multi_hop.model import all_tokens, planted_model
from dictlearn.experiments.multi_hop.planted import planted_look_up, planted_neurons
from dictlearn.experiments.multi_hop.study import MultiHopStudy
from dictlearn.lm.forward import activations_at
from dictlearn.synthetic.boolean import TWO_HOPS, BooleanCircuit, Gate

AND_OF_XORS = BooleanCircuit(
    inputs=("a", "b", "c", "d"),
    gates=(
        Gate("x", {"a": True, "b": False}),
        Gate("x", {"a": False, "b": True}),
        Gate("y", {"c": True, "d": False}),
        Gate("y", {"c": False, "d": True}),
        Gate("z", {"x": True, "y": True}),
    ),
)
THREE_HOPS = BooleanCircuit(
    inputs=("p", "q"),
    gates=(Gate("u", {"p": False}), Gate("v", {"u": True}), Gate("w", {"v": True, "q": True})),
)
each_circuit = pytest.mark.parametrize("circuit", [TWO_HOPS, AND_OF_XORS, THREE_HOPS])


@each_circuit
def test_the_planted_model_computes_every_gate_and_the_answer(circuit):
    model = planted_model(circuit, torch.float64)
    ids = circuit.ids(circuit.assignments)
    signs = 2 * circuit.values(circuit.answer, circuit.assignments).double() - 1
    logits = model(ids)[:, -1]
    assert torch.allclose(logits[:, circuit.yes], signs, atol=1e-12)
    assert torch.allclose(logits[:, circuit.no], -signs, atol=1e-12)
    assert not logits[:, : circuit.no].any()
    active = circuit.active(circuit.assignments).double()
    hooks = [f"blocks.{layer}.mlp.hook_post" for layer in range(model.cfg.n_layers)]
    at = activations_at(model, ids, hooks)
    for layer, hook in enumerate(hooks):
        own = active[:, [i for i, of_gate in enumerate(circuit.layers) if of_gate == layer]]
        assert torch.allclose(at[hook][:, -1, : own.shape[1]], own, atol=1e-12)
        assert not at[hook][:, -1, own.shape[1] :].any()


def test_only_the_last_token_gives_rows():
    tokens = all_tokens(TWO_HOPS, 3)
    assert tokens.ids.equal(TWO_HOPS.ids(TWO_HOPS.assignments).repeat(3, 1))
    assert tokens.ordinary.tolist() == [[False] * 4 + [True]] * 48


@each_circuit
def test_neurons_are_the_circuit(circuit):
    model = planted_model(circuit)
    found = fidelity(model, circuit, planted_neurons(model))
    n_active = float(circuit.active(circuit.assignments).double().sum(dim=1).mean())
    assert found.unexplained == pytest.approx(0, abs=1e-9)
    assert found == Fidelity(found.unexplained, n_active, 1.0, 1.0, 0.0, 1.0, 1.0)


@each_circuit
def test_a_look_up_table_answers_and_has_no_hop_of_the_circuit(circuit):
    model = planted_model(circuit)
    found = fidelity(model, circuit, planted_look_up(model, circuit))
    assert found.unexplained == pytest.approx(0, abs=1e-9)
    is_any = circuit.active(circuit.assignments).any(dim=1)
    assert found.n_active == pytest.approx(float(is_any.double().mean()))
    assert (found.answers, found.skipped, found.precision, found.recall) == (1.0, 1.0, 0.0, 0.0)
    turned = {v: [] for v in between(circuit)}
    for variable, wrong in turned.items():  # it does not notice, so it is wrong where z changes
        for values in circuit.assignments:
            known = dict(zip(circuit.inputs, values.tolist(), strict=True))
            before, after = (_answer(circuit, known, v) for v in ("", variable))
            wrong.append(before != after)
    noticed = torch.tensor([wrong for some in turned.values() for wrong in some])
    assert found.reactions == pytest.approx(1 - float(noticed.double().mean()))


def _answer(circuit, inputs, turned):
    """The answer by gates one after another, with a variable turned once all its gates are."""
    known, left = dict(inputs), list(circuit.gates)
    while left:
        gate = left.pop(0)
        active = all(known[v] == value for v, value in gate.reads.items())
        known[gate.writes] = known.get(gate.writes, False) or active
        if gate.writes == turned and all(other.writes != turned for other in left):
            known[turned] = not known[turned]
    return known[circuit.answer]


def test_weights_of_the_edges():
    """A literal adds 1 to its gate, a variable that turned true 2, and the answer 4 in logits."""
    model = planted_model(TWO_HOPS, torch.float64)
    neurons = {name: d.double() for name, d in planted_neurons(model).items()}
    prompt = TWO_HOPS.ids(torch.tensor([[True, True, False, True]]))[0]
    target = LogitDifference(TWO_HOPS.yes, TWO_HOPS.no)
    graph = attribute(model, prompt, neurons, target, progress=False)
    last = graph.nodes.positions == 4
    at_last = graph.nodes.of_kind(NodeKind.FEATURE) & last
    first, second = ((at_last & (graph.nodes.owners == owner)).nonzero()[:, 0] for owner in (0, 1))
    assert graph.nodes.features[first].tolist() == graph.nodes.features[second].tolist() == [0]
    row = {int(node): 1 + i for i, node in enumerate(graph.row_nodes)}
    tokens = graph.nodes.of_kind(NodeKind.TOKEN)
    weights = [
        graph.rows[row[int(first)]][tokens],
        graph.rows[row[int(second)], first],
        graph.rows[0, torch.cat([first, second])],
    ]
    expected = [[1.0, 1.0, 0.0, 0.0, 0.0], [2.0], [0.0, 4.0]]
    for found, known in zip(weights, expected, strict=True):
        assert torch.allclose(found, torch.tensor(known).double(), atol=1e-6)


def test_names_and_edges_need_the_right_layer_and_the_right_inputs():
    model = planted_model(TWO_HOPS)
    neurons = planted_neurons(model)
    active = TWO_HOPS.active(TWO_HOPS.assignments)
    second = feature_names(TWO_HOPS, "mlp1", neurons["mlp1"], active[:, [3, 0]])
    assert second == ["~x & y", "mlp1 1"], "a & b is no gate of this layer"
    names = {"mlp0": ["c & d", "other"], "mlp1": second}
    prompt = TWO_HOPS.ids(torch.tensor([[True, True, False, True]]))[0]
    target = LogitDifference(TWO_HOPS.yes, TWO_HOPS.no)
    graph = attribute(model, prompt, neurons, target, progress=False)
    assert graph_edges(graph, TWO_HOPS, names) == {
        ("a", "c & d"), ("b", "c & d"), ("c & d", "~x & y"), ("~x & y", "z"),
    }  # fmt: skip


def test_the_study_at_a_tiny_size(tmp_path):
    experiment = MultiHopStudy(n_seeds=1, steps=150, l1_coefficients=(0.03,))
    found = run_experiment(experiment, tmp_path, show=False)
    each, across = (found["trained-0"]["0.03"][kind] for kind in ("per layer", "cross-layer"))
    assert each["answers"] == across["answers"] == 1.0
    assert max(each["unexplained"], across["unexplained"]) < 0.2
    assert each["recall"] == 1.0
    assert each["skipped"] == 0.0 < across["skipped"]
    text = write_experiment_page(experiment, found, tmp_path).read_text()
    for row in ("| neurons | — | 0.00 | 0.88 |", "| look-up table |", "| per layer | 0.03 |"):
        assert row in text
    assert "nan" not in text
