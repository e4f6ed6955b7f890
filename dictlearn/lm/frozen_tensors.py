"""The tensors of a frozen pass, and gradients of functions of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dictlearn.lm.shortcuts import Head


class Gradients(NamedTuple):
    """The gradients of `m` functions; those of tensors that no function depends on are absent."""

    leaves: dict[str, Float[Tensor, "m pos _"]]
    mlps: dict[int, tuple[Float[Tensor, "m 1 pos _"], Float[Tensor, "m 1 pos _"]]]
    """In inputs and outputs of MLPs, by layer."""
    biases: dict[str, Float[Tensor, "m ..."]]
    heads: dict[int, Float[Tensor, "m pos _"]]
    """In outputs of heads that are cut, by layer."""


@dataclass
class FrozenPass:
    """The tensors of one pass over one prompt; those of a token have its position as first axis."""

    ids: Int[Tensor, " pos"]
    head: Head
    leaves: dict[str, Float[Tensor, "pos d"]] = field(default_factory=dict)
    """Constants by hook: embeddings, and targets of dictionaries less what bypasses features."""
    sources: dict[tuple[str, str], Float[Tensor, "pos d"]] = field(default_factory=dict)
    """By dictionary and hook, what the dictionary reads."""
    mlps: dict[int, list[Float[Tensor, "1 pos d"]]] = field(default_factory=dict)
    """Input and output of the MLP of each layer."""
    values: dict[int, Float[Tensor, "pos d_v"]] = field(default_factory=dict)
    """The value vectors of all heads, by layer, where heads are cut."""
    heads: dict[int, tuple[Float[Tensor, "pos d_z"], Float[Tensor, "pos d_z"]]] = field(
        default_factory=dict
    )
    """The joined outputs of heads before the cut and after it, by layer."""
    held: dict[str, Tensor] = field(default_factory=dict)
    """The values that are held, by hook."""
    operands: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Queries, then keys, of the layer whose scores are kept: as computed, and as held."""
    scores: Tensor | None = None
    """Attention scores of that layer, [head, query, key], as functions of what is held."""
    biases: dict[str, nn.Parameter] = field(default_factory=dict)
    """The biases of the model outside MLPs."""
    final: Float[Tensor, "pos d"] = field(default_factory=lambda: torch.empty(0, 0))
    """The input of the unembedding."""

    def gradients(self, seeds: Sequence[tuple[Tensor, Float[Tensor, "m pos _"]]]) -> Gradients:
        """The gradients of `m` functions, sums of the products of `seeds` with tensors of the pass,
        in leaves, in inputs and outputs of MLPs, in biases, and in outputs of heads."""
        ends = [tensor for pair in self.mlps.values() for tensor in pair]
        cuts = [after for _, after in self.heads.values()]
        inputs = [*self.leaves.values(), *ends, *self.biases.values(), *cuts]
        found = iter(torch.autograd.grad(
            [tensor for tensor, _ in seeds], inputs, [seed for _, seed in seeds],
            retain_graph=True, allow_unused=True, is_grads_batched=True,
        ))  # fmt: skip
        leaves = {name: next(found) for name in self.leaves}
        mlps = {layer: (next(found), next(found)) for layer in self.mlps}
        biases = {name: next(found) for name in self.biases}
        heads = dict(zip(self.heads, found, strict=True))
        return Gradients(
            {name: g for name, g in leaves.items() if g is not None},
            {layer: (a, b) for layer, (a, b) in mlps.items() if a is not None and b is not None},
            {name: g for name, g in biases.items() if g is not None},
            {layer: g for layer, g in heads.items() if g is not None},
        )

    def through_heads(
        self, layer: int, gradients: Float[Tensor, "m pos d_z"]
    ) -> Float[Tensor, "m pos d_v"]:
        """The gradients in value vectors, from those in the outputs of heads; patterns are held."""
        before, _ = self.heads[layer]
        (found,) = torch.autograd.grad(
            before, self.values[layer], gradients,
            retain_graph=True, is_grads_batched=True, materialize_grads=True,
        )  # fmt: skip
        return found
