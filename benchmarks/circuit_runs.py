"""Graphs of the cases of `benchmarks.circuits`, and their agreement with circuit-tracer's.

`python -m benchmarks.circuit_runs CASE MODEL FOLDER THREADS` makes the graph of one case, given as
JSON, keeps it in a folder, and prints one line of JSON.
"""

import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import dictlearn._threads  # noqa: F401  (before torch)

import torch  # isort: skip
from torch import Tensor

from benchmarks.peers.usage import Usage, used
from dictlearn.circuits.attribute import attribute
from dictlearn.circuits.graph import CircuitGraph
from dictlearn.circuits.nodes import NodeKind
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.dictionaries.topk_transcoder import TopKTranscoderConfig
from dictlearn.interop import circuit_tracer
from dictlearn.lm.hooks import LanguageModel
from dictlearn.lm.loading import load_model
from dictlearn.lm.mlps import mlp_sites

BUILTIN = "builtin:stories"
PEER_GRAPH = "circuit_tracer.safetensors"


@dataclass(frozen=True)
class Case:
    """A prompt of random tokens, and transcoders of a language model as they are initialised."""

    n_tokens: int
    n_features: int | None = 1024
    """Features whose edges are found; all without a number."""
    builtin: bool = False
    k: int = 32
    of_layer: int = 1024
    """Features of each transcoder."""
    long: bool = False
    """Whether the model's context is made longer than that of its training."""
    limit: str = ""

    def __str__(self) -> str:
        where = BUILTIN if self.builtin else "the second model"
        features = "all" if self.n_features is None else f"{self.n_features:,}"
        return f"{self.n_tokens:,} tokens, {where}, k = {self.k}, {features} features"

    def folder(self, model: Path, into: Path) -> str:
        """The model, or a folder in `into` that has its files and a longer context."""
        if self.builtin or not self.long:
            return BUILTIN if self.builtin else str(model.resolve())
        for file in model.resolve().iterdir():
            if file.name != "config.json":
                (into / file.name).symlink_to(file)
        config = json.loads((model / "config.json").read_text("utf-8"))
        config["max_position_embeddings"] = self.n_tokens
        (into / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return str(into)

    def transcoders(self, model: LanguageModel) -> dict[str, FeatureDictionary]:
        """A top-k transcoder for every layer."""
        config = TopKTranscoderConfig(n_features=self.of_layer, k=self.k)
        return {
            f"mlp{layer}": config.build(mlp_sites(model, layer), seed=layer)
            for layer in range(model.cfg.n_layers)
        }

    def ids(self, model: LanguageModel) -> Tensor:
        """Random tokens, behind BOS if the model has one."""
        make = torch.Generator().manual_seed(0)
        ids = torch.randint(3, model.cfg.d_vocab, (self.n_tokens,), generator=make)
        bos = getattr(model.tokenizer, "bos_token_id", None)
        return ids if bos is None else torch.cat([torch.tensor([bos]), ids[1:]])


@dataclass(frozen=True)
class Run:
    """One graph: usage, and sizes."""

    usage: Usage
    nodes: int
    features: int
    """Features whose incoming edges were found."""

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> "Run":
        """The run in a line of JSON."""
        return cls(**{**answer, "usage": Usage(**answer["usage"])})


def run(case: Case, model: Path, folder: Path, threads: int) -> Run:
    """The graph of a case, made in this process and kept in `folder`."""
    torch.set_num_threads(threads)
    found: list[CircuitGraph] = []
    with tempfile.TemporaryDirectory() as into:
        subject = load_model(case.folder(model, Path(into)))
        transcoders, ids = case.transcoders(subject), case.ids(subject)
        most = len(ids) * case.of_layer * len(transcoders)
        n = most if case.n_features is None else case.n_features
        attribute(subject, ids[:4], transcoders, n_features=4, progress=False)  # imports, threads
        usage = used(
            lambda: found.append(attribute(subject, ids, transcoders, n_features=n, progress=False))
        )
    found[0].save(folder)
    return Run(usage, len(found[0].nodes), len(found[0].row_nodes))


# Beside circuit-tracer


@dataclass(frozen=True)
class Agreement:
    """Edges that two graphs both have."""

    features: int
    """Features whose incoming edges both have found."""
    of: int
    """Features whose incoming edges circuit-tracer has found."""
    edges: int
    """Edges that were compared."""
    difference: float
    """The largest difference, as a part of the largest edge into the same node."""

    def said(self) -> str:
        """The agreement in words."""
        return (
            f"of the {self.of:,} features whose incoming edges circuit-tracer finds, dictlearn's "
            f"graph has {self.features:,}; {self.edges:,} edges into those and the targets differ "
            f"by at most {self.difference:.1e} of the largest edge into the same node"
        )


def agreement(ours: CircuitGraph, theirs: Mapping[str, Tensor], n_layers: int) -> Agreement:
    """The differences of edges from features, errors and tokens into targets and features.

    Nodes are the same if layer, token and number are. circuit-tracer has no features at the first
    token, which are part of the error there: that token's errors are left out.
    """
    features, tokens, edges = (
        theirs["features"].tolist(),
        theirs["tokens"].tolist(),
        theirs["edges"],
    )
    n_pos = len(ours.ids)
    keys = [(NodeKind.FEATURE, *feature) for feature in features]
    keys += [(NodeKind.ERROR, layer, at, -1) for layer in range(n_layers) for at in range(n_pos)]
    keys += [(NodeKind.TOKEN, -1, at, int(token)) for at, token in enumerate(ours.ids)]
    nodes = ours.nodes
    columns = (nodes.kinds, nodes.owners, nodes.positions, nodes.features)
    places = {key: i for i, key in enumerate(zip(*(c.tolist() for c in columns), strict=True))}
    sources = [
        (i, places[key]) for i, key in enumerate(keys)
        if key in places and key[:1] + key[2:3] != (NodeKind.ERROR, 0)
    ]  # fmt: skip
    rows = {int(node): len(ours.weights) + i for i, node in enumerate(ours.row_nodes)}
    ends = [
        (i, rows[places[key]]) for i, key in enumerate(keys[: len(features)])
        if places.get(key) in rows
    ]  # fmt: skip
    own = ours.targets.features.tolist()
    targets = [(len(keys) + i, own.index(token)) for i, token in enumerate(tokens) if token in own]
    (their_rows, our_rows), (their_columns, our_columns) = (
        torch.tensor(pairs).T for pairs in (ends + targets, sources)
    )
    a = ours.rows[our_rows][:, our_columns].double()
    b = edges[their_rows][:, their_columns].double()
    largest = a.abs().amax(dim=1, keepdim=True).clamp_min(1e-30)
    return Agreement(len(ends), len(features), a.numel(), float(((a - b).abs() / largest).max()))


def prepared(case: Case, model: Path, folder: Path, threads: int) -> int:
    """The number of layers; writes the case and its transcoders for circuit-tracer to `folder`."""
    with tempfile.TemporaryDirectory() as into:
        name = case.folder(model, Path(into))
        subject = load_model(name)
    for transcoder in case.transcoders(subject).values():
        circuit_tracer.write(transcoder, folder)
    told = {
        "model": name, "ids": case.ids(subject).tolist(), "n_features": case.n_features,
        "k": case.k, "threads": threads, "n_layers": subject.cfg.n_layers,
    }  # fmt: skip
    (folder / "case.json").write_text(json.dumps(told), encoding="utf-8")
    return int(subject.cfg.n_layers)


def main() -> None:
    """Make the graph of a case."""
    case, model, folder, threads = sys.argv[1:]
    found = run(Case(**json.loads(case)), Path(model), Path(folder), int(threads))
    print(json.dumps(asdict(found)))


if __name__ == "__main__":
    main()
