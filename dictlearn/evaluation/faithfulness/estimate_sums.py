"""The sums of reconstruction and prediction quantities of one dictionary, at its targets."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dictlearn.core.batches import require_finite
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.sites import Site
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.evaluation.faithfulness.clean_passes import CleanBatch, CleanPasses
from dictlearn.evaluation.faithfulness.sequence_sums import SequenceSums
from dictlearn.metrics import rows as per_row
from dictlearn.metrics.predictions import Agreement


class EstimateSums:
    """The sums of a dictionary's estimates at several of its targets, filled batch by batch.

    `targets` are the rows of results to fill: all targets together, single ones, or both. `name`
    is that of the dictionary in errors.
    """

    def __init__(
        self,
        name: str,
        dictionary: FeatureDictionary,
        targets: Mapping[str, Site],
        passes: CleanPasses,
    ) -> None:
        self.dictionary, self.targets = dictionary, dict(targets)
        self._name, self._runs = name, passes.runs(dictionary)
        self.writers = {row: _writers(dictionary, site) for row, site in targets.items()}
        self.sums = {row: SequenceSums(len(passes.ids)) for row in targets}

    def acts_of(self, acts: SparseActs) -> dict[str, SparseActs]:
        """The coefficients of the features that may write at each row's target."""
        return {
            row: acts if own.all() else acts.where(own[acts.indices])
            for row, own in self.writers.items()
        }

    def add_(
        self, batch: CleanBatch, acts: SparseActs, typical: Mapping[Site, Bool[Tensor, " n"]]
    ) -> dict[str, Float[Tensor, "m d_row"]]:
        """Add the errors of the estimate made of `acts`; returns the unembedding inputs with it
        spliced in, for each row.

        Raises:
            NonFiniteError: the estimate holds NaN or infinity.
        """
        y_hat = self.dictionary.estimate(batch.source_rows(self.dictionary), acts)
        require_finite(y_hat, f"the estimate of dictionary {self._name!r}")
        whole = self.dictionary.sites.target
        y_hat = y_hat.to(batch.rows(whole.hooks[0]))
        parts = dict(zip(whole.parts, whole.split(y_hat), strict=True)) | {whole: y_hat}
        for row, own in self.acts_of(acts).items():
            site = self.targets[row]
            self._add_error(row, batch.rows_at(site), parts[site], typical[site], batch)
            counts = {"l0": per_row.l0(own), "l1": per_row.l1(own)}
            self.sums[row].add_(batch.row_sequences, counts)
        return {row: self._spliced(batch, site, parts[site]) for row, site in self.targets.items()}

    def _spliced(
        self, batch: CleanBatch, site: Site, y_hat: Float[Tensor, "n d"]
    ) -> Float[Tensor, "m d_row"]:
        if len(site.hooks) > 1 and self._runs:
            return batch.running([self.dictionary])
        return batch.spliced(site, y_hat)

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
        self.sums[row].add_(
            batch.row_sequences,
            {
                "squared_error": error,
                "typical_squared_error": error.where(typical, 0.0),
                "cosine": per_row.cosine_similarity(y, y_hat),
                "norm_hat": per_row.squared_norm(y_hat).sqrt(),
            },
        )

    def add_predictions_(self, batch: CleanBatch, row: str, agreement: Agreement) -> None:
        """Add the predictions of the model with the estimate of `row` spliced in."""
        self.sums[row].add_(
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
