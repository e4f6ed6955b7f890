"""Tables of a comparison for the terminal."""

import math

from rich import box
from rich.table import Table
from rich.text import Text

from dictlearn.comparison.cautions import cautions
from dictlearn.comparison.statistics.intervals import can_resample, intervals_of
from dictlearn.comparison.tables.description import SHORT
from dictlearn.comparison.tables.description import Table as Described
from dictlearn.comparison.tables.matched import matched_tables
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

CAPTION = (
    "FVU: fraction of variance unexplained. CE: cross-entropy, and KL to the clean model, in nats. "
    "LR: loss recovered relative to zero or mean ablation. top-1: predictions that are unchanged."
)


INTERVAL_METRICS = (
    "fraction_variance_unexplained", "loss_recovered_zero", "kl", "top1_agreement"
)  # fmt: skip
"""Metrics of the second table, with 95 % intervals."""
_COSTS = ("support_bits", "coefficient_bits", "bits")


def tables(records: Records) -> list[Table]:
    """The tables of a comparison: results, intervals and families at equal rates, if not empty."""
    found = [results_table(records)]
    if can_resample(records):
        found.append(intervals_table(records))
    return [*found, *map(as_terminal, matched_tables(records))]


def as_terminal(table: Described) -> Table:
    """The table for a terminal, with its title and caption and a space between groups."""
    drawn = terminal_table(table.title, table.caption)
    for column in table.columns:
        if column.numeric:
            drawn.add_column(column.short, justify="right", no_wrap=True)
        else:
            drawn.add_column(column.short, overflow="fold", max_width=28)
    for group in table.groups:
        for row in group:
            drawn.add_row(*(Text(cell.text) for cell in row))
        drawn.add_section()
    return drawn


def terminal_table(title: str, caption: str) -> Table:
    """An empty table for a terminal."""
    return Table(
        title=Text(title, style="bold"), caption=Text(caption, style="dim"), box=box.SIMPLE_HEAD,
        title_justify="left", caption_justify="left", pad_edge=False, collapse_padding=True,
    )  # fmt: skip


def intervals_table(records: Records) -> Table:
    """L0 and cost in bits of each dictionary, and its key metrics with 95 % intervals."""
    table = terminal_table(
        "95 % intervals",
        "±: half the width of the 95 % interval over sequences. Bits are per token: "
        "support bits for the set of active features, coefficient bits for their values.",
    )
    table.add_column("dictionary", overflow="fold", min_width=12, max_width=20)
    for name in ("l0", *_COSTS, *INTERVAL_METRICS):
        table.add_column(SHORT.get(name, LABELS[name]), justify="right", no_wrap=True)
    found = intervals_of(records, (*_COSTS, *INTERVAL_METRICS))
    for group, style in ((trained(records), ""), (baselines(records), "dim")):
        for name, record in group.items():
            l0 = formatted("l0", value_of(record, "l0"))
            cells = [
                with_interval(key, of[name]._replace(value=value_of(record, key)))
                for key, of in found.items()
            ]
            table.add_row(*map(Text, (name, l0, *cells)), style=style)
        table.add_section()
    return table


def results_table(records: Records) -> Table:
    """One row per dictionary, with the baselines last, for a terminal 110 columns wide.

    The title names the model and the tokens. The caption gives the reference losses and the
    reason for each missing value. Loss recovered is relative to zero ablation and to mean
    ablation of the hook that is replaced.
    """
    targets = reference_losses(records)
    table = terminal_table(_title(records), "")
    table.add_column("dictionary", overflow="fold", min_width=12, max_width=20)
    table.add_column("kind", overflow="fold", min_width=8, max_width=12)
    table.add_column("features", justify="right", no_wrap=True)
    for name in KEY_METRICS:
        table.add_column(SHORT.get(name, LABELS[name]), justify="right", no_wrap=True)
    footnotes = Footnotes()
    for group, style in ((trained(records), ""), (baselines(records), "dim")):
        for name, record in group.items():
            hook = _hooks(record) if len(targets) > 1 else ""
            table.add_row(*_cells(name, hook, record, footnotes), style=style)
        table.add_section()
    losses = [f"Cross-entropy at {hook}: {loss}" for hook, loss in targets.items()]
    lines = [*cautions(records), *losses, CAPTION, *footnotes.lines()]
    table.caption = Text("\n".join(lines), style="dim")
    return table


def _hooks(record: DictionaryRecord) -> str:
    """Source and target, and whether estimates are of the running model."""
    place = record.place
    return place if record.sites.is_autoencoder else f"{record.sites.source} -> {place}"


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
