"""The local replacement model of a prompt: a model in which features add up.

Everything that is not linear is held at its value on the prompt (`lm.frozen`), so that the score of
a feature is an affine function of the features before it, the errors of dictionaries, the
embeddings, and constants (Dunefsky et al. 2024, section 3; Ameisen et al. 2025, "Circuit Tracing").
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dictlearn.circuits.nodes import NodeKind, Nodes
from dictlearn.circuits.targets import Function
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError
from dictlearn.core.numbers import whole
from dictlearn.core.sites import Site
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.lm.frozen import EMBEDDING, POSITIONS, frozen_pass
from dictlearn.lm.frozen_tensors import FrozenPass, Gradients
from dictlearn.lm.hooks import LanguageModel, placed
from dictlearn.text.prompts import token_text


@contextmanager
def local_model(
    model: LanguageModel,
    ids: Int[Tensor, " pos"],
    dictionaries: Mapping[str, FeatureDictionary],
    *,
    cut_heads: bool = False,
    scores_of: int | None = None,
) -> "Iterator[LocalModel]":
    """The local replacement model of `model` on the prompt `ids`, whose attention heads are nodes
    with `cut_heads`; `scores_of` and errors as of `frozen_pass`."""
    with frozen_pass(model, ids, dictionaries, cut_heads=cut_heads, scores_of=scores_of) as run:
        yield LocalModel(model, run, dictionaries)


class LocalModel:
    """Features, errors and constants of one prompt, and what each contributes to any function."""

    def __init__(
        self, model: LanguageModel, run: FrozenPass, dictionaries: Mapping[str, FeatureDictionary]
    ) -> None:
        self.run, self.dictionaries, self._model = run, dict(dictionaries), model
        self._probabilities: dict[int, Float[Tensor, " vocabulary"]] = {}
        self.tokenizer = model.tokenizer
        self.n_heads = int(getattr(model.cfg, "n_heads", None) or 0)
        self.hooks = [hook for d in self.dictionaries.values() for hook in d.sites.target.hooks]
        """The hooks where dictionaries write."""
        with torch.no_grad():
            self.sources = {name: self._source(name) for name in self.dictionaries}
            self.acts = {n: d.encode_sparse(self.sources[n]) for n, d in self.dictionaries.items()}
            self.written = {name: _written(d, self.acts[name])
                             for name, d in self.dictionaries.items()}  # fmt: skip
            self._constants = {name: _constant(d) for name, d in self.dictionaries.items()}
            self._errors = {name: self._error(name) for name in self.dictionaries}
        self.nodes = self._nodes()

    @property
    def n_vocabulary(self) -> int:
        """Number of tokens that the model knows."""
        return self.run.head.weight.shape[1]

    def text(self, token: int) -> str:
        """A token as text."""
        return token_text(self.tokenizer, token)

    def position(self, position: int) -> int:
        """A position from 0 on; negative ones count from the end.

        Raises:
            InputError: the prompt does not have it.
        """
        n, at = len(self.run.ids), whole(position)
        if at is None or not -n <= at < n:
            raise InputError(f"required a position from {-n} to {n - 1}, got {position!r:.80}")
        return at % n

    # Functions

    @torch.no_grad()
    def probabilities(self, position: int) -> Float[Tensor, " vocabulary"]:
        """The probabilities of the next token."""
        position = self.position(position)
        if position not in self._probabilities:  # logits of all tokens are not kept: they are large
            logits = self._model(placed(self.run.ids[None], self._model))[0, position]
            self._probabilities[position] = logits.double().softmax(dim=0)
        return self._probabilities[position]

    @torch.no_grad()
    def logit(self, weights: Mapping[int, float], position: int) -> Function:
        """A weighted sum of logits, less their mean over the vocabulary."""
        W, b = self.run.head.weight, self.run.head.bias
        tokens = torch.tensor(list(weights), device=W.device)
        some = torch.tensor(list(weights.values()), dtype=W.dtype, device=W.device)
        reader = W[:, tokens] @ some - W.mean(dim=1) * some.sum()
        offset = 0.0 if b is None else float(b[tokens] @ some - b.mean() * some.sum())
        return Function(self.position(position), reader, offset)

    @torch.no_grad()
    def readings(
        self, name: str, positions: Sequence[int], features: Sequence[int]
    ) -> list[Function]:
        """The functions that give coefficients of the dictionary `name` at tokens."""
        x = self.sources[name][torch.as_tensor(positions)]
        reading = self.dictionaries[name].reading(x, torch.as_tensor(features, device=x.device))
        offsets = reading.offsets.tolist()
        return [
            Function(position, reader, offset, name)
            for position, reader, offset in zip(positions, reading.readers, offsets, strict=True)
        ]

    def of_nodes(self, nodes: Int[Tensor, " m"]) -> list[Function]:
        """The functions that give the coefficients of feature nodes."""
        names, functions = list(self.dictionaries), dict[int, Function]()
        for owner in self.nodes.owners[nodes].unique().tolist():
            own = nodes[self.nodes.owners[nodes] == owner]
            found = self.readings(
                names[owner], self.nodes.positions[own].tolist(), self.nodes.features[own].tolist()
            )
            functions |= zip(own.tolist(), found, strict=True)
        return [functions[node] for node in nodes.tolist()]

    @torch.no_grad()
    def value(self, function: Function) -> float:
        """The value of a function on the prompt."""
        x = torch.cat([tensor[function.position] for tensor in self._read(function)])
        return float(x @ function.reader) + function.offset

    def _read(self, function: Function) -> list[Tensor]:
        """The tensors that a function reads side by side."""
        if function.layer is not None:
            return [self.run.values[function.layer]]
        if function.dictionary is None:
            return [self.run.final]
        hooks = self.dictionaries[function.dictionary].sites.source.hooks
        return [self.run.sources[function.dictionary, hook] for hook in hooks]

    # Contributions

    @torch.no_grad()
    def contributions(self, functions: Sequence[Function]) -> Float[Tensor, "m node"]:
        """The contribution of each node to each function; a row adds up to the function's value."""
        return self.hop(functions)[0]

    @torch.no_grad()
    def hop(self, functions: Sequence[Function]) -> tuple[Float[Tensor, "m node"], Gradients]:
        """The contributions of each node, and the gradients that they come from."""
        gradients = self.run.gradients(self._seeds(functions))
        offsets = self.run.final.new_tensor([function.offset for function in functions])
        return self.shares(gradients, offsets), gradients

    @torch.no_grad()
    def shares(
        self, gradients: Gradients, constants: Float[Tensor, " m"]
    ) -> Float[Tensor, "m node"]:
        """The contributions of each node to functions with these gradients and constants."""
        leaves, mlps, biases, _ = gradients
        m, zero = len(constants), self.run.final.new_zeros(len(constants), len(self.run.ids))
        parts: list[Tensor] = []
        for name, dictionary in self.dictionaries.items():
            parts_of = dictionary.sites.target.parts
            at = torch.cat([leaves.get(part.hook, zero.new_zeros(*zero.shape, part.d))
                            for part in parts_of], dim=2)  # fmt: skip
            parts.append(_products(at, self.written[name], self.acts[name]))
            constants = constants + at.sum(dim=1) @ self._constants[name].to(at)
        errors = []
        for name, dictionary in self.dictionaries.items():
            target = dictionary.sites.target
            for hook, error in zip(target.hooks, target.split(self._errors[name]), strict=True):
                errors.append(_inner(leaves[hook], error) if hook in leaves else zero)
        embedded = [
            _inner(leaves[hook], self.run.leaves[hook].detach()) if hook in leaves else zero
            for hook in (EMBEDDING, POSITIONS)
        ]
        remainders = [
            _inner(mlps[layer][1][:, 0], output[0].detach())
            - _inner(mlps[layer][0][:, 0], source[0].detach())
            if layer in mlps else zero
            for layer, (source, output) in self.run.mlps.items()
        ]  # fmt: skip
        for name, gradient in biases.items():
            constants = constants + gradient.flatten(1) @ self.run.biases[name].detach().flatten()
        parts += [*errors, *embedded, *remainders, *self._of_heads(gradients, m)]
        return torch.cat([*parts, constants.unsqueeze(1)], dim=1)

    def _of_heads(self, gradients: Gradients, m: int) -> Iterator[Float[Tensor, "m head_pos"]]:
        """Contributions of heads, by the token that they read: `pattern * value . gradient`."""
        for layer, values in self.run.values.items():
            if layer not in gradients.heads:
                yield values.new_zeros(m, self.n_heads * len(values))
                continue
            through = self.read_by_heads(layer, gradients.heads[layer])
            yield torch.einsum("mhpd,pd->mhp", through, values.detach()).flatten(1)

    def read_by_heads(
        self, layer: int, gradients: Float[Tensor, "m pos d_z"]
    ) -> Float[Tensor, "m head pos d_v"]:
        """The gradients in the value vectors of a layer, through each of its heads alone."""
        own = torch.eye(self.n_heads).to(gradients)
        apart = torch.einsum("mphd,hk->mhpkd", gradients.unflatten(2, (self.n_heads, -1)), own)
        found = self.run.through_heads(layer, apart.flatten(3).flatten(0, 1))
        return found.unflatten(0, (len(gradients), self.n_heads))

    def _seeds(self, functions: Sequence[Function]) -> list[tuple[Tensor, Tensor]]:
        """The tensors that functions read, with their readers at the right row and position."""
        by_reader: dict[tuple[str | None, int | None], list[int]] = {}
        for row, function in enumerate(functions):
            by_reader.setdefault((function.dictionary, function.layer), []).append(row)
        seeds = []
        for rows in by_reader.values():
            readers = torch.stack([functions[row].reader for row in rows])
            at = torch.tensor(rows), torch.tensor([functions[row].position for row in rows])
            tensors = self._read(functions[rows[0]])
            parts = readers.split([tensor.shape[1] for tensor in tensors], dim=1)
            for tensor, reader in zip(tensors, parts, strict=True):
                seed = tensor.new_zeros(len(functions), *tensor.shape)
                seed[at] = reader.to(seed)
                seeds.append((tensor, seed))
        return seeds

    # Parts

    def _source(self, name: str) -> Float[Tensor, "pos d_in"]:
        source = self.dictionaries[name].sites.source
        return torch.cat([self.run.sources[name, hook].detach() for hook in source.hooks], dim=1)

    def _error(self, name: str) -> Float[Tensor, "pos d_out"]:
        dictionary = self.dictionaries[name]
        target = dictionary.sites.target
        leaves = torch.cat([self.run.leaves[hook].detach() for hook in target.hooks], dim=1)
        return leaves - dictionary.decode(self.acts[name]).to(leaves)

    def _nodes(self) -> Nodes:
        positions, parts, n_hooks = torch.arange(len(self.run.ids)), [], 0
        for owner, (name, acts) in enumerate(self.acts.items()):
            target = self.dictionaries[name].sites.target
            hooks = n_hooks + _first_parts(target, self.written[name])
            n_hooks += len(target.hooks)
            parts.append(Nodes.of(NodeKind.FEATURE, acts.rows(), owner=owner, hooks=hooks,
                                  features=acts.indices, values=acts.values))  # fmt: skip
        parts += [
            Nodes.of(NodeKind.ERROR, positions, owner=hook) for hook in range(len(self.hooks))
        ]
        parts.append(Nodes.of(NodeKind.TOKEN, positions, features=self.run.ids.cpu()))
        parts.append(Nodes.of(NodeKind.POSITION, positions))
        parts += [Nodes.of(NodeKind.REMAINDER, positions, owner=layer) for layer in self.run.mlps]
        heads = torch.arange(self.n_heads).repeat_interleave(len(positions))
        parts += [
            Nodes.of(NodeKind.HEAD, positions.repeat(self.n_heads), owner=layer, features=heads)
            for layer in self.run.values
        ]
        return Nodes.joined([*parts, Nodes.of(NodeKind.BIAS, [-1])])

    def describe(self) -> dict[str, Any]:
        """The prompt and the dictionaries, in files."""
        return {
            "ids": self.run.ids.tolist(),
            "tokens": [self.text(token) for token in self.run.ids.tolist()],
            "dictionaries": list(self.dictionaries),
            "n_features": [dictionary.n_features for dictionary in self.dictionaries.values()],
            "hooks": self.hooks,
        }


