"""A linear dictionary on raw activations: the common form of all libraries.

`scores = (x - centre) @ W_enc + b_enc`; a rule turns scores into coefficients; the estimate is
`acts @ W_dec + b_dec`, plus `x @ W_skip` where there is a skip. Libraries differ in which centre
they subtract and in which rules they know: a format states both, and what it holds follows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from dictlearn.dictionaries.linear import Rule


@dataclass(frozen=True)
class LinearWeights:
    """Encoder, decoder and rule, in raw activation units and float64."""

    W_enc: Float[Tensor, "d_in feature"]
    b_enc: Float[Tensor, " feature"]
    W_dec: Float[Tensor, "feature d_out"]
    b_dec: Float[Tensor, " d_out"]
    centre: Float[Tensor, " d_in"]
    rule: Rule
    """The rule; its parameters are in `learned`."""
    learned: Mapping[str, Tensor] = field(default_factory=dict)
    """`threshold` of JumpReLU (one a feature) and of batch top-k (one in all); `r_mag` and `offset`
    of gates, whose magnitudes are `exp(r_mag) * scores + offset`: so written, and not with the
    bias that files hold, they are the same for every centre."""
    W_skip: Float[Tensor, "d_in d_out"] | None = None
    prefixes: tuple[int, ...] = ()
    """Numbers of features in Matryoshka prefixes, without the full set."""

    def centred_at(self, centre: Float[Tensor, " d_in"]) -> "LinearWeights":
        """The same function with another centre: the bias takes up the difference."""
        return replace(self, centre=centre, b_enc=self.b_enc + (centre - self.centre) @ self.W_enc)

    def centred_at_b_dec(self) -> "LinearWeights":
        """The same function with the decoder's bias subtracted first, as autoencoders do."""
        return self.centred_at(self.b_dec)

    def uncentred(self) -> "LinearWeights":
        """The same function with nothing subtracted first, as transcoders do."""
        return self.centred_at(torch.zeros_like(self.centre))

    @property
    def b_mag(self) -> Float[Tensor, " feature"]:
        """The bias that magnitudes of gates have beside scores with the bias `b_enc`."""
        return self.learned["offset"] + self.learned["r_mag"].exp() * self.b_enc


def gates(
    r_mag: Float[Tensor, " feature"],
    b_mag: Float[Tensor, " feature"],
    b_enc: Float[Tensor, " feature"],
) -> dict[str, Tensor]:
    """`LinearWeights.learned` of magnitudes `exp(r_mag) * (scores - b_enc) + b_mag`."""
    return {"r_mag": r_mag, "offset": b_mag - r_mag.exp() * b_enc}
