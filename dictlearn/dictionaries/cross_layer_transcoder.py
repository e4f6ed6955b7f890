"""Cross-layer transcoder: features read one MLP's input and write all later MLPs' outputs.

Ameisen et al. 2025, "Circuit Tracing: Revealing Computational Graphs in Language Models",
section 2.1; here with ReLU and an L1 penalty on unit-norm decoders.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize, pad

from dictlearn.core.dictionary import Traits
from dictlearn.core.errors import ConfigError
from dictlearn.core.kinds import GradientConfig
from dictlearn.core.learning import TrainableDictionary
from dictlearn.core.sites import Site, Sites
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.dictionaries.directions import (
    normalize_rows_,
    random_directions,
    remove_radial_gradient_,
)
from dictlearn.dictionaries.objectives import SparsityL1
from dictlearn.kernels.decode import decode

_LAYER = re.compile(r"blocks\.(\d+)\.")


class CrossLayerTranscoder(TrainableDictionary):
    """`acts = relu(z_layer @ W_enc + b_enc)` for the features of each layer.

    Feature `layer * n + i` is feature `i` of a layer. It writes to the targets of its layer and of
    all later ones, so `atoms` are block-triangular: `W_dec[layer]` holds the non-zero
    blocks, and the zero blocks are neither stored nor multiplied. Rows of `W_dec` have unit norm.
    """

    traits = Traits(nonnegative=True)

    def __init__(self, sites: Sites, *, n_features: int, seed: int) -> None:
        n_layers = len(sites.target.hooks)
        super().__init__(sites, n_layers * n_features)
        self.n_layers = n_layers
        generator = torch.Generator().manual_seed(seed)
        self._first = [sum(sites.target.widths[:layer]) for layer in range(n_layers)]
        self.W_enc = nn.ParameterList(
            random_directions(n_features, d, generator) for d in sites.source.widths
        )
        self.W_dec = nn.ParameterList(
            random_directions(n_features, sites.target.d - first, generator)
            for first in self._first
        )
        self.b_enc = nn.Parameter(torch.zeros(self.n_features))
        self.b_dec = nn.Parameter(torch.zeros(sites.target.d))

    def sources_of(self, target: str) -> tuple[str, ...]:
        """The hooks of the layers up to that of `target`."""
        return self.sites.source.hooks[: self.sites.target.hooks.index(target) + 1]

    @property
    def _atoms(self) -> Float[Tensor, "feature d_out"]:
        return torch.cat([pad(W, (self.sites.target.d - W.shape[1], 0)) for W in self.W_dec])

    @property
    def _bias(self) -> Float[Tensor, " d_out"]:
        return self.b_dec

    def _all_scores(self, z: Float[Tensor, "n d_in"]) -> Float[Tensor, "n feature"]:
        layers = zip(self.sites.source.split(z), self.W_enc, strict=True)
        return torch.cat([part @ W.T for part, W in layers], dim=1) + self.b_enc

    def _scores(
        self, z: Float[Tensor, "n d_in"], features: Int[Tensor, " m"]
    ) -> Float[Tensor, "n m"]:
        return self._all_scores(z)[:, features]

    def _encode(self, z: Float[Tensor, "n d_in"]) -> Float[Tensor, "n feature"]:
        return self._all_scores(z).relu()

    def _write(self, acts: Float[Tensor, "*b feature"] | SparseActs) -> Float[Tensor, "*b d_out"]:
        """The decoder product, with the non-zero blocks only."""
        d_out = self.sites.target.d
        written = [
            pad(decode(own, W), (d_out - W.shape[1], 0))
            for own, W in zip(self._by_layer(acts), self.W_dec, strict=True)
        ]
        return torch.stack(written).sum(dim=0)

    def _by_layer(
        self, acts: Float[Tensor, "*b feature"] | SparseActs
    ) -> Iterator[Float[Tensor, "*b _"] | SparseActs]:
        """The coefficients of each layer's features."""
        n = self.n_features // self.n_layers
        if not isinstance(acts, SparseActs):
            yield from acts.split(n, dim=-1)
            return
        for layer in range(self.n_layers):
            own = acts.where(acts.indices // n == layer)
            yield SparseActs(own.offsets, own.indices - layer * n, own.values, n)

    @torch.no_grad()
    def initialize_(self, z: Float[Tensor, "n d_in"], t: Float[Tensor, "n d_out"]) -> None:
        """Initialize decoder rows as the mean target where a feature is active, and scale the
        encoder to the best fit of the first rows (as in `LinearDictionary`).
        """
        acts = self._encode(z)
        for own, W, first in zip(self._by_layer(acts), self.W_dec, self._first, strict=True):
            assert isinstance(own, Tensor)
            written = own.T @ t[:, first:]
            active = written.norm(dim=1, keepdim=True) > 0
            W.copy_(torch.where(active, normalize(written, dim=1), W))
        y = self._write(acts)
        best = (t * y).sum() / y.square().sum().clamp_min(1e-12)
        if best > 0:
            for W in self.W_enc:
                W.mul_(best)

    @torch.no_grad()
    def project_gradient_(self) -> None:
        """Remove the radial component of each decoder row's gradient."""
        for W in self.W_dec:
            remove_radial_gradient_(W)

    @torch.no_grad()
    def project_(self) -> None:
        """Scale each decoder row to unit norm over all layers that it writes."""
        for W in self.W_dec:
            normalize_rows_(W)


@dataclass(frozen=True, kw_only=True)
class CrossLayerTranscoderConfig(GradientConfig[CrossLayerTranscoder]):
    """Features of every MLP's input, each of which writes that MLP's output and all later ones."""

    kind = "cross_layer_transcoder"
    n_features: int
    """Number of features in each layer."""
    l1_coefficient: float = 5e-3
    """Cost of one unit of coefficient, in standardized units; larger is sparser."""

    def __post_init__(self) -> None:
        self._require_count("n_features")
        self._require_not_negative("l1_coefficient")

    def sites(self, offered: Sites) -> Sites:
        """The sites as offered: a source and a target for each layer."""
        return offered

    def among(self, offered: Sequence[Sites]) -> Sites:
        """All pairs offered, sorted by layer where hooks name it."""
        found = [_LAYER.search(str(pair.target)) for pair in offered]
        order = [int(match[1]) if match else i for i, match in enumerate(found)]
        pairs = [pair for _, pair in sorted(zip(order, offered, strict=True), key=lambda p: p[0])]
        return Sites(
            Site.joined([pair.source for pair in pairs]),
            Site.joined([pair.target for pair in pairs]),
        )

    def _build(self, sites: Sites, seed: int) -> CrossLayerTranscoder:
        """A fresh transcoder at `sites`: in increasing layers, another source for each target."""
        n_sources, n_targets = len(sites.source.hooks), len(sites.target.hooks)
        if n_sources != n_targets:
            raise ConfigError(
                f"a cross-layer transcoder needs a source for each target (mlp_sites of several "
                f"layers), got {n_sources} and {n_targets} hooks"
            )
        layers: list[int] = []
        for source, target in zip(sites.source.hooks, sites.target.hooks, strict=True):
            found = [_LAYER.search(hook) for hook in (source, target)]
            numbers = {int(match[1]) for match in found if match}
            if source == target or len(numbers) > 1:
                raise ConfigError(
                    "a cross-layer transcoder needs the input and output of one MLP in each layer, "
                    f"got {source} -> {target}"
                )
            layers += numbers
        if any(later <= earlier for earlier, later in pairwise(layers)):
            raise ConfigError(
                "a cross-layer transcoder needs layers in increasing order, since features write "
                f"to later ones; got {layers}"
            )
        return CrossLayerTranscoder(sites, n_features=self.n_features, seed=seed)

    def objective(self) -> SparsityL1:
        """Squared error and L1."""
        return SparsityL1(self.l1_coefficient)

    @classmethod
    def tiny(cls) -> "CrossLayerTranscoderConfig":
        """The smallest useful instance."""
        return cls(n_features=32, l1_coefficient=1e-3)
