"""Drawing tokens from logits."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dictlearn.core.errors import NonFiniteError


def next_tokens(
    logits: Float[Tensor, "b vocabulary"],
    temperature: float | int,
    top_p: float | int,
    generator: torch.Generator,
) -> Int[Tensor, " b"]:
    """Tokens drawn with probabilities `softmax(logits / temperature)`, cut to the nucleus.

    A temperature of 0 gives the most probable token, the first of equals. Otherwise the first of
    independent exponential clocks that run at the rates of the tokens wins, which it does with
    the probability of its token. Rounding of the logits hardly ever changes the winner; along a sum
    of probabilities, it would move every bound between tokens.

    Raises:
        NonFiniteError: logits are nan or plus infinity, or all are minus infinity.

    >>> next_tokens(torch.tensor([[0.0, 2.0, 1.0]]), 0.0, 1.0, torch.Generator())
    tensor([1])
    """
    most, token = logits.max(dim=-1)
    if not most.isfinite().all():
        row = int((~most.isfinite()).nonzero()[0, 0])
        raise NonFiniteError(
            f"required finite logits to draw a token from, got {most[row].item()} in sequence "
            f"{row}; check the model's weights and dtype, and the functions at its hooks"
        )
    if temperature == 0:
        return token
    # The difference first: a quotient by a small temperature overflows.
    scaled = (logits.double() - most.double().unsqueeze(-1)) / temperature
    rates = nucleus(scaled.softmax(dim=-1), top_p)
    return (rates / torch.empty_like(rates).exponential_(generator=generator)).argmax(dim=-1)


def nucleus(
    probabilities: Float[Tensor, "b vocabulary"], top_p: float | int
) -> Float[Tensor, "b vocabulary"]:
    """The probabilities of the fewest tokens that together have `top_p` of the mass; 0 elsewhere.

    Holtzman et al. (2020), section 3.1, without the renormalization.

    >>> nucleus(torch.tensor([[0.125, 0.5, 0.375]]), 0.5)
    tensor([[0.0000, 0.5000, 0.0000]])
    >>> nucleus(torch.tensor([[0.125, 0.5, 0.375]]), 0.6)
    tensor([[0.0000, 0.5000, 0.3750]])
    """
    if top_p == 1:
        return probabilities
    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
    mass_before = ordered.cumsum(dim=-1) - ordered
    return torch.zeros_like(probabilities).scatter(-1, order, ordered.where(mass_before < top_p, 0))
