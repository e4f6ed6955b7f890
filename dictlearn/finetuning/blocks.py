"""Blocks of tokens to train on, a pure function of seed and step."""

import hashlib
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from dictlearn.activations.shuffle import shuffled_positions
from dictlearn.core.errors import InputError, naming
from dictlearn.core.tokens import Tokens
from dictlearn.lm.hooks import LanguageModel
from dictlearn.lm.sites import require_readable


@runtime_checkable
class Sampler(Protocol):
    """A source of fresh blocks, such as `synthetic.tokfsm.TokFSM`."""

    def sample(self, n: int, seed: int) -> Int[Tensor, "n pos"]:
        """`n` blocks of 2 tokens or more (torch.long), the same for the same arguments."""


class Blocks:
    """The batches of a run: those of tokens in a shuffled order, or fresh ones at every step."""

    def __init__(self, source: Tokens | Sampler, model: LanguageModel, n: int, seed: int) -> None:
        if not isinstance(source, Tokens | Sampler):
            raise InputError(
                "required Tokens, as load_tokens(source, model) returns, or an object with "
                f"sample(n, seed), got {type(source).__name__}"
            )
        if isinstance(source, Tokens):
            _require_predictable(model, source)
        self._source, self._model, self._n, self._seed = source, model, n, seed

    def ids(self, step: int) -> Int[Tensor, "n pos"]:
        """The blocks of a step.

        Raises:
            InputError: the source gave other blocks than so many that the model can read.
        """
        if isinstance(self._source, Tokens):
            all_ids = self._source.ids
            return all_ids[shuffled_positions(self._seed, step * self._n, self._n, len(all_ids))]
        with naming(f"{type(self._source).__name__}.sample(n, seed)"):
            return self._sampled(self._source.sample(self._n, self._seed * 1_000_003 + step))

    def _sampled(self, ids: Tensor) -> Int[Tensor, "n pos"]:
        if not isinstance(ids, Tensor) or ids.shape[:1] != (self._n,):
            got = tuple(ids.shape) if isinstance(ids, Tensor) else type(ids).__name__
            raise InputError(f"required a tensor of n={self._n} blocks of token ids, got {got}")
        tokens = Tokens(ids.cpu(), torch.ones(ids.shape, dtype=torch.bool), "sample", "train", "")
        _require_predictable(self._model, tokens)
        return tokens.ids

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


def _require_predictable(model: LanguageModel, tokens: Tokens) -> None:
    """Raise an `InputError` unless `model` can read the tokens, and has some to predict."""
    require_readable(model, tokens)
    if tokens.ids.shape[1] < 2:
        raise InputError(
            "required blocks of at least 2 tokens, the second to be predicted from the first, got "
            f"ids of shape {tuple(tokens.ids.shape)}"
        )
