"""Where in a language model a dictionary reads and writes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

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
"""The MLP non-linearities known by name, as TransformerLens spells them."""


@dataclass(frozen=True)
class Site:
    """One hook point and the width of the activation there (head axes flattened)."""

    hook: str
    d: int

    def __post_init__(self) -> None:
        if self.d < 1:
            raise InputError(f"a site needs a width of at least 1, got {self.d} at {self.hook!r}")


@dataclass(frozen=True)
class MLPWeights:
    """The exact map from an MLP's input to its output, in the row-vector convention.

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

    def hidden(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n hidden"]:
        """The hidden activations from which the output is a linear map."""
        act = ACTIVATION_FUNCTIONS[self.act_name]
        linear = x @ self.W_in + self.b_in
        return act(linear) if self.W_gate is None else act(x @ self.W_gate) * linear


@dataclass(frozen=True)
class Sites:
    """What a dictionary reads (`source`) and what it writes (`target`).

    Equal for an autoencoder, different for a transcoder. `mlp` carries the weights between the
    two where they are an MLP's input and output; it is not part of equality or of files.
    """

    source: Site
    target: Site
    mlp: MLPWeights | None = field(default=None, compare=False, repr=False)

    @property
    def is_autoencoder(self) -> bool:
        """Whether source and target are one site."""
        return self.source == self.target

    @property
    def hooks(self) -> tuple[str, ...]:
        """The distinct hook names, source first."""
        return tuple(dict.fromkeys((self.source.hook, self.target.hook)))

    def at_target(self) -> "Sites":
        """The sites of an autoencoder that replaces the same tensor."""
        return Sites(self.target, self.target)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, read back by `from_dict`."""
        return {
            "source": {"hook": self.source.hook, "d": self.source.d},
            "target": {"hook": self.target.hook, "d": self.target.d},
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Sites":
        """The sites that `to_dict` wrote."""
        return cls(Site(**data["source"]), Site(**data["target"]))

    def __str__(self) -> str:
        if self.is_autoencoder:
            return self.target.hook
        return f"{self.source.hook} -> {self.target.hook}"
