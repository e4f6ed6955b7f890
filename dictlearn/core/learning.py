"""Training interface: a differentiable pass, an objective, a learner."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dictlearn.core.batches import Batch
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.sparse_acts import SparseActs


class Encoding(NamedTuple):
    """Coefficients, and the scores that they were selected from."""

    acts: Float[Tensor, "n feature"] | SparseActs
    """Dense where most features fire or any of them may; sparse where few do. An entry may be 0,
    where an inactive feature has a gradient all the same."""
    pre: Float[Tensor, "n feature"] | SparseActs | None = None
    """The features' scores before selection, for objectives that need them; sparse where these
    need no others."""
    written: Float[Tensor, "n d_out"] | None = None
    """The estimate without its bias, where it is computed with the coefficients to save memory."""


_COUNTED = 1 << 18
"""Coefficients in a tile of rows whose active features are counted at once."""


@dataclass(frozen=True)
class FitPass:
    """One differentiable pass over a batch, in standardized units: the input of an objective."""

    dictionary: "TrainableDictionary"
    z: Float[Tensor, "n d_in"]
    t: Float[Tensor, "n d_out"]
    """The standardized target; `t is z` for an autoencoder."""
    acts: Float[Tensor, "n feature"] | SparseActs
    pre: Float[Tensor, "n feature"] | SparseActs | None
    t_hat: Float[Tensor, "n d_out"]
    dead: Bool[Tensor, " feature"]
    """Features that have not fired for a while, counted by the learner."""
    sparsity_scale: float
    """Warm-up factor in [0, 1] for sparsity coefficients."""

    @cached_property
    def residual(self) -> Float[Tensor, "n d_out"]:
        """The target minus the estimate."""
        return self.t - self.t_hat

    @property
    def y_hat(self) -> Float[Tensor, "n d_out"]:
        """The estimate in raw units."""
        return self.dictionary.y_scale * self.t_hat + self.dictionary.y_mean

    def firing_counts(self) -> Int[Tensor, " feature"]:
        """The number of rows of the batch in which each feature is active."""
        if isinstance(self.acts, SparseActs):
            fired = self.acts.indices[self.acts.values != 0]
            return torch.bincount(fired, minlength=self.acts.n_features)
        # A sum converts what it adds to 64 bits: in a few rows at a time, twice their own size.
        n_features = self.acts.shape[1]
        counts = torch.zeros(n_features, dtype=torch.long, device=self.acts.device)
        for rows in self.acts.detach().split(max(1, _COUNTED // n_features)):
            counts += (rows != 0).sum(dim=0)
        return counts


Objective = Callable[[FitPass], dict[str, Tensor]]
"""Maps a pass to named loss terms; their sum is minimised."""


class TrainableDictionary(FeatureDictionary, ABC):
    """A dictionary that learns by gradient descent."""

    rates: ClassVar[Mapping[str, float]] = {}
    """Learning rates by parameter name, as multiples of the run's; 1 by default."""

    def _train_encode(self, z: Float[Tensor, "n d_in"]) -> Encoding:
        """The encoding during training; override it where a rule couples tokens."""
        return Encoding(self._encode(z))

    def _completed(self, written: Float[Tensor, "n d_out"]) -> Float[Tensor, "n d_out"]:
        """The sum over all processes of the features' estimates (`distributed.dictionary`)."""
        return written

    @final
    def standardized(
        self, batch: Batch
    ) -> tuple[Float[Tensor, "n d_in"], Float[Tensor, "n d_out"]]:
        """`batch` in standardized units: source and target, one tensor for an autoencoder."""
        z = self._standardized(batch.x)
        t = z if batch.y is batch.x else (batch.y.to(z.dtype) - self.y_mean) / self.y_scale
        return z, t

    def _approximated(self, t: Float[Tensor, "n d_out"]) -> Float[Tensor, "n d_out"]:
        """The tensor to approximate, given the standardized target: the target, by default."""
        return t

    @final
    def fit_pass(
        self,
        batch: Batch,
        *,
        dead: Bool[Tensor, " feature"] | None = None,
        sparsity_scale: float = 1.0,
    ) -> FitPass:
        """One differentiable pass over `batch`, which is in raw units."""
        z, t = self.standardized(batch)
        acts, pre, written = self._train_encode(z)
        written = self._write(acts) if written is None else written
        t_hat = self._completed(written.to(z.dtype)) + self._standardized_bias
        linear = self._skip(z)
        if linear is not None:
            t_hat = t_hat + linear
        if dead is None:
            dead = torch.zeros(self.n_features, dtype=torch.bool, device=z.device)
        return FitPass(self, z, self._approximated(t), acts, pre, t_hat, dead, sparsity_scale)

    def initialize_(self, z: Float[Tensor, "n d_in"], t: Float[Tensor, "n d_out"]) -> None:
        """Set parameters that start from data, given the first standardized rows."""

    @torch.no_grad()
    def project_gradient_(self) -> None:
        """Remove the part of the gradient that a constraint would undo."""

    @torch.no_grad()
    def project_(self) -> None:
        """Restore constraints on parameters after a step."""

    @torch.no_grad()
    def constrain_(self) -> None:
        """Satisfy constraints as far as no estimate changes, given weights from elsewhere."""

    @torch.no_grad()
    def observe_(self, fit_pass: FitPass) -> None:
        """Update running statistics (a threshold, say) from a training pass."""

    @torch.no_grad()
    def reseed_(
        self,
        features: Int[Tensor, " m"],
        z: Float[Tensor, "m d_in"],
        residual: Float[Tensor, "m d_out"],
    ) -> None:
        """Re-initialize `features`, each on one row of `z` and its residual."""
        raise NotImplementedError(f"{type(self).__name__} has no way to reseed features")


class Learner(ABC):
    """Turns a stream of batches into a dictionary. One loop drives every learner."""

    dictionary: FeatureDictionary
    shares_batch: bool = False
    """Whether each process learns from its own rows of a batch."""

    def learned(self) -> dict[str, Tensor]:
        """The tensors that are learned, and that processes have to begin with alike."""
        return self.dictionary.state_dict()

    @abstractmethod
    def update(self, batch: Any) -> dict[str, Tensor]:
        """Learn from one batch; the scalars to log, left on the device until they are read."""

    @abstractmethod
    def finish(self) -> Any:
        """The result: a dictionary, or all dictionaries of the learner by name."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """The state to save in a checkpoint, as named tensors."""

    @abstractmethod
    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore the result of `state`, bit-identically."""
