"""Weights of an MLP, from its input to its output."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import gelu, relu, silu

from dictlearn.core.errors import InputError, nearest

ACTIVATION_FUNCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        "gelu": gelu,
        "gelu_new": partial(gelu, approximate="tanh"),
        "relu": relu,
        "silu": silu,
    }
)
"""MLP activation functions by their names in TransformerLens."""


@dataclass(frozen=True)
class MLPWeights:
    """The exact map from an MLP's input to its output, for row vectors.

    `hidden(x) = act(x @ W_in + b_in)`, or `act(x @ W_gate) * (x @ W_in + b_in)` where the MLP
    is gated; the output is `hidden(x) @ W_out + b_out`.
    """

    W_in: Float[Tensor, "d_in hidden"]
    b_in: Float[Tensor, " hidden"]
    W_out: Float[Tensor, "hidden d_out"]
    b_out: Float[Tensor, " d_out"]
    act_name: str
    """A key of `ACTIVATION_FUNCTIONS`."""
    W_gate: Float[Tensor, "d_in hidden"] | None = None

    def __post_init__(self) -> None:
        if self.act_name not in ACTIVATION_FUNCTIONS:
            raise InputError(
                f"unknown activation function {self.act_name!r}; "
                f"{nearest(self.act_name, ACTIVATION_FUNCTIONS)}"
            )
        d_in, hidden, d_out = (t.shape[:1] for t in (self.W_in, self.b_in, self.b_out))
        gate = self.W_in if self.W_gate is None else self.W_gate
        given = [t.shape for t in (self.W_in, gate, self.b_in, self.W_out, self.b_out)]
        wanted = [d_in + hidden, d_in + hidden, hidden, hidden + d_out, d_out]
        if given != wanted or len(d_in + hidden + d_out) != 3:
            raise InputError(
                "the weights of an MLP must have shapes (d_in, hidden) (W_in, W_gate), (hidden), "
                f"(hidden, d_out) and (d_out), got {', '.join(str(tuple(s)) for s in given)}"
            )

    def hidden(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n hidden"]:
        """The hidden activations from which the output is a linear map."""
        act = ACTIVATION_FUNCTIONS[self.act_name]
        linear = x @ self.W_in + self.b_in
        return act(linear) if self.W_gate is None else act(x @ self.W_gate) * linear
