"""The cost of coefficients in bits per token: of which features are active, and of their values.

One code of 10,000 and one real-valued feature both have L0 1, and cost different numbers of bits.
Bits put them on one axis: the expected length of a message from which a decoder that has the
dictionary, the densities and the frequencies of levels reads the coefficients. The tables that
the decoder has are not counted.
"""

import math
from collections.abc import Mapping

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from dictlearn.core.dictionary import Traits
from dictlearn.core.errors import InputError
from dictlearn.core.metric import Metric
from dictlearn.metrics.pooled import METRICS, NO_ROWS, MetricSpec

BITS: tuple[MetricSpec, ...] = (
    MetricSpec(
        name="support_bits", label="support bits", unit="bits per token", better="lower",
        description="Bits per token that say which features are active.",
    ),
    MetricSpec(
        name="code_bits", label="code bits", unit="bits per token", better="lower",
        description="Bits per token of codes that are written as numbers.",
    ),
    MetricSpec(
        name="coefficient_bits", label="coefficient bits", unit="bits per token", better="lower",
        description="Bits per token of the coefficients, at the coarsest steps that keep 99 % of "
        "the loss recovered.",
    ),
    MetricSpec(
        name="bits", label="bits", unit="bits per token", better="lower",
        description="Bits per token: support and coefficients together.",
    ),
)  # fmt: skip
"""The costs in bits, in the order of tables."""

REPORTED: tuple[MetricSpec, ...] = (*METRICS[:2], *BITS, *METRICS[2:])
"""Every reported metric, in the order of tables: L0 and bits first, then quality."""

NOT_MEASURED = "measured only with bits=True"
NOT_CODES = "its features are not codes, so there is no number to write"


def entropy(counts: Float[Tensor, " symbol"] | Int[Tensor, " symbol"]) -> float:
    """The entropy in bits of symbols with frequencies in proportion to `counts`; 0 without any.

    `-sum_i q_i log2 q_i` with `q = counts / sum(counts)`. From 0 to log2 of the symbols.

    >>> entropy(torch.tensor([2, 1, 1, 0]))
    1.5
    """
    total = counts.sum()
    if not total > 0:
        return 0.0
    q = counts.double() / total
    return -(torch.xlogy(q, q).sum() / math.log(2)).item() + 0.0


def support_bits(density: Float[Tensor, " feature"]) -> float:
    """The bits per token that say which features are active, with features coded independently.

    `sum_j h(p_j)`, `h(p) = -p log2 p - (1 - p) log2(1 - p)`, with `p` the density of a feature:
    the length of an ideal code for independent features. It is valid for every dictionary, and
    an upper bound where features depend on one another. At least 0; lower is better.

    >>> support_bits(torch.tensor([0.5, 0.5, 1.0, 0.0]))
    2.0
    """
    p = density.double()
    silent = 1 - p
    nats = -torch.xlogy(p, p) - torch.xlogy(silent, silent)
    return (nats.sum() / math.log(2)).item()


def code_bits(n_codes: int, k: int, n_groups: int) -> float:
    """The bits per token of codes that are written as numbers: `n_groups * k * log2(n_codes)`.

    The fixed rate of a codebook, without any statistics. 0 where nothing is chosen.

    >>> code_bits(n_codes=1024, k=2, n_groups=3)
    60.0
    """
    return n_groups * k * math.log2(n_codes) if k and n_codes else 0.0


def code_entropy(density: Float[Tensor, " feature"], k: int, n_groups: int) -> float:
    """The bits per token that say which k codes are chosen in each group.

    `sum over groups of k H(q) - log2 k!`, with `q = density / k` in a group: k draws from `q`,
    less their order, which carries nothing. A set of distinct codes that is drawn so has
    probability `k! prod q_i`, so this is the length of a code that can be read back (the
    multinomial bound), and for k = 1 exactly the entropy of the codes.

    Where rows choose fewer than k codes, an additional symbol stands for each code not chosen, and
    only the part `sum(density) / k` of `log2 k!` is subtracted: the saving is concave in the
    number chosen, so the cost is never understated. At least 0; where all rows choose k, at most
    `code_bits`.

    Raises:
        InputError: the groups do not divide the features.

    >>> code_entropy(torch.tensor([0.5, 0.5, 1.0, 0.0]), k=1, n_groups=2)
    1.0
    """
    if density.numel() % n_groups:
        raise InputError(f"required groups of equal length, got {density.numel()} features in "
                         f"{n_groups} groups")  # fmt: skip
    if not k or not density.numel():
        return 0.0
    bits = 0.0
    for p in rearrange(density.double(), "(group code) -> group code", group=n_groups):
        chosen = p.sum()
        filler = (k - chosen).clamp_min(0).view(1)
        share = min(chosen.item() / k, 1.0)
        bits += k * entropy(torch.cat([p, filler])) - share * math.log2(math.factorial(k))
    return max(bits, 0.0)


def coefficient_bits(l0: float, level_counts: Int[Tensor, " level"]) -> float:
    """The bits per token of quantised coefficients: `l0 * H(levels)`.

    `level_counts` is the number of active coefficients with each level. Levels are signed, and
    all features share one table of frequencies.

    >>> coefficient_bits(3.0, torch.tensor([5, 5]))
    3.0
    """
    return l0 * entropy(level_counts)


def bit_metrics(
    density: Float[Tensor, " feature"] | None, traits: Traits, coefficients: Metric | None = None
) -> dict[str, Metric]:
    """The metrics of `BITS`, in order.

    `density` is None where there are no non-special tokens. `coefficients` is the cost of the
    coefficients, None where it was not measured. Binary coefficients cost nothing. If in addition
    the number of active features is bounded, they are codes, and `support_bits` is the entropy of
    the codes.

    >>> bits = bit_metrics(torch.full((8,), 1 / 8), Traits(binary=True, max_active=1))
    >>> {name: metric.value for name, metric in bits.items()}
    {'support_bits': 3.0, 'code_bits': 3.0, 'coefficient_bits': 0.0, 'bits': 3.0}
    """
    if density is None:
        return {metric.name: Metric(math.nan, NO_ROWS) for metric in BITS}
    fixed = Metric(math.nan, NOT_CODES)
    support = support_bits(density)
    if traits.binary and traits.max_active is not None:
        groups, k = traits.n_groups, traits.max_active // traits.n_groups
        fixed = Metric(code_bits(density.numel() // groups, k, groups))
        support = code_entropy(density, k, groups)
    cost = coefficients or Metric(math.nan, NOT_MEASURED)
    if traits.binary:
        cost = Metric(0.0)
    total = Metric(support + cost.value, cost.reason)
    return dict(zip((m.name for m in BITS), (Metric(support), fixed, cost, total), strict=True))


def in_order(metrics: Mapping[str, Metric]) -> dict[str, Metric]:
    """The same metrics, in the order of `REPORTED`."""
    return {metric.name: metrics[metric.name] for metric in REPORTED}
