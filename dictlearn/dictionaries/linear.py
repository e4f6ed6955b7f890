"""Linear dictionaries: a linear encoder, a rule that selects, a linear decoder.

Every such kind, from a ReLU autoencoder to a top-k transcoder with a skip, is a `Rule`, an optional
centre (the decoder's bias, subtracted from the input: `centred`), and an optional linear map from
source to target (`linear_skip`).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize

from dictlearn.core.dictionary import Traits
from dictlearn.core.kinds import GradientConfig
from dictlearn.core.learning import Encoding, FitPass
from dictlearn.core.sites import Sites
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.dictionaries.directions import (
    normalize_rows_,
    random_directions,
    remove_radial_gradient_,
)
from dictlearn.dictionaries.selection import Searching
from dictlearn.distributed.dictionary import DistributedDictionary
from dictlearn.kernels.decode import decode
from dictlearn.kernels.relu import relu_estimate
from dictlearn.kernels.scores import differentiable_scores

_INITIAL_SCORES = 1 << 26
"""Maximum number of scores computed for the initialization from data: 256 MB if dense."""


class Rule(ABC):
    """The map from scores to coefficients, in evaluation and in training.

    A rule is immutable: the parameters that it adds belong to the dictionary.
    """

    feature_axes: ClassVar[Mapping[str, int]] = {}
    """The feature axis of each parameter that the rule adds."""
    keeps_scale: ClassVar[bool] = False
    """Whether initialization must not rescale scores, because thresholds are absolute."""
    is_homogeneous: ClassVar[bool] = False
    """Whether a factor on one feature's score does nothing but multiply its coefficient."""

    @property
    def traits(self) -> Traits:
        """Promises about the coefficients."""
        return Traits(nonnegative=True)

    def tensors(self, n_features: int) -> dict[str, Tensor]:
        """The parameters (`nn.Parameter`) and buffers that the rule adds, initialized."""
        return {}

    @abstractmethod
    def coefficients(
        self, dictionary: "LinearDictionary", scores: Float[Tensor, "n feature"]
    ) -> Float[Tensor, "n feature"]:
        """The coefficients that follow from `scores`, row by row."""

    def encode_sparse(
        self, dictionary: "LinearDictionary", z: Float[Tensor, "n d_in"]
    ) -> SparseActs:
        """The coefficients of `z`; override it only to be faster."""
        return SparseActs.from_dense(self.coefficients(dictionary, dictionary.all_scores(z)))

    def train_encode(self, dictionary: "LinearDictionary", z: Float[Tensor, "n d_in"]) -> Encoding:
        """The encoding in training; override it to be faster, or where a rule couples rows."""
        scores = dictionary.all_scores(z)
        return Encoding(self.coefficients(dictionary, scores), scores)

    def observe_(self, dictionary: "LinearDictionary", fit_pass: FitPass) -> None:  # noqa: B027
        """Update the rule's running statistics from a training pass."""


