"""The results of a comparison as a Markdown page, without scripts."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

from dictlearn.comparison.report.verdict import verdict
from dictlearn.comparison.statistics.precision import precision_frame
from dictlearn.comparison.tables.matched import MATCHED_CAPTION, matched_tables
from dictlearn.comparison.tables.rendering import as_markdown, markdown_table
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
    """The page: verdict, families at equal rates, all dictionaries, concepts and agreement.

    `about` are lines on how the numbers were made; `images` are links by caption.
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
    "Means over training seeds, with the standard deviation over seeds in brackets if there are "
    "several. Bits are per token; FVU is the fraction of variance unexplained, KL the divergence "
    "from the clean model in nats."
)
_PRECISION_NOTE = (
    "Precision at detecting concepts that are defined by regular expressions, averaged over "
    "concepts: of the best feature, and of the best baseline direction at equal recall. Both were "
    "selected on other text than they are scored on. Significantly: the 95 % interval of the "
    "difference excludes 0. Naive: scored on the text used for selection."
)
_AGREEMENT_NOTE = (
    "Mean max cosine similarity: for each feature of the row's dictionary, the maximum cosine "
    "similarity of its decoder direction with one of the column's dictionary, averaged over the "
    "features."
)


def _matched(records: Records) -> list[str]:
    tables = matched_tables(records)
    return ["## At equal rates", MATCHED_CAPTION, *map(as_markdown, tables)] if tables else []


def _dictionaries(records: Records) -> str:
    rows = []
    for group in (trained(records), baselines(records)):
        for name, members in _by_config(group).items():
            cells = [_over_seeds(metric, members) for metric in _SHOWN]
            rows.append([name, members[0].kind, f"{members[0].n_features:,}", *cells])
    return markdown_table(["dictionary", "kind", "features", *(LABELS[m] for m in _SHOWN)], rows)


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


def _precision(records: ConceptRecords) -> str:
    rows = [
        [
            *map(str, key),
            f"{int(found.n_concepts)}",
            f"{found.features:.3f}",
            f"{found.baseline:.3f}",
            *(f"{found[k]:.0%}" for k in ("better", "significantly_better", "significantly_worse")),
            f"{found.naive_better:.0%}",
        ]
        for key, found in precision_frame(records).iterrows()
    ]
    heads = ["dictionary", "baseline", "concepts", "precision of features",
             "precision of baseline", "better", "significantly better", "significantly worse",
             "naive: better"]  # fmt: skip
    return markdown_table(heads, rows)


def _agreement(records: AgreementRecords) -> str:
    names = list(records.dictionaries)
    values = {(pair.first, pair.second): pair.mmcs for pair in records.pairs}
    rows = [
        [first, *(_cosine(values.get((first, second), math.nan)) for second in names)]
        for first in names
    ]
    return markdown_table(["features of", *names], rows)


def _cosine(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else ""
