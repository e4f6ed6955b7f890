"""The cost of coefficients in bits per token: of which features are active, and of their values.

One code of 10,000 and one real-valued feature both have L0 1, and cost different numbers of bits.
Bits put them on one axis: the expected length of a message from which a decoder reads the
coefficients. It has the dictionary, and tables of how often features, numbers of active features
and levels occur; the tables are not counted. Dictionaries of all kinds are coded alike.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from dictlearn.core.dictionary import Traits
from dictlearn.core.errors import InputError
from dictlearn.core.metric import Metric
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.metrics.pooled import METRICS, NO_ROWS, MetricSpec, PooledMetric

BITS: tuple[MetricSpec, ...] = (
    PooledMetric(
        name="support_bits", label="support bits", unit="bits per token", better="lower",
        description="Bits per token that say which features are active.",
        numerator="support_bits", denominator="rows", undefined=NO_ROWS,
    ),
    MetricSpec(
        name="code_bits", label="code bits", unit="bits per token", better="lower",
        description="Bits per token of codes that are written as numbers.",
    ),
    PooledMetric(
        name="coefficient_bits", label="coefficient bits", unit="bits per token", better="lower",
        description="Bits per token of the coefficients, at the coarsest steps that keep 99 % of "
        "the loss recovered.",
        numerator="bits - support_bits", denominator="rows", undefined=NO_ROWS,
    ),
    PooledMetric(
        name="bits", label="bits", unit="bits per token", better="lower",
        description="Bits per token: support and coefficients together.",
        numerator="bits", denominator="rows", undefined=NO_ROWS,
    ),
)  # fmt: skip
"""The costs in bits, in the order of tables."""

REPORTED: tuple[MetricSpec, ...] = (*METRICS[:2], *BITS, *METRICS[2:])
"""Every reported metric, in the order of tables: L0 and bits first, then quality."""

QUANTIZED: Mapping[str, str] = {
    name: f"quantized_{name}"
    for name in ("l1", "squared_error", "typical_squared_error", "cosine", "norm_hat",
                 "cross_entropy_spliced", "kl", "top1_agreement")
}  # fmt: skip
"""Sums that depend on the values of coefficients, with the names of those after quantization."""

NOT_MEASURED = "measured only with bits=True"
NOT_CODES = "its features are not codes, so there is no number to write"


@dataclass(frozen=True)
class SupportCode:
    """A code for the sets of active features, as lengths in bits.

    A set costs the sum of `of_feature` over its features, and in every group `of_number` at the
    number of them. Lengths are those of sets that occur where the tables were counted; features
    and numbers that never do are infinitely long.
    """

    of_feature: Float[Tensor, " feature"]
    of_number: Float[Tensor, "group number"]

    def lengths(self, acts: SparseActs) -> Float[Tensor, " n"]:
        """The bits of every row's set of active features, in float64."""
        of_feature, of_number = (
            t.to(acts.values.device) for t in (self.of_feature, self.of_number)
        )
        numbers = numbers_active(acts, len(of_number))
        groups = torch.arange(len(of_number), device=numbers.device)
        bits = of_number[groups, numbers].sum(dim=1)
        return bits.index_add(0, acts.rows(), of_feature[acts.indices])

    def longer(self, bits: float) -> "SupportCode":
        """The same code with `bits` more for every row."""
        first = torch.arange(len(self.of_number), device=self.of_number.device) == 0
        return SupportCode(self.of_feature, self.of_number + bits * first.unsqueeze(1))

    def mean(self, firings: Int[Tensor, " feature"], numbers: Int[Tensor, "group number"]) -> float:
        """The bits per token, from counts as given to `support_code`."""
        total = _total(firings, self.of_feature) + _total(numbers, self.of_number).sum()
        return (total / numbers[0].sum()).item()


