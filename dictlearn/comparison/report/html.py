"""The report of a comparison as one HTML file."""

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite, isnan, nan
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from dictlearn.comparison.cautions import cautions
from dictlearn.comparison.figures.density import density_figure
from dictlearn.comparison.figures.precision import precision_figure
from dictlearn.comparison.figures.rates import rate_distortion_figures
from dictlearn.comparison.figures.style import Look, looks
from dictlearn.comparison.figures.training import divergences, read_training_log, training_figure
from dictlearn.comparison.order import agreement_like, cards_like, concepts_like
from dictlearn.comparison.report.agreement import agreement_data
from dictlearn.comparison.report.concepts import concept_verdicts, concepts_summary
from dictlearn.comparison.report.lengths import lengths_data
from dictlearn.comparison.report.templates import render
from dictlearn.comparison.report.verdict import verdict
from dictlearn.comparison.statistics.families import at_rate
from dictlearn.comparison.statistics.intervals import intervals_of
from dictlearn.comparison.statistics.lengths import Lengths
from dictlearn.comparison.statistics.precision import precision_frame
from dictlearn.comparison.tables.concepts import concept_tables, precision_table
from dictlearn.comparison.tables.matched import matched_tables
from dictlearn.comparison.tables.training import training_table
from dictlearn.comparison.vocabulary import (
    LABELS,
    Footnotes,
    baselines,
    formatted,
    in_order,
    reference_losses,
    trained,
    value_of,
    with_interval,
)
from dictlearn.core.metric import Metric
from dictlearn.core.own_files import OwnFiles
from dictlearn.metrics.bits import REPORTED
from dictlearn.metrics.intervals import Interval
from dictlearn.pages import card_id
from dictlearn.records.agreement import AgreementRecords
from dictlearn.records.concepts import ConceptRecords
from dictlearn.records.features import FeatureRecords
from dictlearn.records.results import Records

REPORT_FILE = "report.html"
"""The usual name of the report, next to `results.json`."""
DEFAULT_TITLE = "Dictionaries compared"
MAIN = (
    "l0", "bits", "fraction_variance_unexplained", "loss_recovered_zero", "kl", "dead_fraction"
)  # fmt: skip
"""Metrics in the first columns, which a page shows without scrolling."""
_METRICS = {metric.name: metric for metric in REPORTED}
WITH_INTERVAL = frozenset({"bits", "fraction_variance_unexplained", "loss_recovered_zero"})
"""Metrics whose cells show the interval; for others it is shown on hover."""


def write_report(
    records: Records,
    path: str | Path,
    *,
    title: str = DEFAULT_TITLE,
    training_log: str | Path | Mapping[str, str | Path] | None = None,
    concepts: ConceptRecords | None = None,
    agreement: AgreementRecords | None = None,
    features: FeatureRecords | None = None,
    lengths: Lengths | None = None,
) -> Path:
    """The path of the report, after writing it as one self-contained HTML file.

    It needs no network. Training curves are included if a JSONL `training_log` is given, or
    several by name of the run; concepts, similarity of dictionaries, feature cards and a search for
    learning rates are included if their records are given.

    Raises:
        InputError: there is a file at `path` that was not written as a report.
        StorageError: the file cannot be written.
        CorruptFileError: the training log cannot be read.
    """
    own, name = OwnFiles.of(Path(path).parent), Path(path).name
    own.require(name)
    own.write_text(
        name,
        report_html(
            records,
            title=title,
            training_log=training_log,
            concepts=concepts,
            agreement=agreement,
            features=features,
            lengths=lengths,
        ),
    )
    return Path(path)


