"""Histograms of feature density, one per dictionary."""

import math

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from dictlearn.comparison.figures.style import MOST_NAMES, Look, looks, plain, stacked
from dictlearn.comparison.vocabulary import baselines, trained
from dictlearn.records.results import DictionaryRecord, Records

BINS_PER_DECADE = 6


def density_figure(records: Records) -> go.Figure:
    """One histogram of log10 feature density per dictionary, on a common axis.

    Density is the fraction of tokens on which a feature is active. Dead features have no
    logarithm; the heading of each histogram gives their number. Heights are scaled to the highest
    bar of each histogram. Trained dictionaries come first. Dictionaries without features are left
    out; if there are many dictionaries, so are all training seeds but the first.
    """
    Records.require(records)
    learned = trained(records)
    if len(learned) > MOST_NAMES:
        seed = next(iter(learned.values())).seed
        learned = {name: record for name, record in learned.items() if record.seed == seed}
    ordered = {**learned, **baselines(records)}
    shown = {name: record for name, record in ordered.items() if record.density.numel()}
    lowest = min((_lowest_decade(record.density) for record in shown.values()), default=-1)
    style, decades = looks(records), list(range(lowest, 1))
    bars = [
        (_density_heading(name, record), _histogram(name, record, lowest, style[name]))
        for name, record in shown.items()
    ]
    figure = stacked(
        bars, "feature density (fraction of tokens, log scale)", each=74,
        range=(lowest - 0.1, 0.2), tickvals=decades, ticktext=[f"{10.0**d:g}" for d in decades],
    )  # fmt: skip
    return figure.update_layout(bargap=0.08)


def _density_heading(name: str, record: DictionaryRecord) -> str:
    never = int((record.density == 0).sum())
    return f"{plain(name)}: {record.n_features:,} features, {never:,} never active"


def _lowest_decade(density: Float[Tensor, " feature"]) -> int:
    active = density[density > 0]
    return math.floor(active.min().log10().item()) if active.numel() else -1


def _histogram(name: str, record: DictionaryRecord, lowest: int, look: Look) -> go.Bar:
    active = record.density[record.density > 0].double().log10()
    n_bins = BINS_PER_DECADE * -lowest + 1
    half = 0.5 / BINS_PER_DECADE
    counts = torch.histc(active, n_bins, lowest - half, half)
    centres = [lowest + i / BINS_PER_DECADE for i in range(n_bins)]
    return go.Bar(
        x=centres, y=counts.tolist(), name=plain(name),
        marker={"color": look.colour, "line": {"width": 0}},
        customdata=[10.0**centre for centre in centres],
        hovertemplate="%{y:,} features near density %{customdata:.2g}<extra></extra>",
    )  # fmt: skip
