"""The sums of reconstruction and prediction quantities of every dictionary in an evaluation."""

from collections.abc import Collection, Hashable, Mapping
from types import MappingProxyType

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dictlearn.core.batches import require_finite
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.massive import massive_rows
from dictlearn.core.metric import Metric
from dictlearn.core.sites import Site, Sites
from dictlearn.evaluation.faithfulness.ablations import ABLATIONS, Reference, donors
from dictlearn.evaluation.faithfulness.clean_passes import CleanBatch, CleanPasses
from dictlearn.evaluation.faithfulness.clean_targets import CleanTargets
from dictlearn.evaluation.faithfulness.sequence_sums import SequenceSums
from dictlearn.metrics import rows as per_row
from dictlearn.metrics.bits import bit_metrics, in_order
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
        self._dictionaries, self._passes = dict(dictionaries), passes
        self._ablations = ablations
        n = len(passes.ids)
        self._donors = donors(n, seed)
        self._targets = CleanTargets(passes)
        self._n_vocab = passes.model.cfg.d_vocab
        self._target_sums = {site: SequenceSums(n) for site in passes.targets}
        self._targets_of = {
            name: named_targets(name, d.sites.target) for name, d in dictionaries.items()
        }
        rows = [row for rows in self._targets_of.values() for row in rows]
        self._sums = {row: SequenceSums(n) for row in rows}
        self._writers = {
            row: _writers(dictionaries[name], site)
            for name, targets in self._targets_of.items()
            for row, site in targets.items()
        }
        self._firings = {
            row: torch.zeros(len(w), dtype=torch.long) for row, w in self._writers.items()
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
        """The record of every dictionary; `coefficients` is their cost in bits, if measured.

        Of a dictionary with several targets, a record of all together, and one of each, which is
        named "dictionary @ hook".
        """
        return {
            row: self._record(name, row, site, coefficients.get(name))
            for name, targets in self._targets_of.items()
            for row, site in targets.items()
        }

    def _record(
        self, name: str, row: str, target: Site, coefficients: Metric | None
    ) -> DictionaryRecord:
        dictionary = self._dictionaries[name]
        sums = self._sums[row].plus(self._target_sums[target])
        n_rows = sums["rows"].sum()
        density = (self._firings[row] / n_rows.clamp_min(1))[self._writers[row].cpu()]
        bits = bit_metrics(density if n_rows else None, dictionary.traits, coefficients)
        totals = {key: values.sum() for key, values in sums.items()}
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
        for name, dictionary in self._dictionaries.items():
            y_hat = self._estimate(name, dictionary, batch)
            estimates = _estimates(dictionary.sites.target, y_hat)
            for row, site in self._targets_of[name].items():
                if len(site.hooks) > 1 and self._passes.runs(dictionary):
                    spliced[row] = batch.running(dictionary)
                else:
                    spliced[row] = batch.spliced(site, estimates[site])
                y = batch.rows_at(site)
                self._add_error(row, y, estimates[site], typical[site], batch)
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

    def _estimate(
        self, name: str, dictionary: FeatureDictionary, batch: CleanBatch
    ) -> Float[Tensor, "n d_out"]:
        """The estimate from the clean pass; the coefficients of which it is made are counted."""
        acts = batch.encode(dictionary)
        y_hat = dictionary.estimate(batch.source_rows(dictionary), acts)
        require_finite(y_hat, f"the estimate of dictionary {name!r}")
        for row in self._targets_of[name]:
            writers = self._writers[row]
            own = acts if writers.all() else acts.where(writers[acts.indices])
            self._firings[row] += own.firing_counts().cpu()
            counts = {"l0": per_row.l0(own), "l1": per_row.l1(own)}
            self._sums[row].add_(batch.row_sequences, counts)
        return y_hat.to(batch.rows(dictionary.sites.target.hooks[0]))

    def _add_error(
        self,
        row: str,
        y: Float[Tensor, "n d"],
        y_hat: Float[Tensor, "n d"],
        typical: Bool[Tensor, " n"],
        batch: CleanBatch,
    ) -> None:
        """Add what needs no language model."""
        error = per_row.squared_error(y, y_hat)
        self._sums[row].add_(
            batch.row_sequences,
            {
                "squared_error": error,
                "typical_squared_error": error.where(typical, 0.0),
                "cosine": per_row.cosine_similarity(y, y_hat),
                "norm_hat": per_row.squared_norm(y_hat).sqrt(),
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


def named_targets(name: str, target: Site) -> dict[str, Site]:
    """The rows of results that a dictionary has: all its targets together, then each of several."""
    parts = target.parts if len(target.hooks) > 1 else ()
    return {name: target} | {f"{name} @ {part.hook}": part for part in parts}


def _writers(dictionary: FeatureDictionary, target: Site) -> Bool[Tensor, " feature"]:
    """The features of a dictionary that may write at one of its targets: all, except where atoms
    are zero there by construction (features of a cross-layer transcoder, in earlier layers)."""
    at = dictionary.sites.target
    if target == at:
        return torch.ones(dictionary.n_features, dtype=torch.bool, device=dictionary.x_mean.device)
    return at.split(dictionary.atoms)[at.hooks.index(target.hook)].any(dim=1)


def _sites_of(dictionary: FeatureDictionary, target: Site) -> Sites:
    """One target, and the sources that its estimate depends on."""
    wanted, source = dictionary.sources_of(target.hook), dictionary.sites.source
    return Sites(Site.joined([part for part in source.parts if part.hook in wanted]), target)


def _estimates(target: Site, y_hat: Float[Tensor, "n d"]) -> dict[Site, Float[Tensor, "n _"]]:
    return {target: y_hat} | dict(zip(target.parts, target.split(y_hat), strict=True))
