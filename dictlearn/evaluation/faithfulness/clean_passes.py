"""Clean forward passes over the tokens, and spliced passes that start from them."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.sites import Site
from dictlearn.evaluation.stream.activations import ActivationBatch, ActivationStream
from dictlearn.lm.forward import firing_order
from dictlearn.lm.hooks import LanguageModel
from dictlearn.lm.in_place import InPlace, functions_of, too_late
from dictlearn.lm.splicing import CleanPass, Splicer
from dictlearn.lm.trials import splicer_with_shortcuts

_ON_CPU = (1 << 11, 1 << 23)
"""Most tokens in a batch, and most numbers in its unembedding inputs (32 MB in float32)."""
_ELSEWHERE = (1 << 14, 1 << 28)


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
        """The tokens to predict."""
        return self.clean.ids[:, 1:][self.counted[:, 1:]]

    @cached_property
    def row_sequences(self) -> Int[Tensor, " n"]:
        """The sequence of each evaluated row."""
        return self.sequences[self.index // self.counted.shape[1]]

    @cached_property
    def prediction_sequences(self) -> Int[Tensor, " m"]:
        """The sequence of each evaluated prediction."""
        return self.sequences[self.clean.index // self.counted.shape[1]]

    def spliced(self, site: Site, rows: Float[Tensor, "n d"]) -> Float[Tensor, "m d_row"]:
        """Unembedding inputs of the evaluated predictions, with `rows` spliced in at `site`."""
        replacements = {
            hook: self._with_rows(self.at[hook], part)
            for hook, part in zip(site.hooks, site.split(rows), strict=True)
        }
        return self.splicer.spliced(self.clean, replacements, self.counted)

    def running(self, dictionaries: Iterable[FeatureDictionary]) -> Float[Tensor, "m d_row"]:
        """The same with every target of all `dictionaries` replaced by its estimate from that pass.

        A target's estimate is made from the sources as they are when it is reached: they see the
        replacements that came before. Sources that come later do not matter to it.
        """
        placed = [InPlace(d.sites, partial(self._estimated, d)) for d in dictionaries]
        return self.splicer.patched(self.clean, functions_of(placed, self.splicer.model))

    def _estimated(
        self,
        dictionary: FeatureDictionary,
        x: Float[Tensor, "b pos d_in"],
        y: Float[Tensor, "b pos d_out"],
        positions: Int[Tensor, "b pos"],
    ) -> Float[Tensor, "b pos d_out"]:
        rows = self.counted_rows(x).to(dictionary.x_mean.device)
        return self._with_rows(y, dictionary.estimate(rows, dictionary.encode_sparse(rows)))

    def _with_rows(
        self, y: Float[Tensor, "b pos d"], rows: Float[Tensor, "n d"]
    ) -> Float[Tensor, "b pos d"]:
        return y.flatten(0, 1).index_copy(0, self.index, rows.to(y)).view_as(y)


class CleanPasses:
    """Clean passes of `model` over all sequences, as often as asked for.

    Every batch has the activations that the dictionaries read, and an estimate can be spliced in
    where they write: at all hooks of a target, or at each. The hooks, and that a target replaced by
    itself changes nothing, are checked first (`splicer_with_shortcuts`).
    """

    def __init__(
        self,
        model: LanguageModel,
        ids: Int[Tensor, "sequence pos"],
        counted: Bool[Tensor, "sequence pos"],
        dictionaries: Iterable[FeatureDictionary],
        batch_size: int | None = None,
    ) -> None:
        dictionaries = list(dictionaries)
        self.model, self.ids, self.counted = model, ids, counted
        sites = [d.sites for d in dictionaries]
        self.targets = list(dict.fromkeys(t for s in sites for t in (s.target, *s.target.parts)))
        hooks = list(dict.fromkeys(hook for s in sites for hook in s.hooks))
        order = firing_order(model, ids[:1, :2], hooks)
        self._runs = {
            d.sites
            for d in dictionaries
            if len(d.sites.target.hooks) > 1 and too_late(d, order) is None
        }
        patched = [site.hooks for site in self.targets]
        patched += [s.hooks for s in sites if s in self._runs]
        self.splicer = splicer_with_shortcuts(model, hooks, patched, ids)
        attention = self.splicer.shortcuts.attention
        batch_size = batch_size or self._default_batch_size()
        written = [hook for site in self.targets for hook in site.hooks]
        self.stream = ActivationStream(model, ids, counted, written, batch_size, attention)
        """The same batches at the targets, in forward passes that are cut short there."""

    def runs(self, dictionary: FeatureDictionary) -> bool:
        """Whether estimates can be made in the spliced pass itself (`CleanBatch.running`).

        So where a dictionary writes at several hooks, each after everything that it depends on.
        """
        return dictionary.sites in self._runs

    @property
    def n_batches(self) -> int:
        """Number of batches of one pass over all sequences."""
        return len(self.stream.parts)

    def _default_batch_size(self) -> int:
        """Some two or sixteen thousand tokens, and fewer where rows are wide."""
        n_tokens, n_numbers = _ON_CPU if self.splicer.device.type == "cpu" else _ELSEWHERE
        return max(1, min(n_tokens, n_numbers // self.splicer.d_row) // self.ids.shape[1])

    @contextmanager
    def batches(self) -> Iterator[Iterator[CleanBatch]]:
        """A context with the clean pass over each batch, from which spliced passes can start."""
        with self.splicer:
            yield map(self._clean_batch, self.stream.parts)

    def _clean_batch(self, part: slice) -> CleanBatch:
        counted = self.counted[part]
        predicts = torch.zeros_like(counted)
        predicts[:, :-1] = counted[:, 1:]
        clean = self.splicer.clean(self.ids[part], predicts)
        counted = counted.to(clean.ids.device)
        return CleanBatch(part, clean.ids, counted, clean.at, self.splicer, clean)
