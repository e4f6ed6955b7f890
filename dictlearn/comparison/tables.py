"""A table for the terminal."""

import math
from collections.abc import Mapping

from rich import box
from rich.table import Table
from rich.text import Text

from dictlearn.comparison.vocabulary import (
    KEY_METRICS,
    LABELS,
    Footnotes,
    baselines,
    reference_losses,
    trained,
)
from dictlearn.core.records import DictionaryRecord, Metric, Records

NARROW: Mapping[str, str] = {
    "cross_entropy_spliced": "CE\nspliced",
    "loss_recovered_zero": "LR\nzero",
    "loss_recovered_mean": "LR\nmean",
    "top1_agreement": "top-1",
}
"""Headings that are shorter in a terminal; the caption spells them out."""

CAPTION = (
    "FVU: fraction of variance unexplained. CE: cross-entropy, and KL to the clean model, in nats. "
    "LR: part of the loss of zero or mean ablation recovered. top-1: predictions unchanged."
)


def results_table(records: Records) -> Table:
    """One row a dictionary, the baselines below the others, for a terminal 110 columns wide.

    The title names the model and the tokens; the caption gives the losses that numbers relate
    to, and the reason for every missing value. Loss recovered is relative to zero ablation and
    to mean ablation of the hook that is replaced.
    """
    targets = reference_losses(records)
    table = Table(title=Text(_title(records), style="bold"), box=box.SIMPLE_HEAD,
                  title_justify="left", caption_justify="left", pad_edge=False,
                  collapse_padding=True)  # fmt: skip
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
