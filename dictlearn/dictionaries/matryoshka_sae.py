"""Matryoshka sparse autoencoder: prefixes of the features reconstruct on their own.

Bussmann, Nabeshima, Karvonen and Nanda 2025, "Learning Multi-Level Features with Matryoshka
Sparse Autoencoders", section 3: batch top-k, with the squared errors of nested prefixes added.
"""

from dataclasses import dataclass
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import mse_loss

from dictlearn.core.learning import FitPass, Objective
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.dictionaries.batchtopk_sae import BatchTopKSAEConfig


@dataclass(frozen=True)
class PrefixErrors:
    """The terms of `objective`, and the squared error of each prefix of features alone."""

    objective: Objective
    widths: tuple[int, ...]
    """The numbers of features in the prefixes, without the full set."""

    def __call__(self, fit_pass: FitPass) -> dict[str, Tensor]:
        """The loss terms of one pass."""
        dictionary = fit_pass.dictionary
        terms, estimate = self.objective(fit_pass), dictionary._standardized_bias
        for start, stop in pairwise((0, *self.widths)):
            estimate = estimate + dictionary._write(_between(fit_pass.acts, start, stop))
            terms[f"prefix_{stop}"] = mse_loss(estimate, fit_pass.t)
        return terms


def _between(acts: Float[Tensor, "n feature"] | SparseActs, start: int, stop: int) -> SparseActs:
    """The coefficients of the features `start` to `stop`."""
    if not isinstance(acts, SparseActs):
        acts = SparseActs.from_dense(acts)
    return acts.where((acts.indices >= start) & (acts.indices < stop))


@dataclass(frozen=True, kw_only=True)
class MatryoshkaSAEConfig(BatchTopKSAEConfig):
    """A batch top-k autoencoder whose nested prefixes of features also reconstruct."""

    kind = "matryoshka_sae"
    prefixes: tuple[float, ...] = (1 / 32, 3 / 32, 7 / 32, 15 / 32)
    """Fraction of the features in each prefix; published increments double from one to the next."""

    def __post_init__(self) -> None:
        super().__post_init__()
        widths = (0, *self.widths, self.n_features)
        increasing = all(a < b for a, b in pairwise(widths))
        if self.prefixes == type(self).prefixes:
            self._require(
                increasing, "n_features",
                "at least 17 with the default prefixes; for fewer, set others, such as [0.25, 0.5]",
            )  # fmt: skip
        self._require(
            increasing, "prefixes",
            f"increasing fractions above 0 and below 1, with at least one feature of "
            f"{self.n_features} more each",
        )  # fmt: skip

    @property
    def widths(self) -> tuple[int, ...]:
        """The numbers of features in the prefixes."""
        return tuple(round(fraction * self.n_features) for fraction in self.prefixes)

    def objective(self) -> Objective:
        """The objective of batch top-k, and the error of each prefix."""
        return PrefixErrors(super().objective(), self.widths)
