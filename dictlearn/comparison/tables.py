"""Tables for the terminal."""

import math
from collections.abc import Mapping

from rich import box
from rich.table import Table
from rich.text import Text

from dictlearn.comparison.families import RATES
from dictlearn.comparison.intervals import can_resample, intervals_of
from dictlearn.comparison.matched import MATCHED, matched_frame
from dictlearn.comparison.matched_rows import MATCHED_CAPTION, matched_rows
from dictlearn.comparison.vocabulary import (
    KEY_METRICS,
    LABELS,
    Footnotes,
    baselines,
    formatted,
    reference_losses,
    trained,
    value_of,
    with_interval,
)
from dictlearn.core.metric import Metric
from dictlearn.records.results import DictionaryRecord, Records

NARROW: Mapping[str, str] = {
    "cross_entropy_spliced": "CE\nspliced",
    "loss_recovered_zero": "LR\nzero",
    "loss_recovered_mean": "LR\nmean",
    "top1_agreement": "top-1",
    "support_bits": "support\nbits",
    "coefficient_bits": "coefficient\nbits",
}
"""Headings that are shorter in a terminal; the caption spells them out."""

CAPTION = (
    "FVU: fraction of variance unexplained. CE: cross-entropy, and KL to the clean model, in nats. "
    "LR: part of the loss of zero or mean ablation recovered. top-1: predictions unchanged."
)


INTERVAL_METRICS = (
    "fraction_variance_unexplained", "loss_recovered_zero", "kl", "top1_agreement"
)  # fmt: skip
"""What a second table repeats with 95 % intervals."""


def tables(records: Records) -> list[Table]:
    """All tables of a comparison that there is something to fill with."""
    found = [results_table(records)]
    if can_resample(records):
        found.append(intervals_table(records))
        for rate in RATES:
            found += filter(lambda table: table.row_count, [matched_table(records, rate)])
    return found


def intervals_table(records: Records) -> Table:
    """What each dictionary costs, and its key metrics with half of their 95 % intervals."""
    table = _table("95 % intervals", "±: half of the 95 % bootstrap interval over sequences. bits "
                   "per token: which features are active, and their coefficients.")  # fmt: skip
    table.add_column("dictionary", overflow="fold", min_width=12, max_width=20)
    for name in ("l0", *_PRICES, *INTERVAL_METRICS):
        table.add_column(NARROW.get(name, LABELS[name]), justify="right", no_wrap=True)
    found = intervals_of(records, INTERVAL_METRICS)
    for group, style in ((trained(records), ""), (baselines(records), "dim")):
        for name, record in group.items():
            spent = [formatted(key, value_of(record, key)) for key in ("l0", *_PRICES)]
            cells = [with_interval(key, of[name]) for key, of in found.items()]
            table.add_row(*map(Text, (name, *spent, *cells)), style=style)
        table.add_section()
    return table


def matched_table(records: Records, rate: str) -> Table:
    """Families at equal rates, as far as they overlap; without rows where they do not."""
    rows = matched_rows(matched_frame(records, rate))
    table = _table(f"at equal {'L0' if rate == 'l0' else 'bits per token'}", MATCHED_CAPTION)
    for heading in (LABELS[rate], "family"):
        table.add_column(heading, overflow="fold", max_width=28)
    for metric in MATCHED:
        for heading in (NARROW.get(metric, LABELS[metric]), "beside the best"):
            table.add_column(heading, justify="right", no_wrap=True)
    hooks = {row.hook for row in rows}
    for before, row in zip([None, *rows], rows, strict=False):
        if before and (before.hook, before.at) != (row.hook, row.at):
            table.add_section()
        where = f"\n{row.hook}" if len(hooks) > 1 else ""
        cells = [text for metric in MATCHED for text in row.texts(metric)]
        table.add_row(*map(Text, (f"{row.at:g}", row.family + where, *cells)))
    return table


_PRICES = ("support_bits", "coefficient_bits", "bits")


def _table(title: str, caption: str) -> Table:
    return Table(title=Text(title, style="bold"), caption=Text(caption, style="dim"),
                 box=box.SIMPLE_HEAD, title_justify="left", caption_justify="left",
                 pad_edge=False, collapse_padding=True)  # fmt: skip


def results_table(records: Records) -> Table:
    """One row a dictionary, the baselines below the others, for a terminal 110 columns wide.

    The title names the model and the tokens; the caption gives the losses that numbers relate
    to, and the reason for every missing value. Loss recovered is relative to zero ablation and
    to mean ablation of the hook that is replaced.
    """
    targets = reference_losses(records)
    table = _table(_title(records), "")
    table.add_column("dictionary", overflow="fold", min_width=12, max_width=20)
    table.add_column("kind", overflow="fold", min_width=8, max_width=12)
    table.add_column("features", justify="right", no_wrap=True)
    for name in KEY_METRICS:
        table.add_column(NARROW.get(name, LABELS[name]), justify="right", no_wrap=True)
    footnotes = Footnotes()
    for group, style in ((trained(records), ""), (baselines(records), "dim")):
        for name, record in group.items():
            hook = str(record.sites) if len(targets) > 1 else ""
            table.add_row(*_cells(name, hook, record, footnotes), style=style)
        table.add_section()
    losses = [f"Cross-entropy at {hook}: {loss}" for hook, loss in targets.items()]
    table.caption = Text("\n".join([*losses, CAPTION, *footnotes.lines()]), style="dim")
    return table


def _title(records: Records) -> str:
    tokens = records.tokens
    hooks = ", ".join(dict.fromkeys(str(r.sites) for r in records.dictionaries.values()))
    model = records.provenance.model or "unknown model"
    return (
        f"{model}, {hooks}\n{tokens['n_tokens']:,} tokens of {tokens['source']} ({tokens['split']})"
    )


def _cells(name: str, hook: str, record: DictionaryRecord, footnotes: Footnotes) -> list[Text]:
    first = Text(name)
    if hook:
        first.append(f"\n{hook}", style="dim")
    metrics = ((key, record.metrics.get(key, Metric(math.nan))) for key in KEY_METRICS)
    numbers = [footnotes.cell(key, metric) for key, metric in metrics]
    return [first, Text(record.kind), *map(Text, (f"{record.n_features:,}", *numbers))]
