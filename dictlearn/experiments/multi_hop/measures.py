"""Have the graphs of dictionaries the edges of a circuit, and do they react as it does?"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dictlearn.circuits.attribute import attribute
from dictlearn.circuits.graph import CircuitGraph
from dictlearn.circuits.nodes import NodeKind
from dictlearn.circuits.targets import LogitDifference
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.sites import Site
from dictlearn.experiments.multi_hop.model import directions
from dictlearn.interventions.inside import inside
from dictlearn.lm.forward import activations_at
from dictlearn.lm.hooks import LanguageModel
from dictlearn.lm.patching import Patch, patched
from dictlearn.metrics.reconstruction import fraction_variance_unexplained
from dictlearn.synthetic.boolean import BooleanCircuit, Edge

LEAST_SHARE = 0.1
"""An edge counts from this part of the sizes of all edges into its reader, constants left out."""
_LEAST_ACTIVE = 0.05
"""A feature counts as active from this part of its largest coefficient."""
_LAYER = re.compile(r"blocks\.(\d+)\.")

Dictionaries = Mapping[str, FeatureDictionary]


@dataclass(frozen=True)
class Fidelity:
    """How far dictionaries are like the circuit of a planted model."""

    unexplained: float
    """Squared error of all estimates as a part of the variance of their targets."""
    n_active: float
    """Active features, of all layers together, averaged over the inputs."""
    answers: float
    """The part of the inputs for which the model through its dictionaries answers as it does."""
    reactions: float
    """The same where one variable between the layers is turned to its opposite in the stream."""
    skipped: float
    """The part of the edges into the answer from features, by size, that come from features which
    read layers before the last; 0 where only the last layer writes the answer."""
    precision: float
    """The part of the graphs' edges that the circuit has."""
    recall: float
    """The part of the circuit's edges that the graphs have."""

    def to_dict(self) -> dict[str, float]:
        """The measures by name."""
        return asdict(self)


@torch.no_grad()
def fidelity(model: LanguageModel, circuit: BooleanCircuit, dictionaries: Dictionaries) -> Fidelity:
    """The measures of dictionaries at all MLPs of `planted_model(circuit)`, over all inputs; of
    graphs, over those for which the answer is true."""
    rows = {name: _rows(model, circuit, d.sites.source) for name, d in dictionaries.items()}
    is_on = {name: _is_on(d.encode(rows[name])) for name, d in dictionaries.items()}
    y = [_rows(model, circuit, d.sites.target) for d in dictionaries.values()]
    y_hat = [d(rows[name]) for name, d in dictionaries.items()]
    alike = [
        _answers(model, circuit, turned) == _answers(model, circuit, turned, dictionaries)
        for turned in ("", *between(circuit))
    ]
    return Fidelity(
        unexplained=float(
            fraction_variance_unexplained(torch.cat(y, dim=1), torch.cat(y_hat, dim=1))
        ),
        n_active=float(torch.cat([*is_on.values()], dim=1).double().sum(dim=1).mean()),
        answers=float(alike[0].double().mean()),
        reactions=float(torch.stack(alike[1:]).double().mean()),
        **_of_graphs(model, circuit, dictionaries, is_on),
    )


def between(circuit: BooleanCircuit) -> tuple[str, ...]:
    """The variables that gates write and gates of later layers read."""
    read = {variable for gate in circuit.gates for variable in gate.reads}
    return tuple(v for v in circuit.variables if v in read and v not in circuit.inputs)


# Graphs


def _of_graphs(
    model: LanguageModel,
    circuit: BooleanCircuit,
    dictionaries: Dictionaries,
    is_on: Mapping[str, Bool[Tensor, "n feature"]],
) -> dict[str, float]:
    """Precision and recall of all edges, and the skipped part of those into the answer."""
    names = {name: feature_names(circuit, name, d, is_on[name]) for name, d in dictionaries.items()}
    n_found = n_true = n_both = 0
    early = late = 0.0
    for values in circuit.assignments[circuit.values(circuit.answer, circuit.assignments)]:
        graph = attribute(
            model, circuit.ids(values[None])[0], dictionaries,
            LogitDifference(circuit.yes, circuit.no), progress=False,
        )  # fmt: skip
        found, true = graph_edges(graph, circuit, names), circuit.edges(values.tolist())
        n_found, n_true, n_both = (
            n_found + len(found),
            n_true + len(true),
            n_both + len(found & true),
        )
        before, last = sizes_into_answer(graph, circuit, dictionaries)
        early, late = early + before, late + last
    return {
        "skipped": early / max(early + late, 1e-30),
        "precision": n_both / max(n_found, 1),
        "recall": n_both / n_true,
    }


def feature_names(
    circuit: BooleanCircuit,
    name: str,
    dictionary: FeatureDictionary,
    is_on: Bool[Tensor, "n feature"],
) -> list[str]:
    """The gate that each feature stands for, by its formula: one of the layer that the feature
    reads, active for the same inputs. Other features are called by dictionary and number.

    Args:
        circuit: the circuit.
        name: the name of the dictionary.
        dictionary: the features.
        is_on: for which of `circuit.assignments` each feature is active.
    """
    active = circuit.active(circuit.assignments)
    found = [f"{name} {i}" for i in range(dictionary.n_features)]
    for i, layer in enumerate(reading_layers(dictionary).tolist()):
        for gate, at in enumerate(circuit.layers):
            if at == layer and torch.equal(active[:, gate], is_on[:, i]):
                found[i] = circuit.gates[gate].name
    return found


