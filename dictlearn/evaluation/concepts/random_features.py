"""Untrained features, with which chance finds detectors as good as their number allows."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize, softplus

from dictlearn.core.dictionary import FeatureDictionary, Traits
from dictlearn.core.massive import massive
from dictlearn.core.sites import Sites
from dictlearn.core.sparse_acts import SparseActs


class RandomFeatures(FeatureDictionary):
    """The largest projections on random directions, as many for every row and group of features.

    Coefficients are positive, the softplus of projections, or binary, if the `traits` are; else
    the largest in size are kept with their sign. All groups read all dimensions.
    """

    def __init__(self, sites: Sites, n_features: int, *, k: int, traits: Traits, seed: int) -> None:
        super().__init__(sites, n_features)
        self.k, self.baseline = k, True
        self.traits = Traits(
            traits.nonnegative, traits.binary, k * traits.n_groups, traits.n_groups
        )
        generator = torch.Generator().manual_seed(seed)
        directions = torch.randn(n_features, sites.target.d, generator=generator)
        self.register_buffer("_atoms", normalize(directions, dim=1))

    @classmethod
    def like(
        cls,
        dictionary: FeatureDictionary,
        acts: SparseActs,
        x: Float[Tensor, "n d_in"],
        seed: int,
    ) -> "RandomFeatures":
        """Random features at the source of `dictionary`, of its width, groups and L0.

        The L0 is that of its coefficients `acts` of the rows `x`, rounded up to a whole number in
        every group. Rows are standardized as in training, by the mean of `x` and one scale per
        hook, without massive rows.
        """
        source, n_groups = dictionary.sites.source, dictionary.traits.n_groups
        l0 = acts.indices.numel() / max(len(acts), 1)
        k = min(max(math.ceil(l0 / n_groups), 1), dictionary.n_features // n_groups)
        made = cls(Sites(source, source), dictionary.n_features, k=k, traits=dictionary.traits,
                   seed=seed)  # fmt: skip
        within = x[~massive(x, source)]
        mean = within.mean(dim=0)
        variances = [part.square().mean() for part in source.split(within - mean)]
        scale = source.scale([v.sqrt() if v > 0 else torch.ones_like(v) for v in variances])
        made.standardize_(mean, scale, mean, scale)
        return made.to(dictionary.x_mean.device)

    def _encode(self, z: Float[Tensor, "n d_in"]) -> Float[Tensor, "n feature"]:
        return self._encode_sparse(z).to_dense()

    def _encode_sparse(self, z: Float[Tensor, "n d_in"]) -> SparseActs:
        scores = (z @ self._atoms.T).unflatten(1, (self.traits.n_groups, -1))
        sizes = scores if self.traits.nonnegative else scores.abs()
        chosen = sizes.topk(self.k, dim=2, sorted=False).indices
        values = scores.gather(2, chosen)
        if self.traits.binary:
            values = torch.ones_like(values)
        elif self.traits.nonnegative:
            values = softplus(values)  # in the same order, and active whatever the sign
        first = torch.arange(self.traits.n_groups, device=z.device) * scores.shape[2]
        chosen = chosen + first.unsqueeze(1)
        return SparseActs.from_top(values.flatten(1), chosen.flatten(1), self.n_features)
