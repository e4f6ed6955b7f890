"""One evaluation under way: the passes over the tokens, and what is summed in each."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dictlearn.core.batches import require_finite
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.records import DictionaryRecord
from dictlearn.evaluation.ablations import ABLATIONS, Reference, donors
from dictlearn.evaluation.sums import SequenceSums
from dictlearn.evaluation.targets import CleanTargets
from dictlearn.lm.hooks import LanguageModel
from dictlearn.lm.splicing import CleanPass, Splicer
from dictlearn.metrics import rows as per_row
from dictlearn.metrics.pooled import pooled_metrics
from dictlearn.metrics.predictions import compared
from dictlearn.progress import progress as progress_bar

_ON_CPU = (1 << 11, 1 << 23)
"""Tokens of a batch, and numbers in the rows of a pass (32 MB in float32), at most."""
_ELSEWHERE = (1 << 14, 1 << 28)


@dataclass(frozen=True)
class _Batch:
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


class Measuring:
    """Fills the sums of every dictionary, batch by batch.

    What depends on the target alone, the clean and the ablated model among it, is summed once a
    target, however many dictionaries write there.

    Raises:
        InputError: a hook does not exist, never fires, or has no vector for every token.
    """

    def __init__(
        self,
        dictionaries: Mapping[str, FeatureDictionary],
        model: LanguageModel,
        ids: Int[Tensor, "sequence pos"],
        counted: Bool[Tensor, "sequence pos"],
        seed: int,
    ) -> None:
        self._dictionaries = dict(dictionaries)
        self._ids, self._counted = ids, counted
        self._donors = donors(len(ids), seed)
        sites = [d.sites for d in dictionaries.values()]
        targets = list(dict.fromkeys(s.target.hook for s in sites))
        self._targets = CleanTargets(model, ids, counted, targets)
        self._splicer = Splicer(model, [hook for s in sites for hook in s.hooks], targets)
        self._n_vocab = model.cfg.d_vocab
        self._of_target = {hook: SequenceSums(len(ids)) for hook in targets}
        self._sums = {name: SequenceSums(len(ids)) for name in dictionaries}
        self._firings = {
            name: torch.zeros(d.n_features, dtype=torch.long) for name, d in dictionaries.items()
        }

    def default_batch_size(self) -> int:
        """As many sequences as keep a device busy, and less where rows are wide."""
        n_tokens, n_numbers = _ON_CPU if self._splicer.device.type == "cpu" else _ELSEWHERE
        return max(1, min(n_tokens, n_numbers // self._splicer.d_row) // self._ids.shape[1])

    @torch.no_grad()
    def run(self, batch_size: int, *, show: bool) -> None:
        """Fill the sums: a pass for the means, then the clean and the spliced passes.

        Raises:
            NonFiniteError: activations or an estimate hold NaN or infinity.
        """
        n = len(self._ids)
        parts = [slice(i, min(i + batch_size, n)) for i in range(0, n, batch_size)]
        with progress_bar("evaluating", 2 * len(parts), show=show) as done:
            for i, part in enumerate(parts):
                self._targets.read_(part)
                done(i + 1)
            references = self._targets.references()
            with self._splicer:
                for i, part in enumerate(parts):
                    self._measure_batch(part, references)
                    done(len(parts) + i + 1)

    def records(self) -> dict[str, DictionaryRecord]:
        """The record of every dictionary."""
        return {name: self._record(name, d) for name, d in self._dictionaries.items()}

    def _record(self, name: str, dictionary: FeatureDictionary) -> DictionaryRecord:
        sums = self._sums[name].plus(self._of_target[dictionary.sites.target.hook])
        density = (self._firings[name] / sums["rows"].sum().clamp_min(1)).float()
        return DictionaryRecord(
            kind=dictionary.config.kind if dictionary.config else type(dictionary).__name__,
            sites=dictionary.sites,
            n_features=dictionary.n_features,
            provenance=dictionary.provenance,
            metrics=pooled_metrics({key: values.sum() for key, values in sums.items()}, density),
            sums=sums,
            density=density,
        )

    def _measure_batch(self, part: slice, references: Mapping[str, Reference]) -> None:
        counted = self._counted[part]
        predicts = torch.zeros_like(counted)
        predicts[:, :-1] = counted[:, 1:]
        clean = self._splicer.clean(self._ids[part], predicts)
        device = clean.ids.device
        sequences = torch.arange(part.start, part.stop, device=device)
        batch = _Batch(self._splicer, clean, counted.to(device), sequences)
        others = self._targets.of(self._donors[part])
        spliced: dict[Hashable, Tensor] = {}
        for hook, reference in references.items():
            y = self._add_target(hook, batch, reference)
            for name, rows in reference.ablations(y, batch.counted_rows(others[hook])):
                spliced[hook, name] = batch.spliced(hook, rows)
        for name, dictionary in self._dictionaries.items():
            y_hat = self._add_reconstruction(name, dictionary, batch)
            spliced[name] = batch.spliced(dictionary.sites.target.hook, y_hat)
        self._add_predictions(batch, spliced)

    def _add_target(
        self, hook: str, batch: _Batch, reference: Reference
    ) -> Float[Tensor, "n d_out"]:
        """Add what depends on the target alone; its rows."""
        y = batch.rows(hook)
        deviation = y.double() - reference.mean.to(y.device)
        self._of_target[hook].add_(
            batch.row_sequences,
            {
                "rows": torch.ones_like(y[:, 0]),
                "variance": per_row.squared_norm(deviation),
                "norm": per_row.squared_norm(y).sqrt(),
            },
        )
        return y

    def _add_reconstruction(
        self, name: str, dictionary: FeatureDictionary, batch: _Batch
    ) -> Float[Tensor, "n d_out"]:
        """Add what needs no language model; the estimate."""
        y = batch.rows(dictionary.sites.target.hook)
        x = batch.rows(dictionary.sites.source.hook).to(dictionary.x_mean.device)
        acts = dictionary.encode_sparse(x)
        y_hat = dictionary.estimate(x, acts).to(y)
        require_finite(y_hat, f"the estimate of dictionary {name!r}")
        self._firings[name] += acts.firing_counts().cpu()
        self._sums[name].add_(
            batch.row_sequences,
            {
                "l0": per_row.l0(acts),
                "l1": per_row.l1(acts),
                "squared_error": per_row.squared_error(y, y_hat),
                "cosine": per_row.cosine_similarity(y, y_hat),
                "norm_hat": per_row.squared_norm(y_hat).sqrt(),
            },
        )
        return y_hat

    def _add_predictions(
        self, batch: _Batch, spliced: Mapping[Hashable, Float[Tensor, "m d_row"]]
    ) -> None:
        """Add how the spliced models predict: by name of a dictionary, or target and ablation."""
        loss, found = compared(
            self._splicer.logits, self._n_vocab, batch.clean.rows, spliced, batch.targets
        )
        for hook, sums in self._of_target.items():
            values = {"predictions": torch.ones_like(loss), "cross_entropy_clean": loss}
            ablated = {name: found[hook, name] for name in ABLATIONS}
            values |= {f"cross_entropy_{name}": a.cross_entropy for name, a in ablated.items()}
            sums.add_(batch.prediction_sequences, values | {"kl_zero": ablated["zero"].kl})
        for name, sums in self._sums.items():
            agreement = found[name]
            sums.add_(
                batch.prediction_sequences,
                {
                    "cross_entropy_spliced": agreement.cross_entropy,
                    "kl": agreement.kl,
                    "top1_agreement": agreement.top1_agreement,
                },
            )
