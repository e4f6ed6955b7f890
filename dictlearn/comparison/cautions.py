"""Sentences on what is unusual about results, which tables and pages print beside them."""

from collections.abc import Iterator

from dictlearn.comparison.vocabulary import by_target, formatted, value_of
from dictlearn.core.massive import MUCH
from dictlearn.metrics.intervals import jackknife_interval
from dictlearn.records.results import Records

_FVU = "fraction_variance_unexplained_typical"


def cautions(records: Records) -> list[str]:
    """Dictionaries of another model, massive rows, and ablations that cost no more than noise."""
    found = [*_transfer(records)]
    for place, there in by_target(records).items():
        found += [*_massive(place, there), *_noise(place, there)]
    return found


def _transfer(records: Records) -> Iterator[str]:
    found = {
        name: record.provenance.model_in_words()
        for name, record in records.dictionaries.items()
        if not record.provenance.is_same_model(records.provenance)
    }
    if found:
        listed = "; ".join(f"{name} on {model}" for name, model in found.items())
        yield f"Trained on another model than the one evaluated here: {listed}."


def _massive(place: str, there: Records) -> Iterator[str]:
    """Whether a few rows hold much of the variance, and FVU without them."""
    sums = next(iter(there.dictionaries.values())).sums
    if "typical_rows" not in sums:  # results of an earlier version
        return
    n, n_typical, variance, typical = (
        sums[key].sum().item() for key in ("rows", "typical_rows", "variance", "typical_variance")
    )
    if n_typical < n and variance - typical > MUCH * variance:
        without = ", ".join(
            f"{name} {formatted(_FVU, value_of(record, _FVU))}"
            for name, record in there.dictionaries.items()
        )
        yield (
            f"At {place}, {n - n_typical:,.0f} of {n:,.0f} tokens have norms over 10 times the "
            f"median of their sequence and hold {1 - typical / variance:.0%} of the variance, so "
            f"FVU is mostly theirs. FVU without them: {without}."
        )


def _noise(place: str, there: Records) -> Iterator[str]:
    """Ablations whose cost per prediction has an interval that reaches to 0 or below."""
    sums = next(iter(there.dictionaries.values())).sums
    for ablation in ("zero", "mean", "resample"):
        ablated, n = sums[f"cross_entropy_{ablation}"], sums["predictions"]
        if len(n) < 2 or not ablated.isfinite().all() or not n.sum() > 0:
            continue
        cost = ablated - sums["cross_entropy_clean"]
        mean = (cost.sum() / n.sum()).item()
        found = jackknife_interval(mean, (cost.sum() - cost) / (n.sum() - n))
        if found.low <= 0:
            margin = found.high - mean
            yield (
                f"At {place}, {ablation} ablation costs {mean:.2g} ± {margin:.2g} nats, no more "
                f"than noise: loss recovered relative to {ablation} ablation has no meaning there."
            )
