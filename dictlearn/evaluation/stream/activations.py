"""Batches of activations, the rows that are evaluated, and the coefficients of those rows.

Every evaluation reads tokens in this way: sequences in batches, one forward pass a batch cut
short at the last hook that is needed, and the evaluated rows of each activation, checked to be
finite and encoded. *Evaluated* are the rows of non-special tokens, and with
`exclude_special=False` those of special tokens (BOS, EOS, padding) too (`Tokens.counted`).
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dictlearn.core.batches import require_finite
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.sites import Site
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.lm.attention import FusedAttention, fusable_attention
from dictlearn.lm.forward import reading
from dictlearn.lm.hooks import LanguageModel


@dataclass(frozen=True)
class ActivationBatch:
    """Activations of a batch of sequences at several hooks."""

    part: slice
    """Indices of the sequences among all that are read."""
    ids: Int[Tensor, "b pos"]
    counted: Bool[Tensor, "b pos"]
    """The positions of evaluated tokens."""
    at: Mapping[str, Float[Tensor, "b pos _"]]
    """By hook, head axes flattened."""

    @cached_property
    def index(self) -> Int[Tensor, " n"]:
        """The positions of the evaluated rows in the batch, one sequence after another."""
        return self.counted.flatten().nonzero()[:, 0]

    @property
    def row_sequences(self) -> Int[Tensor, " n"]:
        """The number of each counted row's sequence among those of the batch."""
        return self.index // self.counted.shape[1]

    def counted_rows(self, at: Float[Tensor, "b pos d"]) -> Float[Tensor, "n d"]:
        """The rows of `at` at evaluated positions."""
        return at.flatten(0, 1)[self.index.to(at.device)]

    def rows(self, hook: str) -> Float[Tensor, "n _"]:
        """The evaluated rows of the activation at `hook`, checked to be finite."""
        if hook not in self._rows:
            rows = self.counted_rows(self.at[hook])
            require_finite(rows, f"activations at {hook!r}, sequences from {self.part.start}")
            self._rows[hook] = rows
        return self._rows[hook]

    def rows_at(self, site: Site) -> Float[Tensor, "n d"]:
        """The evaluated rows at a site, the activations of several hooks side by side."""
        parts = [self.rows(hook) for hook in site.hooks]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def source_rows(self, dictionary: FeatureDictionary) -> Float[Tensor, "n d_in"]:
        """The evaluated rows that `dictionary` reads, on its device."""
        return self.rows_at(dictionary.sites.source).to(dictionary.x_mean.device)

    @torch.no_grad()
    def encode(self, dictionary: FeatureDictionary) -> SparseActs:
        """The coefficients of the evaluated rows, on the device of `dictionary`."""
        return dictionary.encode_sparse(self.source_rows(dictionary))

    @cached_property
    def _rows(self) -> dict[str, Tensor]:
        return {}


class ActivationStream:
    """Activations of `model` at `hooks` over all sequences, in batches, as often as asked for.

    Attention runs fused where it may (`FusedAttention`), in all modules unless some are given.
    """

    def __init__(
        self,
        model: LanguageModel,
        ids: Int[Tensor, "sequence pos"],
        counted: Bool[Tensor, "sequence pos"],
        hooks: Iterable[str],
        batch_size: int,
        attention: FusedAttention | None = None,
    ) -> None:
        self.ids, self.hooks = ids, list(dict.fromkeys(hooks))
        self._model, self._counted = model, counted
        self._attention = fusable_attention(model) if attention is None else attention
        n = len(ids)
        self.parts = [slice(i, min(i + batch_size, n)) for i in range(0, n, batch_size)]

    @contextmanager
    def batches(self) -> Iterator[Iterator[ActivationBatch]]:
        """A context with one pass over all sequences; the model is as before after the end."""
        with reading(self._model, self.hooks, self._attention) as read:
            yield (
                ActivationBatch(part, self.ids[part], self._counted[part], read(self.ids[part]))
                for part in self.parts
            )

    def activations_of(self, sequences: Int[Tensor, " b"]) -> dict[str, Float[Tensor, "b pos _"]]:
        """The activations of these sequences, in a pass of their own."""
        with reading(self._model, self.hooks, self._attention) as read:
            return read(self.ids[sequences.cpu()])


def on_cpu(acts: SparseActs) -> SparseActs:
    """The coefficients on the CPU."""
    offsets, indices, values = (t.cpu() for t in (acts.offsets, acts.indices, acts.values))
    return SparseActs(offsets, indices, values, acts.n_features)
