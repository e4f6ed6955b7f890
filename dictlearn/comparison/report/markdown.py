"""The results of a comparison as a Markdown page, without scripts."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

from dictlearn.comparison.cautions import cautions
from dictlearn.comparison.order import agreement_like, concepts_like
from dictlearn.comparison.report.concepts import concept_verdicts
from dictlearn.comparison.report.lengths import lengths_data
from dictlearn.comparison.report.templates import render
from dictlearn.comparison.report.verdict import verdict
from dictlearn.comparison.statistics.lengths import Lengths
from dictlearn.comparison.statistics.precision import precision_frame
from dictlearn.comparison.tables.concepts import precision_table
from dictlearn.comparison.tables.matched import MATCHED_CAPTION, matched_tables
from dictlearn.comparison.vocabulary import (
    LABELS,
    MISSING,
    baselines,
    formatted,
    in_order,
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
    origin: str = "",
    concepts: ConceptRecords | None = None,
    agreement: AgreementRecords | None = None,
    lengths: Lengths | None = None,
    images: Mapping[str, str | Path] | None = None,
) -> str:
    """The page: verdict, families at equal rates, lengths of training, all dictionaries, concepts
    and agreement.

    `about` are lines on how the numbers were made, with code between backticks, and `origin` is
    one without; `images` are links by caption. All text is escaped, so names hold no markup.
    """
    records = in_order(records)
    names = records.dictionaries
    agreement = agreement and agreement_like(names, agreement)
    frame = None if concepts is None else precision_frame(concepts_like(names, concepts))
    return render(
        "results.md.jinja",
        records=records,
        title=title,
        about=about,
        origin=origin,
        images=images or {},
        cautions=cautions(records),
        verdict=verdict(records),
        caption=MATCHED_CAPTION,
        matched=matched_tables(records),
        lengths=lengths_data(lengths) if lengths else None,
        heads=["dictionary", "kind", "features", *(LABELS[metric] for metric in _SHOWN)],
        rows=_dictionaries(records),
        precision=None if frame is None else precision_table(frame),
        concept_verdicts=[] if frame is None else concept_verdicts(frame),
        agreement=agreement,
        cosines={(p.first, p.second): p.mmcs for p in agreement.pairs} if agreement else {},
    )


def _dictionaries(records: Records) -> list[list[str]]:
    rows = []
    for group in (trained(records), baselines(records)):
        for name, members in _by_config(group).items():
            cells = [_over_seeds(metric, members) for metric in _SHOWN]
            rows.append([name, members[0].kind, f"{members[0].n_features:,}", *cells])
    return rows


def _by_config(group: Mapping[str, DictionaryRecord]) -> dict[str, list[DictionaryRecord]]:
    """Records that differ in their seed only, grouped under their common name."""
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
