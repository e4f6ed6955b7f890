"""Comparison of families of dictionaries at equal rates, L0 or bits per token."""

import itertools
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from dictlearn.comparison.statistics.families import at_rate, families, require_rate
from dictlearn.comparison.statistics.interpolation import (
    Family,
    Sums,
    default_values,
    mean_sums,
)
from dictlearn.comparison.statistics.intervals import (
    difference,
    holm,
    interval,
    over_seeds,
    p_value,
    pooled,
    resampled_metric,
)
from dictlearn.comparison.vocabulary import by_target
from dictlearn.metrics.intervals import Interval
from dictlearn.metrics.pooled import PooledMetric
from dictlearn.records.results import Records

MATCHED = ("loss_recovered_zero", "fraction_variance_unexplained")
"""Metrics compared by default."""
INDEX = ["hook", "metric", "at", "family"]
PAIRS = ["hook", "at", "first", "second"]
COLUMNS = ["value", "low", "high", "seed_sd", "n_seeds", "difference", "difference_low",
           "difference_high", "p", "p_holm", "reason"]  # fmt: skip


def matched_frame(
    records: Records,
    at: str = "l0",
    values: Sequence[float | int] | None = None,
    metrics: Sequence[str] = MATCHED,
) -> pd.DataFrame:
    """Metrics of every family of dictionaries, interpolated to equal rates.

    One row for each hook, metric, value of the rate `at` and family (`families`). The default
    values are a few round numbers in the range that most families share, at least two, the rates
    of families that have only one where others reach them, and the largest rate that each baseline
    shares with a trained family. At equal bits, metrics are those of quantized coefficients, which
    these bits pay for.

    * **Interpolation.** Between neighbouring dictionaries of a curve, a metric is linear in the
      logarithm of the rate; dictionaries with the same rate are averaged. There is no
      extrapolation: outside the range shared by all curves of a family, the value is `nan`, with a
      reason. All dictionaries with one target have the same denominator, so the per-sequence sums
      are interpolated, and then treated like those of a single dictionary. The rates of the
      dictionaries vary with the text as well, which intervals and p-values include.
    * `value`: the mean over curves, one per training seed. `low`, `high`: its 95 % interval over
      sequences, with seeds fixed.
    * `seed_sd`, `n_seeds`: the standard deviation over seeds, not included in that interval.
    * `difference`: this family minus the best one at this rate, paired over sequences. Its
      interval and `p` include the variation over sequences and training seeds (`over_seeds`), or
      over sequences only if a family has one seed (`p_value`). `p` is below 0.05 exactly where the
      interval leaves out 0.
    * `p_holm`: corrected for all pairs of families at all values of one hook and metric, because
      the best family is selected on the same tokens.

    Raises:
        InputError: unknown rate, or a metric that is not a function of per-sequence sums.
    """
    require_rate(at)
    measures = [resampled_metric(name) for name in metrics]
    rows: dict[tuple, dict[str, Any]] = {}
    for hook, group in by_target(at_rate(records, at)).items():
        found = {name: Family.of(group, curves, at) for name, curves in families(group, at).items()}
        chosen = default_values(found.values()) if values is None else [float(v) for v in values]
        for metric in measures:
            part = _corrected(found, metric, chosen)
            rows |= {(hook, metric.name, *key): row for key, row in part.items()}
    frame = pd.DataFrame([{"reason": ""} | row for row in rows.values()], columns=COLUMNS)
    return frame.set_index(pd.MultiIndex.from_tuples(rows, names=INDEX) if rows else _empty(INDEX))


