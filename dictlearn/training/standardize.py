"""Standardization of sites: a mean vector and one scale for each hook."""

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dictlearn.core.batches import Rows
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.massive import MUCH, RATIO, norm_limit, norms_of
from dictlearn.core.sites import Site, Sites

_ROWS_OF_MEDIAN = 1024
"""Rows whose norms give the median, if there are so many."""
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Units:
    """Mean and scale of one site: `(x - mean) / scale` has unit variance per dimension."""

    mean: Float[Tensor, " d"]
    scale: Float[Tensor, "*#d"]
    limit: float = math.inf
    """The norm beyond which rows are left out of training on request."""
    n_rows: int = 0
    n_massive: int = 0
    """Rows that were left out of mean and scale."""
    n_left_out: int = 0
    """Rows beyond `limit`."""
    massive_share: float = 0.0
    """Part of the variance of all rows about `mean` that the massive ones hold."""


@dataclass(frozen=True)
class Standardization:
    """Mean and scale of a source and a target."""

    source: Units
    target: Units

    @classmethod
    def at(cls, sites: Sites, units: Mapping[str, Units]) -> "Standardization":
        """The standardization at `sites`, given that of each hook; joined hooks keep their own."""
        return cls(_joined(sites.source, units), _joined(sites.target, units))

    def apply_(self, dictionary: FeatureDictionary) -> None:
        """Standardize the inputs and targets of `dictionary` this way."""
        source, target = self.source, self.target
        dictionary.standardize_(source.mean, source.scale, target.mean, target.scale)


class Moments:
    """Sums over rows of one hook, in float64, and apart from them those of massive rows.

    The first rows that are added decide which norms are massive: over `RATIO` times the median, or
    over `ratio` times, where that is less. Rows over `ratio` times the median are counted.
    """

    def __init__(self, d: int, ratio: float = RATIO) -> None:
        self._ratio, self._median = ratio, math.nan
        self._first: list[Tensor] | None = []
        self._n, self._squares, self._n_out = [0, 0], [0.0, 0.0], 0
        self._total = torch.zeros(2, d, dtype=torch.float64)

    def add(self, x: Float[Tensor, "n d"]) -> None:
        """Add the rows of one batch."""
        rows = x.to("cpu", torch.float64)
        if self._first is None:
            self._sum(rows)
            return
        self._first.append(rows)
        if sum(map(len, self._first)) >= _ROWS_OF_MEDIAN:
            self._begin()

    def _begin(self) -> None:
        first, self._first = self._first or [], None
        self._median = norm_limit(torch.cat(first), 1.0) if first else math.inf
        for rows in first:
            self._sum(rows)

    def _sum(self, rows: Float[Tensor, "n d"]) -> None:
        norms = norms_of(rows)
        massive = norms > min(self._ratio, RATIO) * self._median
        self._n_out += int((norms > self._ratio * self._median).sum())
        parts = [rows[~massive], rows[massive]] if massive.any() else [rows]
        for which, part in enumerate(parts):
            self._n[which] += len(part)
            self._total[which] += part.sum(dim=0)
            self._squares[which] += float(part.pow(2).sum())

    def units(self, dtype: torch.dtype) -> Units:
        """Mean and scale of the rows that are not massive.

        The scale is the root of the variance averaged over dimensions; a site that never varies
        keeps scale 1.
        """
        if self._first is not None:
            self._begin()
        n, n_massive = self._n
        mean = self._total[0] / n
        within, d = self._squares[0] / n, len(mean)
        variance = max(within - float(mean.pow(2).sum()), 0.0) / d
        scale = variance**0.5 if variance > 0 else 1.0
        far = self._squares[1] - 2 * float(mean @ self._total[1]) + n_massive * float(mean @ mean)
        share = far / (far + n * d * variance) if n_massive else 0.0
        return Units(
            mean.to(dtype), torch.tensor(scale, dtype=dtype), self._ratio * self._median,
            n + n_massive, n_massive, self._n_out, share,
        )  # fmt: skip


def fit_units(
    site: Site, batches: Iterable[Float[Tensor, "n d"]], dtype: torch.dtype = torch.float32
) -> Units:
    """Mean and scale of `site` from rows of activations, as `dtype`, without massive rows."""
    moments = Moments(site.d)
    for x in batches:
        moments.add(x)
    return moments.units(dtype)


def fit_all_units(
    sites: Iterable[Sites],
    batches: Iterable[Rows],
    dtype: torch.dtype,
    max_norm_ratio: float | None = None,
) -> dict[str, Units]:
    """Mean and scale of every hook of `sites`, from one pass over the first batches of a run.

    A warning names hooks at which massive rows hold much of the variance and are trained on.
    """
    ratio = max_norm_ratio
    parts = {part.hook: part for at in sites for part in (*at.source.parts, *at.target.parts)}
    moments = {hook: Moments(part.d, ratio or RATIO) for hook, part in parts.items()}
    for rows in batches:
        for hook, sums in moments.items():
            sums.add(rows.at[hook])
    units = {hook: sums.units(dtype) for hook, sums in moments.items()}
    for hook, u in units.items():
        if u.massive_share > MUCH and (ratio is None or ratio > RATIO):
            _logger.warning(
                "%d of the first %d rows at %r have norms over %g times the median and hold "
                "%.0f %% of the variance; mean and scale are fitted without them, and to leave "
                "such rows out of training, set FitConfig(max_norm_ratio=%g) (--max-norm-ratio)",
                u.n_massive, u.n_rows, hook, RATIO, 100 * u.massive_share, RATIO,
            )  # fmt: skip
    return units


def _joined(site: Site, units: Mapping[str, Units]) -> Units:
    parts = [units[hook] for hook in site.hooks]
    means = [part.mean for part in parts]
    mean = means[0] if len(means) == 1 else torch.cat(means)
    return Units(mean, site.scale([part.scale for part in parts]))
