"""The sums of reconstruction and prediction quantities of every dictionary in an evaluation."""

from collections.abc import Collection, Hashable, Mapping
from types import MappingProxyType

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.massive import massive_rows
from dictlearn.core.sites import Site, Sites
from dictlearn.evaluation.faithfulness.ablations import ABLATIONS, Reference, donors
from dictlearn.evaluation.faithfulness.clean_passes import CleanBatch, CleanPasses
from dictlearn.evaluation.faithfulness.clean_targets import CleanTargets
from dictlearn.evaluation.faithfulness.estimate_sums import EstimateSums, named_targets
from dictlearn.evaluation.faithfulness.messages import Message, Usage
from dictlearn.evaluation.faithfulness.sequence_sums import SequenceSums
from dictlearn.metrics import rows as per_row
from dictlearn.metrics.bits import QUANTIZED, bit_metrics, in_order
from dictlearn.metrics.pooled import pooled_metrics
from dictlearn.metrics.predictions import compared
from dictlearn.progress import progress as progress_bar
from dictlearn.records.results import CLEAN_PASS, RUNNING_MODEL, DictionaryRecord


class DictionarySums:
    """The sums of every dictionary, filled batch by batch, and the records made of them.

    Quantities that depend on the target alone (its variance, the losses of the clean and of the
    ablated model) are summed once for each target, however many dictionaries write there.
    """

    def __init__(
        self,
        dictionaries: Mapping[str, FeatureDictionary],
        passes: CleanPasses,
        seed: int,
        ablations: Collection[str] = ABLATIONS,
    ) -> None:
        self._passes, self._ablations = passes, ablations
        n = len(passes.ids)
        self._donors = donors(n, seed)
        self._targets = CleanTargets(passes)
        self._n_vocab = passes.model.cfg.d_vocab
        self._target_sums = {site: SequenceSums(n) for site in passes.targets}
        self._estimates = {
            name: EstimateSums(name, d, named_targets(name, d.sites.target), passes)
            for name, d in dictionaries.items()
        }
        self.usage = {
            row: Usage(estimates.dictionary)
            for estimates in self._estimates.values()
            for row in estimates.targets
        }
        """The use of features, by row of results."""

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
        self, messages: Mapping[str, Message] = MappingProxyType({})
    ) -> dict[str, DictionaryRecord]:
        """The record of every dictionary; `messages` are those of their coefficients, if measured.

        Of a dictionary with several targets, a record of all together, and one of each, which is
        named "dictionary @ hook".
        """
        return {
            row: self._record(estimates, row, messages.get(row))
            for estimates in self._estimates.values()
            for row in estimates.targets
        }

    def _record(
        self, estimates: EstimateSums, row: str, message: Message | None
    ) -> DictionaryRecord:
        dictionary, target = estimates.dictionary, estimates.targets[row]
        sums = estimates.sums[row].plus(self._target_sums[target])
        totals = {key: values.sum() for key, values in sums.items()}
        used = self.usage[row]
        density = (used.firings / sums["rows"].sum())[estimates.writers[row].cpu()]
        cost = None if message is None else message.cost
        bits = bit_metrics(used.support_bits, len(density), dictionary.traits, cost)
        if dictionary.traits.binary:  # nothing to quantize, whether or not messages are measured
            sums |= {new: sums[name] for name, new in QUANTIZED.items()}
        if message is not None:
            sums |= message.sums
        whole = target == dictionary.sites.target
        running = whole and self._passes.runs(dictionary)
        return DictionaryRecord(
            kind=dictionary.kind,
            sites=dictionary.sites if whole else _sites_of(dictionary, target),
            n_features=len(density),
            estimates=RUNNING_MODEL if running else CLEAN_PASS,
            provenance=dictionary.provenance,
            metrics=in_order(pooled_metrics(totals, density) | bits),
            sums=sums,
            density=density.float(),
            baseline=dictionary.baseline,
        )

    def _measure_batch(self, batch: CleanBatch, references: Mapping[Site, Reference]) -> None:
        others = self._targets.activations_of(self._donors[batch.sequences.cpu()])
        spliced: dict[Hashable, Tensor] = {}
        typical: dict[Site, Tensor] = {}
        for site, reference in references.items():
            y = batch.rows_at(site)
            typical[site] = ~massive_rows(y, batch.row_sequences, site)
            self._add_target(site, y, typical[site], batch, reference)
            given = torch.cat([batch.counted_rows(others[hook]) for hook in site.hooks], dim=1)
            for name, rows in reference.ablations(y, given):
                if name in self._ablations:
                    spliced[site, name] = batch.spliced(site, rows)
        for estimates in self._estimates.values():
            acts = batch.encode(estimates.dictionary)
            for row, own in estimates.acts_of(acts).items():
                self.usage[row].add_(own, batch.row_sequences)
            spliced.update(estimates.add_(batch, acts, typical))
        self._add_predictions(batch, spliced)

    def _add_target(
        self,
        site: Site,
        y: Float[Tensor, "n d_out"],
        typical: Bool[Tensor, " n"],
        batch: CleanBatch,
        reference: Reference,
    ) -> None:
        """Add what depends on the target alone."""
        deviation = y.double() - reference.mean.to(y.device)
        variance = own = per_row.squared_norm(deviation)
        if not torch.equal(reference.mean, reference.typical_mean):
            own = per_row.squared_norm(y.double() - reference.typical_mean.to(y.device))
        self._target_sums[site].add_(
            batch.row_sequences,
            {
                "rows": torch.ones_like(y[:, 0]),
                "variance": variance,
                "norm": per_row.squared_norm(y).sqrt(),
                "typical_rows": typical.double(),
                "typical_variance": own.where(typical, 0.0),
            },
        )

    def _add_predictions(
        self, batch: CleanBatch, spliced: Mapping[Hashable, Float[Tensor, "m d_row"]]
    ) -> None:
        """Add the predictions of spliced models, keyed by dictionary or by target and ablation."""
        loss, found = compared(
            self._passes.splicer.logits, self._n_vocab, batch.clean.rows, spliced, batch.targets
        )
        for site, sums in self._target_sums.items():
            values = {"predictions": torch.ones_like(loss), "cross_entropy_clean": loss}
            not_measured = torch.full_like(loss, torch.nan)
            for name in ABLATIONS:
                ablated = found.get((site, name))
                values[f"cross_entropy_{name}"] = (
                    not_measured if ablated is None else ablated.cross_entropy
                )
            values["kl_zero"] = found[site, "zero"].kl
            sums.add_(batch.prediction_sequences, values)
        for estimates in self._estimates.values():
            for row in estimates.targets:
                estimates.add_predictions_(batch, row, found[row])


def _sites_of(dictionary: FeatureDictionary, target: Site) -> Sites:
    """One target, and the sources that its estimate depends on."""
    wanted, source = dictionary.sources_of(target.hook), dictionary.sites.source
    return Sites(Site.joined([part for part in source.parts if part.hook in wanted]), target)