def pairs_frame(
    records: Records, values: Sequence[float | int], metric: str, at: str = "l0"
) -> pd.DataFrame:
    """Differences in a metric, the first minus the second, of all pairs of families at equal rates.

    One row for each hook, value of the rate `at` and pair of families that have a value there, in
    alphabetical order: `value`, `low`, `high` and `p` as the differences of `matched_frame`, and
    `p_holm`, corrected for all rows of the hook.
    """
    require_rate(at)
    measure = resampled_metric(metric)
    rows: dict[tuple, tuple[float, ...]] = {}
    for hook, group in by_target(at_rate(records, at)).items():
        found = {name: Family.of(group, curves, at) for name, curves in families(group, at).items()}
        there: dict[tuple, tuple[float, ...]] = {}
        for value in map(float, values):
            seeds = {n: f.at(value) for n, f in sorted(found.items()) if not f.missing(value)}
            for one, other in itertools.combinations(seeds, 2):
                behind, p = apart(measure, seeds[one], seeds[other])
                there[hook, value, one, other] = (*behind, p)
        corrected = holm({key: row[-1] for key, row in there.items()})
        rows |= {key: (*row, corrected[key]) for key, row in there.items()}
    index = pd.MultiIndex.from_tuples(rows, names=PAIRS) if rows else _empty(PAIRS)
    return pd.DataFrame(list(rows.values()), index, ["value", "low", "high", "p", "p_holm"])


def _empty(names: list[str]) -> pd.MultiIndex:
    return pd.MultiIndex.from_arrays([[]] * len(names), names=names)


def _corrected(
    found: Mapping[str, Family], metric: PooledMetric, values: Iterable[float]
) -> dict[tuple[float, str], dict[str, Any]]:
    """The rows of all families at all rates, with p-values corrected for all pairs of families."""
    rows = {
        (value, name): row for value in values for name, row in _rows(found, metric, value).items()
    }
    per_value = Counter(value for (value, _), row in rows.items() if "difference" in row)
    n_pairs = sum(math.comb(n, 2) for n in per_value.values())
    p_values = {key: row["p"] for key, row in rows.items() if "p" in row}
    for key, p in holm(p_values, n_pairs).items():
        rows[key]["p_holm"] = p
    return rows


def _rows(
    found: Mapping[str, Family], metric: PooledMetric, rate: float
) -> dict[str, dict[str, Any]]:
    """The rows of all families at one rate."""
    reasons = {name: family.missing(rate) for name, family in found.items()}
    seeds = {name: found[name].at(rate) for name, reason in reasons.items() if not reason}
    sums = {name: mean_sums(curves) for name, curves in seeds.items()}
    rows: dict[str, dict[str, Any]] = {name: {"reason": r} for name, r in reasons.items() if r}
    of_seeds = {n: [pooled(metric, curve) for curve in curves] for n, curves in seeds.items()}
    for name, values in of_seeds.items():
        spread = statistics.stdev(values) if len(values) > 1 else math.nan
        about = interval(metric, sums[name])._asdict()
        rows[name] = about | {"seed_sd": spread, "n_seeds": len(values)}
        if not math.isfinite(rows[name]["value"]):
            rows[name]["reason"] = metric.undefined
    defined = {name: s for name, s in sums.items() if "reason" not in rows[name]}
    if defined and metric.better != "neither":
        pick = max if metric.better == "higher" else min
        best = pick(defined, key=lambda name: rows[name]["value"])
        for name in defined:
            rows[name]["difference"] = 0.0
            if name != best:
                behind, p = apart(metric, seeds[name], seeds[best])
                rows[name] |= dict(zip(COLUMNS[5:9], (*behind, p), strict=True))
    return {name: rows[name] for name in found}


def apart(
    metric: PooledMetric, first: Sequence[Sums], second: Sequence[Sums]
) -> tuple[Interval, float]:
    """The metric of one family minus that of another, with its interval and p-value.

    Each family has the sums of one curve per training seed. The variation over seeds is included if
    both have several.
    """
    paired = difference(metric, mean_sums(first), mean_sums(second))
    n_sequences = len(first[0]["rows"])
    if min(len(first), len(second)) == 1:
        return paired, p_value(paired, n_sequences - 1)
    of_seeds = ([pooled(metric, sums) for sums in family] for family in (first, second))
    return over_seeds(paired, n_sequences, *of_seeds)