def _written(dictionary: FeatureDictionary, acts: SparseActs) -> Float[Tensor, "nnz d_out"]:
    """The rows that active features write: coefficients times atoms."""
    return dictionary.atoms[acts.indices] * acts.values.unsqueeze(1)


def _first_parts(target: Site, written: Float[Tensor, "nnz d_out"]) -> Int[Tensor, " nnz"]:
    """The place, among the hooks of `target`, of the first that each row is not zero at."""
    writes = torch.stack([(part != 0).any(dim=1) for part in target.split(written)], dim=1)
    return writes.int().argmax(dim=1)


def _constant(dictionary: FeatureDictionary) -> Float[Tensor, " d_out"]:
    """The estimate of a dictionary whose features are inactive and whose input is zero."""
    skip = dictionary.skip(torch.zeros_like(dictionary.x_mean)[None])
    return dictionary.bias if skip is None else dictionary.bias + skip[0]


def _products(
    at: Float[Tensor, "m pos d"], written: Float[Tensor, "nnz d"], acts: SparseActs
) -> Float[Tensor, "m nnz"]:
    """The product of each entry's row with the gradient at its token."""
    own = written.to(at).split(acts.l0().tolist())
    return torch.cat([at[:, t] @ rows.T for t, rows in enumerate(own)], dim=1)


def _inner(
    gradient: Float[Tensor, "m pos d"], value: Float[Tensor, "pos d"]
) -> Float[Tensor, "m pos"]:
    return torch.einsum("mpd,pd->mp", gradient, value)