def reading_layers(dictionary: FeatureDictionary) -> Int[Tensor, " feature"]:
    """The layer whose MLP's input each feature reads; equal numbers of features read the hooks of
    a cross-layer transcoder."""
    found = [_LAYER.search(hook) for hook in dictionary.sites.source.hooks]
    layers = torch.tensor([int(match[1]) for match in found if match])
    return layers.repeat_interleave(dictionary.n_features // len(layers))


def graph_edges(
    graph: CircuitGraph, circuit: BooleanCircuit, names: Mapping[str, Sequence[str]]
) -> set[Edge]:
    """The edges of `LEAST_SHARE` or more on ways to the answer, from inputs and features of the
    last token, by name. Features of one name are one node, whose edges add up."""
    labels = [_label(graph, circuit, names, node) for node in range(len(graph.nodes))]
    rows = defaultdict[str, list[int]](list, {circuit.answer: [0]})
    for row, node in enumerate(graph.row_nodes.tolist(), start=len(graph.weights)):
        rows[labels[node]].append(row)
    counted = ~graph.nodes.of_kind(NodeKind.BIAS)
    found, waiting, seen = set[Edge](), [circuit.answer], {circuit.answer}
    while waiting:
        reader = waiting.pop()
        into = graph.rows[rows[reader]].double().sum(dim=0) * counted
        of_label = defaultdict[str, float](float)
        for label, weight in zip(labels, into.tolist(), strict=True):
            of_label[label] += weight
        least = LEAST_SHARE * float(into.abs().sum())
        sources = {
            label for label, weight in of_label.items() if label and abs(weight) >= least > 0
        }
        found |= {(source, reader) for source in sources}
        waiting += sources - seen
        seen |= sources
    return found


def _label(
    graph: CircuitGraph, circuit: BooleanCircuit, names: Mapping[str, Sequence[str]], node: int
) -> str:
    """The name of an input, or of a feature of the last token; nothing for other nodes."""
    kind, at = NodeKind(int(graph.nodes.kinds[node])), int(graph.nodes.positions[node])
    if kind == NodeKind.TOKEN and at < len(circuit.inputs):
        return circuit.inputs[at]
    if kind == NodeKind.FEATURE and at == len(circuit.inputs):
        dictionary = graph.dictionaries[int(graph.nodes.owners[node])]
        return names[dictionary][int(graph.nodes.features[node])]
    return ""


def sizes_into_answer(
    graph: CircuitGraph, circuit: BooleanCircuit, dictionaries: Dictionaries
) -> tuple[float, float]:
    """The sum of the sizes of the answer's edges from features that read layers before that of the
    last gate, and the sum from all others."""
    layers = [reading_layers(dictionaries[name]) for name in graph.dictionaries]
    before = last = 0.0
    for node in graph.nodes.of_kind(NodeKind.FEATURE).nonzero()[:, 0].tolist():
        layer = layers[int(graph.nodes.owners[node])][int(graph.nodes.features[node])]
        size = abs(float(graph.rows[0, node]))
        if layer < circuit.layers[-1]:
            before += size
        else:
            last += size
    return before, last


# Rows and answers


def _rows(model: LanguageModel, circuit: BooleanCircuit, site: Site) -> Float[Tensor, "n d"]:
    """The activations at the last token, for all values of the inputs."""
    at = activations_at(model, circuit.ids(circuit.assignments), list(site.hooks))
    return torch.cat([at[hook][:, -1] for hook in site.hooks], dim=1)


def _is_on(acts: Float[Tensor, "n feature"]) -> Bool[Tensor, "n feature"]:
    return (acts > 0) & (acts >= _LEAST_ACTIVE * acts.amax(dim=0))


def _answers(
    model: LanguageModel,
    circuit: BooleanCircuit,
    turned: str,
    dictionaries: Dictionaries | None = None,
) -> Bool[Tensor, " n"]:
    """Whether the model, or the model through `dictionaries`, answers yes, for all values of the
    inputs; with a variable that is `turned`, unless that is empty."""
    with ExitStack() as stack:
        if dictionaries is not None:
            stack.enter_context(inside(model, dictionaries))
        if turned:
            layers = zip(circuit.gates, circuit.layers, strict=True)
            layer = max(layer for gate, layer in layers if gate.writes == turned)
            turn = {f"blocks.{layer}.hook_resid_post": _turn(circuit, turned)}
            stack.enter_context(patched(model, turn))
        logits = model(circuit.ids(circuit.assignments))[:, -1]
    return logits[:, circuit.yes] > logits[:, circuit.no]


def _turn(circuit: BooleanCircuit, variable: str) -> Patch:
    """The function that turns a variable to its opposite at the last token."""
    signs = 1 - 2 * circuit.values(variable, circuit.assignments).float()
    change = 2 * signs[:, None] * directions(circuit)[circuit.variables.index(variable)]

    def turn(y: Float[Tensor, "b pos d"], positions: Int[Tensor, "b pos"]) -> Tensor:
        last = torch.arange(y.shape[1]) == y.shape[1] - 1
        return y + last[:, None] * change[:, None].to(y)

    return turn
