"""Clean passes over the tokens, and the splices that start from each."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dictlearn.core.sites import Sites
from dictlearn.evaluation.stream.activations import ActivationBatch, ActivationStream
from dictlearn.lm.hooks import LanguageModel
from dictlearn.lm.splicing import CleanPass, Splicer
from dictlearn.lm.trials import splicer_with_shortcuts

_ON_CPU = (1 << 11, 1 << 23)
"""Tokens of a batch, and numbers in the rows of a pass (32 MB in float32), at most."""
_ELSEWHERE = (1 << 14, 1 << 28)
_TRIED = (1 << 11, 1 << 27)
"""Tokens of the first batch on which shortcuts are tried, and numbers in their logits, at most."""


@dataclass(frozen=True)
class CleanBatch(ActivationBatch):
    """A batch of sequences after the clean pass, from which spliced passes start."""

    splicer: Splicer
    clean: CleanPass

    @cached_property
    def sequences(self) -> Int[Tensor, " b"]:
        """The index of each sequence."""
        return torch.arange(self.part.start, self.part.stop, device=self.ids.device)

    @cached_property
    def targets(self) -> Int[Tensor, " m"]:
        """The next tokens that are counted."""
        return self.clean.ids[:, 1:][self.counted[:, 1:]]

    @cached_property
    def row_sequences(self) -> Int[Tensor, " n"]:
        """The sequence of each counted row."""
        return self.sequences[self.index // self.counted.shape[1]]

    @cached_property
    def prediction_sequences(self) -> Int[Tensor, " m"]:
        """The sequence of each counted prediction."""
        return self.sequences[self.clean.index // self.counted.shape[1]]

    def spliced(self, hook: str, rows: Float[Tensor, "n d"]) -> Float[Tensor, "m d_row"]:
        """Unembedding inputs of the counted predictions, with `rows` spliced in at `hook`."""
        clean = self.at[hook]
        replacement = clean.flatten(0, 1).index_copy(0, self.index, rows.to(clean))
        return self.splicer.spliced(self.clean, hook, replacement.view_as(clean), self.counted)


class CleanPasses:
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
        batch_size: int | None = None,
    ) -> None:
        sites = list(sites)
        self.model, self.ids, self.counted = model, ids, counted
        self.targets = list(dict.fromkeys(s.target.hook for s in sites))
        hooks = [hook for s in sites for hook in s.hooks]
        tried = ids[: max(1, min(_TRIED[0], _TRIED[1] // model.cfg.d_vocab) // ids.shape[1])]
        self.splicer = splicer_with_shortcuts(model, hooks, self.targets, tried)
        attention = self.splicer.shortcuts.attention
        batch_size = batch_size or self._default_batch_size()
        self.stream = ActivationStream(model, ids, counted, batch_size, attention)
        """The same batches of sequences, read at hooks in passes that are cut short."""

    @property
    def n_batches(self) -> int:
        """Batches of one pass over all sequences."""
        return len(self.stream.parts)

    def _default_batch_size(self) -> int:
        """Some two or sixteen thousand tokens, and fewer where rows are wide."""
        n_tokens, n_numbers = _ON_CPU if self.splicer.device.type == "cpu" else _ELSEWHERE
        return max(1, min(n_tokens, n_numbers // self.splicer.d_row) // self.ids.shape[1])

    @contextmanager
    def batches(self) -> Iterator[Iterator[CleanBatch]]:
        """Within, the clean pass over each batch; splices start from it while it is at hand."""
        with self.splicer:
            yield map(self._clean_batch, self.stream.parts)

    def _clean_batch(self, part: slice) -> CleanBatch:
        counted = self.counted[part]
        predicts = torch.zeros_like(counted)
        predicts[:, :-1] = counted[:, 1:]
        clean = self.splicer.clean(self.ids[part], predicts)
        counted = counted.to(clean.ids.device)
        return CleanBatch(part, clean.ids, counted, clean.at, self.splicer, clean)
