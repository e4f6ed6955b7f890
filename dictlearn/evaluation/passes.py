"""Clean passes over the tokens, and the splices that start from each."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dictlearn.core.sites import Sites
from dictlearn.lm.forward import Read, reading
from dictlearn.lm.hooks import LanguageModel
from dictlearn.lm.splicing import CleanPass, Splicer
from dictlearn.lm.trials import splicer_with_shortcuts

_ON_CPU = (1 << 11, 1 << 23)
"""Tokens of a batch, and numbers in the rows of a pass (32 MB in float32), at most."""
_ELSEWHERE = (1 << 14, 1 << 28)
_TRIED = (1 << 11, 1 << 27)
"""Tokens of the first batch on which shortcuts are tried, and numbers in their logits, at most."""


@dataclass(frozen=True)
class CleanBatch:
    """Some sequences, after the clean pass: which positions count, and what the model did."""

    splicer: Splicer
    clean: CleanPass
    counted: Bool[Tensor, "b pos"]
    sequences: Int[Tensor, " b"]
    _rows: dict[str, Tensor] = field(default_factory=dict)

    @cached_property
    def targets(self) -> Int[Tensor, " m"]:
        """The next tokens that are counted."""
        return self.clean.ids[:, 1:][self.counted[:, 1:]]

    @cached_property
    def index(self) -> Int[Tensor, " n"]:
        """The counted positions, along one sequence after another."""
        return self.counted.flatten().nonzero()[:, 0]

    @cached_property
    def row_sequences(self) -> Int[Tensor, " n"]:
        """The sequence of each counted row."""
        return self.sequences[self.index // self.counted.shape[1]]

    @cached_property
    def prediction_sequences(self) -> Int[Tensor, " m"]:
        """The sequence of each counted prediction."""
        return self.sequences[self.clean.index // self.counted.shape[1]]

    def rows(self, hook: str) -> Float[Tensor, "n _"]:
        """The activations at counted positions."""
        if hook not in self._rows:
            self._rows[hook] = self.counted_rows(self.clean.at[hook])
        return self._rows[hook]

    def counted_rows(self, at: Float[Tensor, "b pos d"]) -> Float[Tensor, "n d"]:
        """The rows of `at` at counted positions."""
        return at.flatten(0, 1)[self.index]

    def spliced(self, hook: str, rows: Float[Tensor, "n d"]) -> Float[Tensor, "m d_row"]:
        """What gives the counted predictions with `rows` at the counted positions of `hook`."""
        clean = self.clean.at[hook]
        replacement = clean.flatten(0, 1).index_copy(0, self.index, rows.to(clean))
        return self.splicer.spliced(self.clean, hook, replacement.view_as(clean), self.counted)


class Passes:
    """Clean passes of `model` over all sequences, as often as asked for.

    Sites are those of the dictionaries: what they read is kept in every batch, and where they
    write an estimate can be spliced in.

    Raises:
        InputError: a hook does not exist, never fires, or has no vector for every token; or a
            target replaced by itself changes the predictions.
    """

    def __init__(
        self,
        model: LanguageModel,
        ids: Int[Tensor, "sequence pos"],
        counted: Bool[Tensor, "sequence pos"],
        sites: Iterable[Sites],
    ) -> None:
        sites = list(sites)
        self.model, self.ids, self.counted = model, ids, counted
        self.targets = list(dict.fromkeys(s.target.hook for s in sites))
        hooks = [hook for s in sites for hook in s.hooks]
        tried = ids[: max(1, min(_TRIED[0], _TRIED[1] // model.cfg.d_vocab) // ids.shape[1])]
        self.splicer = splicer_with_shortcuts(model, hooks, self.targets, tried)

    def parts(self, batch_size: int | None = None) -> list[slice]:
        """The sequences in batches of so many, or of as many as keep a device busy."""
        n, size = len(self.ids), batch_size or self._default_batch_size()
        return [slice(i, min(i + size, n)) for i in range(0, n, size)]

    def _default_batch_size(self) -> int:
        """Some two or sixteen thousand tokens, and fewer where rows are wide."""
        n_tokens, n_numbers = _ON_CPU if self.splicer.device.type == "cpu" else _ELSEWHERE
        return max(1, min(n_tokens, n_numbers // self.splicer.d_row) // self.ids.shape[1])

    def reading_targets(self) -> AbstractContextManager[Read]:
        """Within, a function of ids that gives the clean activations at the targets."""
        return reading(self.model, self.targets, self.splicer.shortcuts.attention)

    def batches(self, parts: Iterable[slice]) -> Iterator[CleanBatch]:
        """The clean pass over each of `parts`; splices start from it while it is at hand."""
        with self.splicer:
            for part in parts:
                counted = self.counted[part]
                predicts = torch.zeros_like(counted)
                predicts[:, :-1] = counted[:, 1:]
                clean = self.splicer.clean(self.ids[part], predicts)
                device = clean.ids.device
                sequences = torch.arange(part.start, part.stop, device=device)
                yield CleanBatch(self.splicer, clean, counted.to(device), sequences)