class LinearDictionary(Searching, DistributedDictionary):
    """Scores `(z - centre) @ W_enc + b_enc`; estimate `acts @ W_dec + b_dec + z @ W_skip`.

    Rows of `W_dec` have unit norm. If `centred`, the centre is `b_dec`, and the encoder starts as
    the transpose of the decoder. Otherwise there is no centre, the encoder starts with random
    directions, and the decoder is initialized from data. The scale is always fitted to data.
    """

    # Decoder rows have norm 1; encoder rows start at about a third of that.
    rates: ClassVar = {"W_dec": 3.0}

    def __init__(
        self, sites: Sites, n_features: int, rule: Rule, *,
        centred: bool, linear_skip: bool = False, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(sites, n_features)
        self.rule, self.centred = rule, centred
        self.traits = rule.traits
        self.feature_axes = {"W_dec": 0, "W_enc": 1, "b_enc": 0, **rule.feature_axes}
        generator = torch.Generator().manual_seed(seed)
        d_in, d_out = sites.source.d, sites.target.d
        self.W_dec = nn.Parameter(random_directions(n_features, d_out, generator))
        encoder = self.W_dec.detach() if centred else random_directions(n_features, d_in, generator)
        # Contiguous by feature in memory, since only the few active ones are read and updated.
        self.W_enc = nn.Parameter(encoder.clone().T)
        self.b_enc = nn.Parameter(torch.zeros(n_features))
        self.b_dec = nn.Parameter(torch.zeros(d_out))
        for name, tensor in rule.tensors(n_features).items():
            if isinstance(tensor, nn.Parameter):
                self.register_parameter(name, tensor)
            else:
                self.register_buffer(name, tensor)
        self.W_skip = nn.Parameter(torch.zeros(d_in, d_out)) if linear_skip else None

    @property
    def _atoms(self) -> Float[Tensor, "feature d_out"]:
        return self.W_dec

    @property
    def _bias(self) -> Float[Tensor, " d_out"]:
        return self.b_dec

    @property
    def _centre(self) -> Float[Tensor, " d_in"] | None:
        """The vector subtracted from the input, if any."""
        return self.feature_group.all_reduce_backward(self.b_dec) if self.centred else None

    def offset(self) -> Float[Tensor, " feature"]:
        """The constant in `z @ W_enc + offset`: the centre is subtracted after the product."""
        centre = self._centre
        return self.b_enc if centre is None else self.b_enc - torch.mv(self.W_enc.T, centre)

    def differentiable(self, z: Float[Tensor, "n d_in"], found: SparseActs) -> SparseActs:
        """The scores found, differentiable in encoder and `z`, at the cost of these entries."""
        return differentiable_scores(z, self.W_enc, self.b_enc, found, self._centre)

    def relu_estimate(
        self, z: Float[Tensor, "n d_in"]
    ) -> tuple[Float[Tensor, "n feature"], Float[Tensor, "n d_out"]]:
        """The positive scores, with zeros elsewhere, and what they write, in little memory."""
        return relu_estimate(z, self.W_enc, self.b_enc, self._centre, self.W_dec)

    def all_scores(self, z: Float[Tensor, "n d_in"]) -> Float[Tensor, "n feature"]:
        """The scores of all features."""
        return torch.addmm(self.offset(), z, self.W_enc)

    def _scores(
        self, z: Float[Tensor, "n d_in"], features: Int[Tensor, " m"]
    ) -> Float[Tensor, "n m"]:
        return torch.addmm(self.offset()[features], z, self.W_enc.T[features].T)

    def _encode(self, z: Float[Tensor, "n d_in"]) -> Float[Tensor, "n feature"]:
        return self.rule.coefficients(self, self.all_scores(z))

    def _encode_sparse(self, z: Float[Tensor, "n d_in"]) -> SparseActs:
        return self.rule.encode_sparse(self, z)

    def _train_encode(self, z: Float[Tensor, "n d_in"]) -> Encoding:
        return self.rule.train_encode(self, z)

    def _write(self, acts: Float[Tensor, "*b feature"] | SparseActs) -> Float[Tensor, "*b d_out"]:
        return decode(acts, self.W_dec)

    def _skip(self, z: Float[Tensor, "n d_in"]) -> Float[Tensor, "n d_out"] | None:
        return None if self.W_skip is None else z @ self.W_skip

    @torch.no_grad()
    def initialize_(self, z: Float[Tensor, "n d_in"], t: Float[Tensor, "n d_out"]) -> None:
        """Scale the encoder to the best fit of the first rows.

        Unit-norm directions overshoot, since many features read the same directions. Scaling saves
        the steps to unlearn that, and keeps their large gradients out of Adam's moments.
        """
        n = max(1, min(2048, _INITIAL_SCORES // self.n_features))
        z, t = z[:n], t[:n]
        acts = self._train_encode(z).acts
        if not self.centred:
            self._initialize_decoder_(acts, t)
        y = self.feature_group.all_reduce_forward(self._write(acts))
        best = (t * y).sum() / y.square().sum().clamp_min(1e-12)
        if best > 0 and not self.rule.keeps_scale:
            self.W_enc.mul_(best)

    def _initialize_decoder_(
        self, acts: Float[Tensor, "n feature"] | SparseActs, t: Float[Tensor, "n d_out"]
    ) -> None:
        """Initialize each decoder row as the direction of the mean target where it is active.

        This is `acts.T @ t`, computed as a gradient, which works for sparse coefficients.
        """
        with torch.enable_grad():
            (written,) = torch.autograd.grad((self._write(acts) * t).sum(), self.W_dec)
        norms = torch.linalg.vector_norm(written, dim=1, keepdim=True)
        self.W_dec.copy_(torch.where(norms > 0, written / norms, self.W_dec))

    def observe_(self, fit_pass: FitPass) -> None:
        self.rule.observe_(self, fit_pass)

    @torch.no_grad()
    def project_gradient_(self) -> None:
        """Remove the radial component of each decoder row's gradient."""
        remove_radial_gradient_(self.W_dec)

    @torch.no_grad()
    def project_(self) -> None:
        """Scale each decoder row to unit norm, in standardized units."""
        normalize_rows_(self.W_dec)

    @torch.no_grad()
    def constrain_(self) -> None:
        """Give decoder rows unit norm: the scale takes a common factor, so that coefficients and
        estimates stay; where the rule allows it, the encoder takes each feature's own factor.
        """
        norms = torch.linalg.vector_norm(self.W_dec, dim=1)
        live = norms[norms > 0]
        if torch.allclose(live, torch.ones_like(live)):
            return
        common = live.square().mean().sqrt()
        for tensor in (self.W_dec, self.b_dec, self.W_skip):
            if tensor is not None:
                tensor.div_(common)
        self.y_scale.mul_(common)
        if self.centred:  # both sides have one scale
            self.x_scale.mul_(common)
            self.W_enc.mul_(common)
        if self.rule.is_homogeneous:
            own = torch.where(norms > 0, norms / common, 1.0)
            self.W_dec.div_(own.unsqueeze(1))
            self.W_enc.mul_(own)
            self.b_enc.mul_(own)

    @torch.no_grad()
    def reseed_(
        self,
        features: Int[Tensor, " m"],
        z: Float[Tensor, "m d_in"],
        residual: Float[Tensor, "m d_out"],
    ) -> None:
        """Resample `features` on poorly explained rows (Bricken et al. 2023, "Neuron Resampling").

        The encoder takes the direction of the input with 0.2 of the mean encoder norm of the
        other features; the bias becomes 0; the decoder takes the unit direction of the input, as
        published, for autoencoders, and of the residual for transcoders.
        """
        total = self.feature_group.all_reduce
        others = torch.ones(self.n_features, dtype=torch.bool, device=z.device)
        others[features] = False
        if total(others.sum()) == 0:
            others[:] = True
        norms = self.W_enc.norm(dim=0)[others]
        norm = 0.2 * total(norms.sum()) / total(others.sum())
        self.W_enc[:, features] = norm * normalize(z, dim=1).T
        self.b_enc[features] = 0.0
        self.W_dec[features] = normalize(z if self.centred else residual, dim=1)


@dataclass(frozen=True, kw_only=True)
class LinearConfig(GradientConfig[LinearDictionary], ABC):
    """An autoencoder with a linear encoder and decoder, centred at the decoder's bias."""

    n_features: int
    """Number of features."""

    def __post_init__(self) -> None:
        self._require_count("n_features")

    @abstractmethod
    def rule(self) -> Rule:
        """The rule that gives coefficients."""

    def _build(self, sites: Sites, seed: int) -> LinearDictionary:
        return LinearDictionary(sites, self.n_features, self.rule(), centred=True, seed=seed)


@dataclass(frozen=True, kw_only=True)
class TranscoderFields(LinearConfig, ABC):
    """Fields that make a transcoder of an autoencoder's config, placed before it as a base."""

    linear_skip: bool = False
    """Whether a linear map from source to target is added to the features' estimate."""

    def sites(self, offered: Sites) -> Sites:
        """The sites as offered; source and target may differ."""
        return offered

    def _build(self, sites: Sites, seed: int) -> LinearDictionary:
        return LinearDictionary(
            sites, self.n_features, self.rule(), centred=False, linear_skip=self.linear_skip,
            seed=seed,
        )  # fmt: skip

    @classmethod
    def tiny(cls) -> Any:
        """The smallest useful instance of the autoencoder, with a skip."""
        autoencoder: Any = super().tiny()
        return replace(autoencoder, linear_skip=True)
