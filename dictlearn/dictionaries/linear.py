"""What kinds with a linear encoder and decoder share."""

from abc import ABC
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize

from dictlearn.core.learning import TrainableDictionary
from dictlearn.core.sites import Sites
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.kernels.decode import decode
from dictlearn.kernels.scores import differentiable_scores

LINEAR_AXES = {"W_dec": 0, "W_enc": 1, "b_enc": 0}
"""`feature_axes` of the parameters below, for kinds whose rule holds where features are divided."""
_INITIAL_SCORES = 1 << 26
"""Scores, of the first rows, that a start from data looks at: 256 MB where all are kept."""


class LinearDictionary(TrainableDictionary, ABC):
    """Scores `pre = z @ W_enc + b_enc`, estimate `acts @ W_dec + b_dec`, unit-norm `W_dec` rows.

    A kind adds how coefficients follow from scores. All features read random directions at the
    start; what they write, and how strongly, starts from data.
    """

    # The decoder's rows have length 1; those of the encoder start at about a third of that.
    rates: ClassVar = {"W_dec": 3.0}

    def __init__(self, sites: Sites, n_features: int, *, seed: int) -> None:
        super().__init__(sites, n_features)
        generator = torch.Generator().manual_seed(seed)
        d_in, d_out = sites.source.d, sites.target.d
        self.W_dec = nn.Parameter(random_directions(n_features, d_out, generator))
        # One feature after the other in memory, as the few that are active are read and learned.
        self.W_enc = nn.Parameter(self._initial_encoder(d_in, generator).T.contiguous().T)
        self.b_enc = nn.Parameter(torch.zeros(n_features))
        self.b_dec = nn.Parameter(torch.zeros(d_out))

    @property
    def _atoms(self) -> Float[Tensor, "feature d_out"]:
        return self.W_dec

    @property
    def _bias(self) -> Float[Tensor, " d_out"]:
        return self.b_dec

    def _initial_encoder(
        self, d_in: int, generator: torch.Generator
    ) -> Float[Tensor, "d_in feature"]:
        """Directions of their own: source and target are different spaces."""
        return random_directions(self.n_features, d_in, generator).T

    @property
    def _centre(self) -> Float[Tensor, " d_in"] | None:
        """What is subtracted from the input, if anything."""
        return None

    def _offset(self) -> Float[Tensor, " feature"]:
        """What is added to `z @ W_enc`: subtracting the centre is left for after the product."""
        if self._centre is None:
            return self.b_enc
        return self.b_enc - torch.mv(self.W_enc.T, self._centre)

    def _differentiable(self, z: Float[Tensor, "n d_in"], found: SparseActs) -> SparseActs:
        """The scores found, as a function of the encoder, at the cost of those alone."""
        return differentiable_scores(z, self.W_enc, self.b_enc, found, self._centre)

    def _pre(self, z: Float[Tensor, "n d_in"]) -> Float[Tensor, "n feature"]:
        return torch.addmm(self._offset(), z, self.W_enc)

    def scores_of(
        self, features: Int[Tensor, " m"], z: Float[Tensor, "n d_in"]
    ) -> Float[Tensor, "n m"]:
        """The scores of some features only, differentiable whatever `_train_encode` does."""
        return torch.addmm(self._offset()[features], z, self.W_enc.T[features].T)

    def _write(self, acts: Float[Tensor, "*b feature"] | SparseActs) -> Float[Tensor, "*b d_out"]:
        return decode(acts, self.W_dec) if isinstance(acts, SparseActs) else acts @ self.W_dec

    @torch.no_grad()
    def initialize_(self, z: Float[Tensor, "n d_in"], t: Float[Tensor, "n d_out"]) -> None:
        """Start with the strength at which the features, as they are, explain the first rows best.

        Directions of length one overshoot: many features share what they read. The steps that
        would be spent on unlearning that are saved, and Adam does not remember their gradients.
        """
        n = max(1, min(2048, _INITIAL_SCORES // self.n_features))
        z, t = z[:n], t[:n]
        acts = self._train_encode(z).acts
        self._initialize_decoder_(acts, t)
        y = self.shards.total(self._write(acts))
        best = (t * y).sum() / y.square().sum().clamp_min(1e-12)
        if best > 0:
            self.scale_encoder_(best)

    def _initialize_decoder_(
        self, acts: Float[Tensor, "n feature"] | SparseActs, t: Float[Tensor, "n d_out"]
    ) -> None:
        """A feature writes the direction of what the target is, on average, where it is active.

        That is `acts.T @ t`, got as a gradient, which sparse coefficients have already.
        """
        with torch.enable_grad():
            (written,) = torch.autograd.grad((self._write(acts) * t).sum(), self.W_dec)
        norms = torch.linalg.vector_norm(written, dim=1, keepdim=True)
        self.W_dec.copy_(torch.where(norms > 0, written / norms, self.W_dec))

    def scale_encoder_(self, factor: Float[Tensor, ""]) -> None:
        """Multiply all coefficients by `factor`, where `b_enc` is 0."""
        self.W_enc.mul_(factor)

    @torch.no_grad()
    def project_gradient_(self) -> None:
        """Remove from each decoder row's gradient what its unit norm would undo."""
        gradient = self.W_dec.grad
        if gradient is not None:
            along = torch.linalg.vecdot(gradient, self.W_dec)
            gradient.addcmul_(self.W_dec, along.unsqueeze(1), value=-1)

    @torch.no_grad()
    def project_(self) -> None:
        """Give each decoder row unit norm, in standardized units."""
        norms = torch.linalg.vector_norm(self.W_dec, dim=1, keepdim=True)
        self.W_dec.div_(norms.clamp_min_(1e-12))

    @torch.no_grad()
    def reseed_(
        self,
        features: Int[Tensor, " m"],
        z: Float[Tensor, "m d_in"],
        residual: Float[Tensor, "m d_out"],
    ) -> None:
        """Restart `features` on poorly explained rows (Bricken et al. 2023, "Neuron Resampling").

        The encoder takes the direction of the input with 0.2 of the mean encoder norm of the
        other features; the bias becomes 0; the decoder takes the unit direction that should be
        written there.
        """
        others = torch.ones(self.n_features, dtype=torch.bool, device=z.device)
        others[features] = False
        if self.shards.sum(others.sum()) == 0:
            others[:] = True
        norms = self.W_enc.norm(dim=0)[others]
        norm = 0.2 * self.shards.sum(norms.sum()) / self.shards.sum(others.sum())
        self.W_enc[:, features] = norm * normalize(z, dim=1).T
        self.b_enc[features] = 0.0
        self.W_dec[features] = self._reseeded_atoms(z, residual)

    def _reseeded_atoms(
        self, z: Float[Tensor, "m d_in"], residual: Float[Tensor, "m d_out"]
    ) -> Float[Tensor, "m d_out"]:
        return normalize(residual, dim=1)


class LinearAutoencoder(LinearDictionary, ABC):
    """A linear dictionary of one space: `b_dec` is subtracted before encoding as well.

    The encoder starts as the transpose of the decoder.
    """

    def _initial_encoder(
        self, d_in: int, generator: torch.Generator
    ) -> Float[Tensor, "d_in feature"]:
        return self.W_dec.detach().clone().T

    @property
    def _centre(self) -> Float[Tensor, " d_in"]:
        return self.shards.spread(self.b_dec)

    def _initialize_decoder_(
        self, acts: Float[Tensor, "n feature"] | SparseActs, t: Float[Tensor, "n d_out"]
    ) -> None:
        """The decoder stays as it is: what the encoder reads."""

    def _reseeded_atoms(
        self, z: Float[Tensor, "m d_in"], residual: Float[Tensor, "m d_out"]
    ) -> Float[Tensor, "m d_out"]:
        """The input itself, as published: source and target are one space."""
        return normalize(z, dim=1)


def random_directions(n: int, d: int, generator: torch.Generator) -> Float[Tensor, "{n} {d}"]:
    """`n` directions, uniform on the unit sphere in `d` dimensions."""
    return normalize(torch.randn(n, d, generator=generator), dim=1)