def numbers_active(acts: SparseActs, n_groups: int) -> Int[Tensor, "n {n_groups}"]:
    """The number of active features of every row in each of equal contiguous groups."""
    size = max(acts.n_features // n_groups, 1)
    places = acts.rows() * n_groups + acts.indices // size
    return places.bincount(minlength=len(acts) * n_groups).view(len(acts), n_groups)


def support_code(
    firings: Int[Tensor, " feature"], numbers: Int[Tensor, "group number"]
) -> SupportCode:
    """The code for sets of active features whose tables are these counts.

    `firings` is on how many rows each feature is active, and `numbers` on how many rows each
    number of features, from 0 to all, is active in each of equal contiguous groups. A group is
    coded in the shorter of two ways, and a table says in which:

    * Each feature alone: `-log2 p_j` if it is active and `-log2 (1 - p_j)` if not, with `p_j` the
      density of the feature. On average `sum_j h(p_j)`, ideal for independent features.
    * The number m of active features at `-log2 P(m)`, then the set as m draws from
      `q = p / sum(p)` without their order: `-log2 (m! prod_j q_j)`. On average
      `H(m) + L0 H(q) - E log2 m!`. If one feature is active on every row, this is the entropy of
      the features.

    Both can be decoded, since `sum_S 2^-length(S) <= 1` over all sets (Kraft): m draws are
    distinct and hit S in one of m! orders with probability `m! prod q_j`. Neither is ever shorter
    on average than the entropy of the sets.

    Raises:
        InputError: the groups do not divide the features.

    >>> code = support_code(torch.tensor([2, 1, 1]), torch.tensor([[0, 4, 0, 0]]))
    >>> code.mean(torch.tensor([2, 1, 1]), torch.tensor([[0, 4, 0, 0]]))
    1.5
    """
    if firings.numel() % len(numbers):
        raise InputError(f"required groups of equal length, got {firings.numel()} features in "
                         f"{len(numbers)} groups")  # fmt: skip
    counts = rearrange(firings, "(group feature) -> group feature", group=len(numbers))
    alone, drawn = _each_alone(counts, numbers), _number_then_draws(counts, numbers)
    cost_alone, cost_drawn = (_total(counts, f) + _total(numbers, n) for f, n in (alone, drawn))
    shorter = (cost_drawn < cost_alone)[:, None]
    of_feature, of_number = (torch.where(shorter, d, a) for d, a in zip(drawn, alone, strict=True))
    return SupportCode(of_feature.flatten(), of_number)


def bits_unseen(
    firings: Int[Tensor, "part feature"], numbers: Int[Tensor, "part group number"]
) -> float:
    """The bits per token by which the code of a text is expected to be too short for other text.

    Its tables are fitted to the very rows that it codes: many features that are rarely active have
    frequencies by chance. Counts are those of parts of the text, such as every sixteenth sequence.
    The bias is estimated by leaving out one part after the other (the jackknife, for parts of any
    size: Busing, Meijer and van der Leeden 1999, "Delete-m Jackknife for Unequal m"), which assumes
    that it is inverse to the number of independent parts. 0 for a single part.

    >>> once = torch.tensor([[1, 0], [0, 1]])  # two features, each active in one part of one row
    >>> bits_unseen(once, torch.tensor([[[0, 1, 0]], [[0, 1, 0]]]))
    1.0
    """
    rows = numbers[:, 0].sum(dim=1)
    all_firings, all_numbers = firings.sum(dim=0), numbers.sum(dim=0)
    whole = support_code(all_firings, all_numbers).mean(all_firings, all_numbers)
    bias = 0.0
    for i in ((rows > 0) & (rows < rows.sum())).nonzero()[:, 0].tolist():
        others = all_firings - firings[i], all_numbers - numbers[i]
        share = (rows[i] / rows.sum()).item()
        bias += (1 - share) * (whole - support_code(*others).mean(*others))
    return bias


def _each_alone(counts: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Lengths of active features, relative to none active, and of none active in every group."""
    p = counts.double() / numbers[0].sum()
    silent = torch.where(p < 1, -torch.log2(1 - p), 0.0)  # a feature of every row costs nothing
    return -torch.log2(p) - silent, silent.sum(dim=1, keepdim=True).expand(numbers.shape)


def _number_then_draws(counts: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Lengths of draws of each feature, and of the numbers of them less their order."""
    q = counts.double() / counts.sum(dim=1, keepdim=True).clamp_min(1)
    p = numbers.double() / numbers[0].sum()
    m = torch.arange(numbers.shape[1], dtype=torch.float64, device=numbers.device)
    return -torch.log2(q), -torch.log2(p) - torch.lgamma(m + 1) / math.log(2)


def _total(counts: Int[Tensor, "*g x"], bits: Float[Tensor, "*g x"]) -> Float[Tensor, "*g"]:
    """The bits of all that was counted."""
    return torch.where(counts > 0, counts * bits, 0.0).sum(dim=-1)


def level_code(counts: Int[Tensor, " level"]) -> Float[Tensor, " level"]:
    """The bits of each level of a quantized coefficient, `-log2` of its frequency.

    Levels are signed, and all features share one table, so the bits per token are `L0 H(levels)`.

    >>> level_code(torch.tensor([6, 1, 1])).tolist()[1:]
    [3.0, 3.0]
    """
    return torch.log2(counts.sum().double()) - torch.log2(counts.double())


def code_bits(n_codes: int, k: int, n_groups: int) -> float:
    """The bits per token of codes that are written as numbers: `n_groups * k * log2(n_codes)`.

    The fixed rate of a codebook, without any statistics. 0 where nothing is chosen.

    >>> code_bits(n_codes=1024, k=2, n_groups=3)
    60.0
    """
    return n_groups * k * math.log2(n_codes) if k and n_codes else 0.0


def bit_metrics(
    support: float, n_features: int, traits: Traits, coefficients: Metric | None = None
) -> dict[str, Metric]:
    """The metrics of `BITS`, in order.

    `support` is the cost of the sets of active features in bits per token, and `coefficients` that
    of their values, None where it was not measured. Binary coefficients cost nothing. If in
    addition the number of active features is bounded, they are codes that can be written as
    numbers.

    >>> bits = bit_metrics(2.5, 8, Traits(binary=True, max_active=1))
    >>> {name: metric.value for name, metric in bits.items()}
    {'support_bits': 2.5, 'code_bits': 3.0, 'coefficient_bits': 0.0, 'bits': 2.5}
    """
    fixed = Metric(math.nan, NOT_CODES)
    if traits.binary and traits.max_active is not None:
        groups, k = traits.n_groups, traits.max_active // traits.n_groups
        fixed = Metric(code_bits(n_features // groups, k, groups))
    cost = Metric(0.0) if traits.binary else coefficients or Metric(math.nan, NOT_MEASURED)
    total = Metric(support + cost.value, cost.reason)
    return dict(zip((m.name for m in BITS), (Metric(support), fixed, cost, total), strict=True))


def in_order(metrics: Mapping[str, Metric]) -> dict[str, Metric]:
    """The same metrics, in the order of `REPORTED`."""
    return {metric.name: metrics[metric.name] for metric in REPORTED}
