"""One evaluation under way: the passes over the tokens, and what is summed in each."""

from collections.abc import Collection, Hashable, Mapping
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor

from dictlearn.core.batches import require_finite
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.metric import Metric
from dictlearn.evaluation.faithfulness.ablations import ABLATIONS, Reference, donors
from dictlearn.evaluation.faithfulness.clean_passes import CleanBatch, CleanPasses
from dictlearn.evaluation.faithfulness.clean_targets import CleanTargets
from dictlearn.evaluation.faithfulness.sequence_sums import SequenceSums
from dictlearn.metrics import rows as per_row
from dictlearn.metrics.bits import bit_metrics, in_order
from dictlearn.metrics.pooled import pooled_metrics
from dictlearn.metrics.predictions import compared
from dictlearn.progress import progress as progress_bar
from dictlearn.records.results import DictionaryRecord


class DictionarySums:
    """Fills the sums of every dictionary, batch by batch.

    What depends on the target alone, the clean and the ablated model among it, is summed once a
    target, however many dictionaries write there.
    """

    def __init__(
        self,
        dictionaries: Mapping[str, FeatureDictionary],
        passes: CleanPasses,
        seed: int,
        ablations: Collection[str] = ABLATIONS,
    ) -> None:
        self._dictionaries, self._passes = dict(dictionaries), passes
        self._ablations = ablations
        n = len(passes.ids)
        self._donors = donors(n, seed)
        self._targets = CleanTargets(passes)
        self._n_vocab = passes.model.cfg.d_vocab
        self._of_target = {hook: SequenceSums(n) for hook in passes.targets}
        self._sums = {name: SequenceSums(n) for name in dictionaries}
        self._firings = {
            name: torch.zeros(d.n_features, dtype=torch.long) for name, d in dictionaries.items()
        }

    @torch.no_grad()
    def run(self, *, show: bool) -> None:
        """Fill the sums: a pass for the means, then the clean and the spliced passes.

        Raises:
            NonFiniteError: activations or an estimate hold NaN or infinity.
        """
        n = self._passes.n_batches
        with progress_bar("evaluating", 2 * n, show=show) as done:
            self._targets.read_(done)
            references = self._targets.references()
            with self._passes.batches() as batches:
                for i, batch in enumerate(batches):
                    self._measure_batch(batch, references)
                    done(n + i + 1)

    def records(
        self, coefficients: Mapping[str, Metric] = MappingProxyType({})
    ) -> dict[str, DictionaryRecord]:
        """The record of every dictionary; `coefficients` are their prices where measured."""
        return {
            name: self._record(name, d, coefficients.get(name))
            for name, d in self._dictionaries.items()
        }

    def _record(
        self, name: str, dictionary: FeatureDictionary, coefficients: Metric | None
    ) -> DictionaryRecord:
        sums = self._sums[name].plus(self._of_target[dictionary.sites.target.hook])
        n_rows = sums["rows"].sum()
        density = self._firings[name] / n_rows.clamp_min(1)
        prices = bit_metrics(density if n_rows else None, dictionary.traits, coefficients)
        totals = {key: values.sum() for key, values in sums.items()}
        return DictionaryRecord(
            kind=dictionary.kind,
            sites=dictionary.sites,
            n_features=dictionary.n_features,
            provenance=dictionary.provenance,
            metrics=in_order(pooled_metrics(totals, density) | prices),
            sums=sums,
            density=density.float(),
        )

    def _measure_batch(self, batch: CleanBatch, references: Mapping[str, Reference]) -> None:
        others = self._targets.activations_of(self._donors[batch.sequences.cpu()])
        spliced: dict[Hashable, Tensor] = {}
        for hook, reference in references.items():
            y = self._add_target(hook, batch, reference)
            for name, rows in reference.ablations(y, batch.counted_rows(others[hook])):
                if name in self._ablations:
                    spliced[hook, name] = batch.spliced(hook, rows)
        for name, dictionary in self._dictionaries.items():
            y_hat = self._add_reconstruction(name, dictionary, batch)
            spliced[name] = batch.spliced(dictionary.sites.target.hook, y_hat)
        self._add_predictions(batch, spliced)

    def _add_target(
        self, hook: str, batch: CleanBatch, reference: Reference
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
        self, name: str, dictionary: FeatureDictionary, batch: CleanBatch
    ) -> Float[Tensor, "n d_out"]:
        """Add what needs no language model; the estimate."""
        y = batch.rows(dictionary.sites.target.hook)
        acts = batch.encode(dictionary)
        y_hat = dictionary.estimate(batch.source_rows(dictionary), acts).to(y)
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
        self, batch: CleanBatch, spliced: Mapping[Hashable, Float[Tensor, "m d_row"]]
    ) -> None:
        """Add how the spliced models predict: by name of a dictionary, or target and ablation."""
        loss, found = compared(
            self._passes.splicer.logits, self._n_vocab, batch.clean.rows, spliced, batch.targets
        )
        for hook, sums in self._of_target.items():
            values = {"predictions": torch.ones_like(loss), "cross_entropy_clean": loss}
            not_measured = torch.full_like(loss, torch.nan)
            for name in ABLATIONS:
                ablated = found.get((hook, name))
                values[f"cross_entropy_{name}"] = (
                    not_measured if ablated is None else ablated.cross_entropy
                )
            values["kl_zero"] = found[hook, "zero"].kl
            sums.add_(batch.prediction_sequences, values)
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
