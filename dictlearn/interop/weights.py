"""A linear dictionary on raw activations: what our kinds and other libraries' have in common.

`scores = (x - centre) @ W_enc + b_enc`; a rule turns scores into coefficients; the estimate is
`acts @ W_dec + b_dec`, plus `x @ W_skip` where there is a skip. Libraries differ in which centre
they subtract and in which rules they know: a format states both, and what it holds follows.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Positive:
    """`acts = relu(scores)`."""


@dataclass(frozen=True)
class Largest:
    """`acts` = the `k` largest scores of each row, those that are positive."""

    k: int


@dataclass(frozen=True)
class Above:
    """`acts = relu(scores)` where `scores > threshold`, one threshold for each feature."""

    threshold: Float[Tensor, " feature"]


@dataclass(frozen=True)
class AboveShared:
    """`acts = relu(scores)` where `scores > threshold`, for which about `k` features qualify."""

    k: int
    threshold: float


@dataclass(frozen=True)
class Gated:
    """`acts = relu(exp(r_mag) * scores + offset)` where `scores > 0`.

    Written so, and not with the bias that files hold, the rule is the same for every centre.
    """

    r_mag: Float[Tensor, " feature"]
    offset: Float[Tensor, " feature"]

    @classmethod
    def with_bias(
        cls,
        r_mag: Float[Tensor, " feature"],
        b_mag: Float[Tensor, " feature"],
        b_enc: Float[Tensor, " feature"],
    ) -> "Gated":
        """The rule whose magnitudes are `exp(r_mag) * (scores - b_enc) + b_mag`."""
        return cls(r_mag, b_mag - r_mag.exp() * b_enc)

    def b_mag(self, b_enc: Float[Tensor, " feature"]) -> Float[Tensor, " feature"]:
        """The bias that magnitudes have beside scores with the bias `b_enc`."""
        return self.offset + self.r_mag.exp() * b_enc


Rule = Positive | Largest | Above | AboveShared | Gated


@dataclass(frozen=True)
class LinearWeights:
    """Encoder, decoder and rule, in raw activation units and float64."""

    W_enc: Float[Tensor, "d_in feature"]
    b_enc: Float[Tensor, " feature"]
    W_dec: Float[Tensor, "feature d_out"]
    b_dec: Float[Tensor, " d_out"]
    centre: Float[Tensor, " d_in"]
    rule: Rule
    W_skip: Float[Tensor, "d_in d_out"] | None = None

    def centred_at(self, centre: Float[Tensor, " d_in"]) -> "LinearWeights":
        """The same function with another centre: the bias takes up the difference."""
        return replace(self, centre=centre, b_enc=self.b_enc + (centre - self.centre) @ self.W_enc)

    def centred_at_b_dec(self) -> "LinearWeights":
        """The same function with the decoder's bias subtracted first, as autoencoders do."""
        return self.centred_at(self.b_dec)

    def uncentred(self) -> "LinearWeights":
        """The same function with nothing subtracted first, as transcoders do."""
        return self.centred_at(torch.zeros_like(self.centre))