def report_html(
    records: Records,
    *,
    title: str = DEFAULT_TITLE,
    about: Iterable[str] = (),
    training_log: str | Path | Mapping[str, str | Path] | None = None,
    concepts: ConceptRecords | None = None,
    agreement: AgreementRecords | None = None,
    features: FeatureRecords | None = None,
    lengths: Lengths | None = None,
) -> str:
    """The document that `write_report` writes; `about` are lines on how the numbers were made.

    Trained dictionaries come before baselines, those of one family by L0, in every part.

    Raises:
        CorruptFileError: the training log cannot be read.
    """
    records = in_order(records)
    names = records.dictionaries
    concepts = concepts and concepts_like(names, concepts)
    agreement = agreement and agreement_like(names, agreement)
    features = features and cards_like(names, features)
    paths = training_log if isinstance(training_log, Mapping) else {"": training_log}
    logs = {run: read_training_log(path) for run, path in paths.items() if path is not None}
    columns, style = _columns(records), looks(records)
    matched = matched_tables(records)
    curves = {
        rate: (_one_legend(found), _without(records, rate))
        for rate, found in rate_distortion_figures(records).items()
    }
    trained_alike = training_table(records)
    parts = {
        "equal": matched,
        "results": records,
        "lengths": lengths,
        "concepts": concepts,
        "agreement": agreement,
        "density": records,
        "training": logs or trained_alike,
        "features": features,
    }
    return render(
        "report.html.jinja",
        title=title,
        about=list(about),
        records=records,
        sections=[*curves, *(anchor for anchor, part in parts.items() if part)],
        trained=trained(records),
        baselines=baselines(records),
        losses=reference_losses(records),
        cautions=cautions(records),
        verdict=verdict(records),
        curves=curves,
        several_hooks=len({record.sites.target for record in trained(records).values()}) > 1,
        matched=matched,
        reported=[_METRICS[name] for name in columns],
        **_results(records, columns),
        concepts=None if concepts is None else precision_data(concepts, features, style),
        agreement=None if agreement is None else agreement_data(agreement, style),
        density=density_figure(records),
        training=training_figure(logs, style, _kinds(records)) if logs else None,
        settings=trained_alike,
        diverged=divergences(logs),
        features=features,
        lengths=lengths_data(lengths) if lengths else None,
    )


def _one_legend(figures: dict[str, go.Figure]) -> dict[str, go.Figure]:
    """The figures, of which the first alone has a legend; a click there acts on all."""
    for figure in [*figures.values()][1:]:
        figure.update_layout(showlegend=False)
    return figures


def _kinds(records: Records) -> dict[str, str]:
    return {name: record.kind for name, record in records.dictionaries.items()}


def _without(records: Records, rate: str) -> dict[str, str]:
    """The dictionaries without a value of the rate, each with the reason."""
    group = at_rate(records, rate).dictionaries
    found = {name: record.metrics.get(rate, Metric(nan)) for name, record in group.items()}
    return {name: m.reason or "undefined" for name, m in found.items() if isnan(m.value)}


def precision_data(
    records: ConceptRecords,
    features: FeatureRecords | None = None,
    style: Mapping[str, Look] | None = None,
) -> dict[str, Any]:
    """The data of the section on concepts.

    Features with a card among `features` lead to it; `style` sets the colours of dictionaries.
    """
    frame = precision_frame(records)
    cards = features.cards if features else []
    return {
        "records": records,
        "summary": concepts_summary(frame),
        "table": precision_table(frame),
        "verdicts": concept_verdicts(frame),
        "figure": precision_figure(records, style),
        "tables": concept_tables(records, {card_id(c.dictionary, c.feature) for c in cards}),
    }


def _columns(records: Records) -> list[str]:
    """The metrics in the table of all, the main ones first.

    Those of massive rows are shown only where there are any, and others only if some dictionary has
    a value.
    """
    group = records.dictionaries.values()
    has_massive = any(value_of(r, "massive_fraction") > 0 for r in group)
    special = () if has_massive else ("massive_fraction", "fraction_variance_unexplained_typical")
    ordered = [*MAIN, *(name for name in LABELS if name not in MAIN)]
    return [
        name
        for name in ordered
        if name not in special and (name == "l0" or any(isfinite(value_of(r, name)) for r in group))
    ]


def _results(records: Records, columns: Sequence[str]) -> dict[str, Any]:
    """The cells of the table of all metrics by dictionary, and their footnotes."""
    footnotes, spread = Footnotes(), intervals_of(records, columns)
    cells = {
        name: [
            _cell(key, record.metrics.get(key, Metric(nan)), found.get(name), footnotes)
            for key, found in ((key, spread.get(key, {})) for key in columns)
        ]
        for name, record in {**trained(records), **baselines(records)}.items()
    }
    return {"cells": cells, "footnotes": footnotes.lines()}


def _cell(
    key: str, metric: Metric, found: Interval | None, footnotes: Footnotes
) -> tuple[float | str, str, str]:
    """The value to sort by, the note on hover and the text."""
    text = footnotes.cell(key, metric)
    if not isfinite(metric.value):
        return "", metric.reason, text
    if found is None or not isfinite(found.high - found.low):
        return metric.value, metric.reason, text
    about = f"95 % interval {formatted(key, found.low)} to {formatted(key, found.high)}"
    return metric.value, about, with_interval(key, found) if key in WITH_INTERVAL else text
