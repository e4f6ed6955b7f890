"""Blocks of tokens to train on, a pure function of seed and step."""

import hashlib
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from dictlearn.activations.shuffle import shuffled_positions
from dictlearn.core.errors import InputError
from dictlearn.core.tokens import Tokens


@runtime_checkable
class Sampler(Protocol):
    """A source of fresh blocks, such as `synthetic.tokfsm.TokFSM`."""

    def sample(self, n: int, seed: int) -> Int[Tensor, "n pos"]:
        """`n` blocks, the same for the same arguments."""


class Blocks:
    """The batches of a run: those of tokens in a shuffled order, or fresh ones at every step."""

    def __init__(self, source: Tokens | Sampler, n: int, seed: int) -> None:
        if not isinstance(source, Tokens | Sampler):
            raise InputError(
                "required Tokens, as load_tokens(source, model) returns, or an object with "
                f"sample(n, seed), got {type(source).__name__}"
            )
        self._source, self._n, self._seed = source, n, seed

    def ids(self, step: int) -> Int[Tensor, "n pos"]:
        """The blocks of a step."""
        if isinstance(self._source, Tokens):
            all_ids = self._source.ids
            return all_ids[shuffled_positions(self._seed, step * self._n, self._n, len(all_ids))]
        return self._source.sample(self._n, self._seed * 1_000_003 + step)

    def first(self, n_rows: int) -> Int[Tensor, "m pos"]:
        """The blocks of the first steps, with at least so many tokens."""
        found = [self.ids(0)]
        while sum(ids.numel() for ids in found) < n_rows:
            found.append(self.ids(len(found)))
        return torch.cat(found)

    def describe(self) -> dict[str, Any]:
        """A description that identifies these blocks."""
        described = self._source.describe() if isinstance(self._source, Tokens) else {}
        first = hashlib.sha256(self.ids(0).numpy().tobytes()).hexdigest()
        return described | {"first_batch": first}
