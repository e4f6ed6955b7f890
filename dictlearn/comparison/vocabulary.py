"""Labels and number formats shared by tables, figures and the report."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from dictlearn.core.errors import InputError, nearest
from dictlearn.core.metric import Metric
from dictlearn.metrics.bits import REPORTED
from dictlearn.metrics.intervals import Interval
from dictlearn.records.results import DictionaryRecord, Records

LABELS: Mapping[str, str] = {metric.name: metric.label for metric in REPORTED}
"""Column headings and axis titles."""

KEY_METRICS = (
    "l0",
    "dead_fraction",
    "fraction_variance_unexplained",
    "cosine",
    "cross_entropy_spliced",
    "loss_recovered_zero",
    "loss_recovered_mean",
    "kl",
    "top1_agreement",
)
"""Metrics shown where space is limited."""

MISSING = "\N{EN DASH}"

ROUNDING = 1e-6
"""Numbers smaller than this come from rounding: models compute in float32 or less."""

_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def trained(records: Records) -> dict[str, DictionaryRecord]:
    """The dictionaries that are not baselines, those of one family (kind and sites) by L0."""
    return _by_family({name: r for name, r in records.dictionaries.items() if not r.baseline})


def baselines(records: Records) -> dict[str, DictionaryRecord]:
    """The baselines, those of one kind by L0."""
    return _by_family({name: r for name, r in records.dictionaries.items() if r.baseline})


def in_order(records: Records) -> Records:
    """The records with trained dictionaries first: the order of legends, tables and cards."""
    return replace(records, dictionaries={**trained(records), **baselines(records)})


def _by_family(group: Mapping[str, DictionaryRecord]) -> dict[str, DictionaryRecord]:
    """Families as they first appear, each with the smallest L0 first and an undefined one last."""
    of = {name: (record.kind, str(record.sites)) for name, record in group.items()}
    families = list(dict.fromkeys(of.values()))

    def place(entry: tuple[str, DictionaryRecord]) -> tuple[int, float]:
        l0 = value_of(entry[1], "l0")
        return families.index(of[entry[0]]), math.inf if math.isnan(l0) else l0

    return dict(sorted(group.items(), key=place))


def by_target(records: Records) -> dict[str, Records]:
    """The records of each replaced hook; losses are comparable only within one."""
    found: dict[str, dict[str, DictionaryRecord]] = {}
    for name, record in records.dictionaries.items():
        found.setdefault(record.place, {})[name] = record
    return {hook: replace(records, dictionaries=group) for hook, group in found.items()}


def value_of(record: DictionaryRecord, metric: str) -> float:
    """The value of `metric`, or `nan` if the record has none."""
    return record.metrics.get(metric, Metric(math.nan)).value


def require_metric(metric: str) -> None:
    """Raise an `InputError` that suggests similar names unless `metric` is reported."""
    names = [m.name for m in REPORTED]
    if metric not in names:
        raise InputError(f"there is no metric {metric!r}; {nearest(metric, names)}")


def formatted(metric: str, value: float) -> str:
    """The value with the usual number of digits for `metric`; an en dash for `nan`.

    Numbers below `ROUNDING` in size are not told from 0.

    >>> formatted("l0", 31.94), formatted("dead_fraction", 0.0125), formatted("kl", 0.00002)
    ('31.9', '1.2%', '2.0e-05')
    >>> formatted("kl", -1.4e-13)
    '0.000'
    """
    if not math.isfinite(value):
        return MISSING
    if metric == "dead_fraction":
        return f"{value:.1%}"
    if metric.endswith("bits"):
        return f"{value:,.1f}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if metric in ("l0", "l1"):
        return f"{value:.1f}"
    if abs(value) < ROUNDING:
        return "0.000"
    return f"{value:.3f}" if abs(value) >= 5e-4 else f"{value:.1e}"


def number(value: float, digits: str) -> str:
    """The value in this format; a dash for one that is not finite."""
    return format(value, digits) if math.isfinite(value) else MISSING


def listed(names: Sequence[str]) -> str:
    """The names with commas, and "and" before the last.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def with_interval(metric: str, found: Interval) -> str:
    """The value ± half the width of its interval, if there is one.

    >>> with_interval("kl", Interval(0.912, 0.905, 0.917))
    '0.912 ±0.006'
    >>> with_interval("kl", Interval(0.912, 0.912, 0.912))
    '0.912 ±<0.001'
    """
    half = abs(found.high - found.low) / 2
    value = formatted(metric, found.value)
    if not math.isfinite(half):
        return value
    if "e" in value:
        return f"{value} ±{formatted(metric, half)}"
    digits = len(value.partition(".")[2])
    smallest = 10.0**-digits
    margin = f"<{smallest:.{digits}f}" if half < smallest / 2 else f"{half:.{digits}f}"
    return f"{value} ±{margin}"


@dataclass
class Footnotes:
    """Numbered reasons for missing values, in order of first use."""

    reasons: list[str] = field(default_factory=list)

    def cell(self, name: str, metric: Metric) -> str:
        """The formatted value; if it is missing, a dash with the number of the reason."""
        text = formatted(name, metric.value)
        if text != MISSING or not metric.reason:
            return text
        if metric.reason not in self.reasons:
            self.reasons.append(metric.reason)
        return text + superscript(self.reasons.index(metric.reason) + 1)

    def lines(self) -> list[str]:
        """One line per reason, preceded by its number."""
        return [f"{superscript(i)} {reason}" for i, reason in enumerate(self.reasons, start=1)]


def superscript(number: int) -> str:
    """The number in superscript digits.

    >>> superscript(12)
    '¹²'
    """
    return str(number).translate(_SUPERSCRIPTS)


@dataclass(frozen=True)
class ReferenceLosses:
    """Cross-entropies that do not depend on a dictionary, in nats per prediction."""

    clean: float
    zero: float
    mean: float

    def __str__(self) -> str:
        numbers = {"clean": self.clean, "zero ablation": self.zero, "mean ablation": self.mean}
        return ", ".join(f"{name} {formatted('kl', value)}" for name, value in numbers.items())


def reference_losses(records: Records) -> dict[str, ReferenceLosses]:
    """The clean, zero-ablation and mean-ablation loss for every replaced hook.

    Computed from the sums of the first dictionary at the hook that has them; they are the same
    for all dictionaries there. `nan` if no predictions were evaluated.
    """
    return {
        hook: ReferenceLosses(*(_pooled_loss(found, key) for key in ("clean", "zero", "mean")))
        for hook, found in by_target(records).items()
    }


def _pooled_loss(records: Records, ablation: str) -> float:
    for record in records.dictionaries.values():
        sums, predictions = (
            record.sums.get(name) for name in (f"cross_entropy_{ablation}", "predictions")
        )
        if sums is not None and predictions is not None and sums.isfinite().all():
            loss = (sums.sum() / predictions.sum()).item()
            if math.isfinite(loss):
                return loss
    return math.nan
