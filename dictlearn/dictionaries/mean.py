"""Mean: the estimate is the mean of the training rows. No features."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dictlearn.core.dictionary import Traits
from dictlearn.core.kinds import ClosedFormConfig
from dictlearn.core.sites import Sites
from dictlearn.dictionaries.closed_form import MomentsDictionary, MomentsLearner


class Mean(MomentsDictionary):
    """A bias only, with explained variance 0: the lower bound for other kinds."""

    traits = Traits(nonnegative=True, binary=True, max_active=0)
    _bias: Tensor

    def __init__(self, sites: Sites) -> None:
        super().__init__(sites, 0)
        self.register_buffer("_atoms", torch.zeros(0, sites.target.d))
        self.register_buffer("_bias", torch.zeros(sites.target.d))

    def _encode(self, z: Float[Tensor, "n d_in"]) -> Float[Tensor, "n feature"]:
        return z.new_zeros(z.shape[0], 0)

    def solve_(self, mean: Float[Tensor, " d"], covariance: Float[Tensor, "d d"]) -> None:
        """Keep the mean."""
        self._bias.copy_(mean)


@dataclass(frozen=True, kw_only=True)
class MeanConfig(ClosedFormConfig[Mean]):
    """The mean activation, whatever the input."""

    kind = "mean"
    baseline = True

    def _build(self, sites: Sites, seed: int) -> Mean:
        """A mean of zero at `sites`, until it is learned."""
        return Mean(sites)

    def learner(self, sites: Sites, *, seed: int) -> MomentsLearner:
        """A learner that averages."""
        return MomentsLearner(self.build(sites))

    @classmethod
    def tiny(cls) -> "MeanConfig":
        """The only instance."""
        return cls()
