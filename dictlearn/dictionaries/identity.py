"""Identity: the activation is its own code. The upper bound of every faithfulness metric."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dictlearn.core.dictionary import Traits
from dictlearn.core.kinds import ClosedFormConfig
from dictlearn.core.sites import Sites
from dictlearn.dictionaries.closed_form import MomentsDictionary, MomentsLearner


class Identity(MomentsDictionary):
    """One feature per dimension, with the dimension's own value as coefficient."""

    traits = Traits()

    def __init__(self, sites: Sites) -> None:
        super().__init__(sites, sites.target.d)
        self.register_buffer("_atoms", torch.eye(sites.target.d))

    def _encode(self, z: Float[Tensor, "n d_in"]) -> Float[Tensor, "n feature"]:
        return z

    def solve_(self, mean: Float[Tensor, " d"], covariance: Float[Tensor, "d d"]) -> None:
        """Nothing to learn."""


@dataclass(frozen=True, kw_only=True)
class IdentityConfig(ClosedFormConfig[Identity]):
    """The activation as its own code."""

    kind = "identity"
    baseline = True

    def _build(self, sites: Sites, seed: int) -> Identity:
        """The identity at `sites`."""
        return Identity(sites)

    def learner(self, sites: Sites, *, seed: int) -> MomentsLearner:
        """A learner that learns nothing."""
        return MomentsLearner(self.build(sites))

    @classmethod
    def tiny(cls) -> "IdentityConfig":
        """The only instance."""
        return cls()
