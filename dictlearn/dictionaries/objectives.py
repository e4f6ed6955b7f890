"""Loss terms shared by kinds, all in standardized units.

A standardized target has unit variance per dimension on average, so the squared error below is
close to the fraction of variance unexplained, and penalty weights are comparable between models
and layers of the same width. (With the width, the effect of a coefficient on the mean decreases.)
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import embedding_bag, mse_loss

from dictlearn.core.learning import FitPass
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.dictionaries.linear import LinearDictionary
from dictlearn.distributed.sharding import feature_group_of


def squared_error(fit_pass: FitPass) -> Float[Tensor, ""]:
    """Squared error of the estimate, averaged over rows and dimensions."""
    return mse_loss(fit_pass.t_hat, fit_pass.t)


def entries(acts: Float[Tensor, "n feature"] | SparseActs) -> Float[Tensor, "..."]:
    """The numbers that are kept: all of a matrix, and those of sparse coefficients."""
    return acts.values if isinstance(acts, SparseActs) else acts


@dataclass(frozen=True)
class SparsityL1:
    """Squared error + coefficient * sum of |acts|, averaged over rows (Bricken et al. 2023)."""

    coefficient: float

    def __call__(self, fit_pass: FitPass) -> dict[str, Tensor]:
        """The loss terms of one pass."""
        own = entries(fit_pass.acts)
        if not fit_pass.dictionary.traits.nonnegative:
            own = own.abs()  # its gradient is a matrix, while that of a sum broadcasts
        own = own.sum()
        total = feature_group_of(fit_pass.dictionary).all_reduce_forward(own)
        scale = self.coefficient * fit_pass.sparsity_scale
        return {
            "squared_error": squared_error(fit_pass),
            "sparsity": scale * total / len(fit_pass.t),
        }


@dataclass(frozen=True)
class AuxK:
    """Squared error + coefficient * the error of dead features in estimating the residual.

    The `k_aux` best-scoring dead features estimate the residual; their squared error is divided
    by the residual's own. Gao et al. 2024, "Scaling and evaluating sparse autoencoders",
    appendix A.2.
    """

    coefficient: float
    k_aux: int | None

    def __call__(self, fit_pass: FitPass) -> dict[str, Tensor]:
        """The loss terms of one pass."""
        terms = {"squared_error": squared_error(fit_pass)}
        if self.coefficient > 0:
            n_dead = int(feature_group_of(fit_pass.dictionary).all_reduce(fit_pass.dead.sum()))
            if n_dead > 0:
                terms["auxk"] = self.coefficient * self._dead_error(fit_pass, n_dead)
        return terms

    def _dead_error(self, fit_pass: FitPass, n_dead: int) -> Float[Tensor, ""]:
        dictionary = fit_pass.dictionary
        assert isinstance(dictionary, LinearDictionary)
        dead = fit_pass.dead.nonzero().squeeze(1)
        k_aux = self.k_aux or max(1, fit_pass.t.shape[1] // 2)
        k = min(k_aux, n_dead)
        # Scores are recomputed, since `pre` is not part of the graph where selection is sparse.
        scores = dictionary._scores(fit_pass.z, dead)
        values, chosen = scores.topk(min(k, len(dead)), dim=1, sorted=False)
        values = dictionary.feature_group.global_top_k(values, k)
        residual, atoms = fit_pass.residual.detach(), dictionary.W_dec
        weights, per_row = values.relu().to(atoms.dtype).flatten(), values.shape[1]
        starts = per_row * torch.arange(len(residual), device=residual.device)
        estimate = embedding_bag(
            dead[chosen].flatten(), atoms, starts, mode="sum", per_sample_weights=weights
        )
        estimate = dictionary.feature_group.all_reduce_forward(estimate)
        scale = dictionary.batch_group.all_reduce_mean(residual.pow(2).mean()).clamp_min(1e-12)
        return (residual - estimate).pow(2).mean() / scale
