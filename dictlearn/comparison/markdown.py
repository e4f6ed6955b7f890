"""The results of a comparison as a Markdown page: what the report opens with, without scripts."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

from dictlearn.comparison.concepts import precision_frame
from dictlearn.comparison.families import RATES
from dictlearn.comparison.intervals import can_resample
from dictlearn.comparison.matched import MATCHED, matched_frame
from dictlearn.comparison.matched_rows import MATCHED_CAPTION, matched_rows
from dictlearn.comparison.verdict import verdict
from dictlearn.comparison.vocabulary import (
    LABELS,
    MISSING,
    baselines,
    formatted,
    trained,
    value_of,
)
from dictlearn.records.agreement import AgreementRecords
from dictlearn.records.concepts import ConceptRecords
from dictlearn.records.results import DictionaryRecord, Records

_SHOWN = ("l0", "bits", "fraction_variance_unexplained", "loss_recovered_zero", "kl",
          "dead_fraction")  # fmt: skip


def results_page(
    records: Records,
    title: str,
    *,
    about: Iterable[str] = (),
    concepts: ConceptRecords | None = None,
    agreement: AgreementRecords | None = None,
    images: Mapping[str, str | Path] | None = None,
) -> str:
    """The page: the verdict, families at equal rates, every dictionary, and a closer look.

    `about` are lines on where the numbers come from; `images` links by caption.
    """
    tokens = records.tokens
    parts = [
        f"# {title}",
        *about,
        f"{records.provenance.model}, evaluated on {tokens['n_tokens']:,} tokens in "
        f"{tokens['n_sequences']:,} sequences of {tokens['source']} ({tokens['split']}, hash "
        f"`{tokens['hash'][:12]}`).",
        "## Verdict",
        *verdict(records),
    ]
    parts += [f"![{name}]({path})" for name, path in (images or {}).items()]
    parts += _matched(records)
    parts += ["## Every dictionary", _NOTE, _dictionaries(records)]
    if concepts is not None:
        parts += ["## Are features better than neurons?", _PRECISION_NOTE, _precision(concepts)]
    if agreement is not None:
        parts += ["## Do they hold the same features?", _AGREEMENT_NOTE, _agreement(agreement)]
    return "\n\n".join(parts) + "\n"


_NOTE = (
    "Means over training seeds; in brackets the standard deviation over seeds, where there are "
    "several. Bits are bits per token; FVU is the fraction of variance unexplained, KL the "
    "divergence from the clean model in nats."
)
_PRECISION_NOTE = (
    "Mean precision over concepts that patterns define, of the best feature and of its best rival, "
    "at equal recall, on text that neither was chosen on. Surely: the 95 % interval of the "
    "difference excludes 0. Naive: on the text that candidates were chosen on."
)
_AGREEMENT_NOTE = (
    "Mean over the features of a row of the largest cosine of their atoms with one of the column."
)


def _matched(records: Records) -> list[str]:
    if not can_resample(records):
        return []
    parts = []
    for rate, label in RATES.items():
        rows = matched_rows(matched_frame(records, rate))
        if rows:
            heads = [h for metric in MATCHED for h in (LABELS[metric], "beside the best")]
            cells = [
                [f"{r.at:g}", r.family, *(text for m in MATCHED for text in r.texts(m))]
                for r in rows
            ]
            parts.append(_table([label, "family", *heads], cells))
    return ["## At equal rates", MATCHED_CAPTION, *parts] if parts else []


def _dictionaries(records: Records) -> str:
    rows = []
    for group in (trained(records), baselines(records)):
        for name, members in _by_config(group).items():
            cells = [_over_seeds(metric, members) for metric in _SHOWN]
            rows.append([name, members[0].kind, f"{members[0].n_features:,}", *cells])
    return _table(["dictionary", "kind", "features", *(LABELS[m] for m in _SHOWN)], rows)


def _by_config(group: Mapping[str, DictionaryRecord]) -> dict[str, list[DictionaryRecord]]:
    """Records that differ in their seed only, under the part of the name that they share."""
    found: dict[str, list[DictionaryRecord]] = {}
    for name, record in group.items():
        found.setdefault(name.removesuffix(f" s{record.seed}"), []).append(record)
    return found


def _over_seeds(metric: str, members: Sequence[DictionaryRecord]) -> str:
    values = [v for record in members if math.isfinite(v := value_of(record, metric))]
    if not values:
        return MISSING
    text = formatted(metric, fmean(values))
    return f"{text} ({formatted(metric, stdev(values))})" if len(values) > 1 else text


def _precision(records: ConceptRecords) -> str:
    rows = [
        [
            *map(str, key),
            f"{int(found.n_concepts)}",
            f"{found.features:.3f}",
            f"{found.rival:.3f}",
            *(f"{found[k]:.0%}" for k in ("better", "surely_better", "surely_worse")),
            f"{found.naive_better:.0%}",
        ]
        for key, found in precision_frame(records).iterrows()
    ]
    heads = ["dictionary", "rival", "concepts", "features", "rival's", "better", "surely better",
             "surely worse", "naive: better"]  # fmt: skip
    return _table(heads, rows)


def _agreement(records: AgreementRecords) -> str:
    names = list(records.dictionaries)
    values = {(pair.first, pair.second): pair.mmcs for pair in records.pairs}
    rows = [
        [first, *(_cosine(values.get((first, second), math.nan)) for second in names)]
        for first in names
    ]
    return _table(["features of", *names], rows)


def _cosine(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else ""


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    cells = ([cell.replace("|", "\\|").replace("\n", "<br>") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
