"""The report of a comparison as one HTML file."""

from collections.abc import Mapping
from html import escape
from pathlib import Path

from dictlearn.comparison.figures.density import density_figure
from dictlearn.comparison.figures.style import looks
from dictlearn.comparison.figures.training import read_training_log, training_figure
from dictlearn.comparison.report.agreement import agreement_section
from dictlearn.comparison.report.cards import cards_section
from dictlearn.comparison.report.page import note, page, plot, section
from dictlearn.comparison.report.precision import precision_section
from dictlearn.comparison.report.rate_sections import rate_sections
from dictlearn.comparison.report.results_section import results_section
from dictlearn.comparison.report.verdict import verdict
from dictlearn.comparison.tables.rendering import html_table
from dictlearn.comparison.vocabulary import (
    baselines,
    formatted,
    reference_losses,
    trained,
)
from dictlearn.core.own_files import OwnFiles
from dictlearn.core.provenance import Provenance
from dictlearn.records.agreement import AgreementRecords
from dictlearn.records.concepts import ConceptRecords
from dictlearn.records.features import FeatureRecords
from dictlearn.records.results import DictionaryRecord, Records

REPORT_FILE = "report.html"
"""The usual name of the report, next to `results.json`."""
DEFAULT_TITLE = "Dictionaries compared"


def write_report(
    records: Records,
    path: str | Path,
    *,
    title: str = DEFAULT_TITLE,
    training_log: str | Path | Mapping[str, str | Path] | None = None,
    concepts: ConceptRecords | None = None,
    agreement: AgreementRecords | None = None,
    features: FeatureRecords | None = None,
) -> Path:
    """The path of the report, after writing it as one self-contained HTML file.

    It needs no network. Training curves are included if a JSONL `training_log` is given, or
    several by name of the run; concepts, similarity of dictionaries and feature cards are
    included if their records are given.

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
        ),
    )
    return Path(path)


def report_html(
    records: Records,
    *,
    title: str = DEFAULT_TITLE,
    training_log: str | Path | Mapping[str, str | Path] | None = None,
    concepts: ConceptRecords | None = None,
    agreement: AgreementRecords | None = None,
    features: FeatureRecords | None = None,
) -> str:
    """The document that `write_report` writes.

    Raises:
        CorruptFileError: the training log cannot be read.
    """
    parts = [_header(records, title), *rate_sections(records)]
    parts.append(results_section(records))
    if concepts is not None:
        parts.append(precision_section(concepts))
    if agreement is not None:
        parts.append(agreement_section(agreement))
    parts.append(_densities(records))
    if training_log is not None:
        paths = training_log if isinstance(training_log, Mapping) else {"": training_log}
        logs = {run: read_training_log(path) for run, path in paths.items()}
        parts.append(section("Training", plot(training_figure(logs, looks(records)), "training")))
    if features is not None:
        parts.append(cards_section(features))
    parts.append(_provenance(records))
    return page(title, "\n".join(parts))


def _header(records: Records, title: str) -> str:
    tokens, model = records.tokens, records.provenance.model or "an unnamed model"
    n_trained, n_baselines = len(trained(records)), len(baselines(records))
    hooks = ", ".join(dict.fromkeys(str(r.sites) for r in records.dictionaries.values()))
    special = "excluded" if records.provenance.exclude_special else "included"
    about = (
        f"{n_trained} trained dictionaries and {n_baselines} baselines on {model} at {hooks}, all "
        f"evaluated on the same {tokens['n_tokens']:,} tokens in {tokens['n_sequences']:,} "
        f"sequences of {tokens['source']} ({tokens['split']}; special tokens {special})."
    )
    paragraphs = "".join(f"<p>{escape(text)}</p>" for text in verdict(records))
    return (
        f"<header><h1>{escape(title)}</h1>{note(about)}</header>{_tiles(records)}"
        f'<div class="verdict">{paragraphs}</div>'
    )


def _tiles(records: Records) -> str:
    tiles = {"tokens": f"{records.tokens['n_tokens']:,}"}
    losses = reference_losses(records)
    for hook, loss in losses.items():
        at = f" at {hook}" if len(losses) > 1 else ""
        tiles["clean loss"] = formatted("cross_entropy_clean", loss.clean)
        tiles[f"zero ablation{at}"] = formatted("cross_entropy_clean", loss.zero)
        tiles[f"mean ablation{at}"] = formatted("cross_entropy_clean", loss.mean)
    items = (f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in tiles.items())
    return f'<dl class="numbers">{"".join(items)}</dl>'


def _densities(records: Records) -> str:
    text = (
        "Histograms of feature density, the fraction of tokens on which a feature is active, on a "
        "logarithmic axis. Heights are scaled to the highest bar of each dictionary."
    )
    return section("Feature densities", note(text), plot(density_figure(records), "density"))


def _provenance(records: Records) -> str:
    origin = records.provenance
    facts = {
        "model": f"{origin.model} (weights {origin.model_hash or 'unknown'}, processing "
        f"{origin.weight_processing or 'unknown'})",
        "tokens": f"{records.tokens['source']}, {records.tokens['split']} "
        f"(hash {records.tokens['hash']})",
        "versions": _versions(origin),
    }
    lines = "".join(f"<p><b>{k}</b> {escape(v)}</p>" for k, v in facts.items())
    headings = [
        f'<th class="text">{h}</th>' for h in ("hook points", "seed", "trained on", "versions")
    ]
    rows = [_origin(name, record) for name, record in records.dictionaries.items()]
    inside = html_table(['<th class="name">dictionary</th>', *headings], rows)
    return (
        f'<footer class="soft">{lines}<details><summary>Provenance of each dictionary'
        f"</summary>{inside}</details></footer>"
    )


def _origin(name: str, record: DictionaryRecord) -> str:
    origin = record.provenance
    text = f"{origin.split or 'unknown split'}, hash {origin.text_hash[:12] or 'unknown'}"
    seed = "" if record.seed is None else str(record.seed)
    cells = (str(record.sites), seed, text, _versions(origin))
    tds = "".join(f'<td class="text">{escape(cell)}</td>' for cell in cells)
    return f'<tr><th scope="row" class="name">{escape(name)}</th>{tds}</tr>'


def _versions(origin: Provenance) -> str:
    return ", ".join(f"{library} {number}" for library, number in origin.versions.items())
