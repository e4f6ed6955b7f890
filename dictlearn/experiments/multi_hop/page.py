"""The page about the multi-hop study."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from dictlearn.comparison.figures.style import styled
from dictlearn.experiments.experiment import Found, mean_and_margin, shown
from dictlearn.experiments.multi_hop.measures import LEAST_SHARE
from dictlearn.experiments.page import Page, Table

if TYPE_CHECKING:
    from dictlearn.experiments.multi_hop.study import MultiHopStudy

PER_LAYER, CROSS_LAYER = "per layer", "cross-layer"
NEURONS, LOOK_UP = "neurons", "look-up table"
_MEASURES = {
    "unexplained": "FVU", "n_active": "active features", "answers": "answers",
    "reactions": "reactions", "skipped": "skipped", "precision": "precision", "recall": "recall",
}  # fmt: skip


def multi_hop_page(study: "MultiHopStudy", found: Mapping[str, Found]) -> Page:
    """The page, from the results of all parts."""
    seeds = [found[f"trained-{seed}"] for seed in range(study.n_seeds)]
    return Page(
        verdict=[_verdict(seeds)],
        tables=[_measures(study, found["planted"], seeds)],
        figures={"skipped": skipped_figure(seeds)},
    )


def _of(seeds: Sequence[Found], l1: str, kind: str, key: str) -> list[float]:
    return [one[l1][kind][key] for one in seeds]


def _verdict(seeds: Sequence[Found]) -> str:
    ends = list(dict.fromkeys((next(iter(seeds[0])), list(seeds[0])[-1])))

    def told(kind: str, key: str) -> str:
        return " and ".join(shown(_of(seeds, l1, kind, key), 2) for l1 in ends)

    return (
        f"Of the answer's edges in the graphs of {CROSS_LAYER} transcoders, "
        f"{told(CROSS_LAYER, 'skipped')} skip the second layer with L1 coefficients of "
        f"{' and '.join(ends)}. The answers through them are the model's for "
        f"{told(CROSS_LAYER, 'answers')} of the inputs, but for {told(CROSS_LAYER, 'reactions')} "
        "when one variable between the layers is turned to its opposite; through transcoders "
        f"{PER_LAYER} for {told(PER_LAYER, 'reactions')}. The graphs of these have "
        f"{told(PER_LAYER, 'recall')} of the circuit's edges, those of {CROSS_LAYER} transcoders "
        f"{told(CROSS_LAYER, 'recall')}; {told(PER_LAYER, 'precision')} of the edges {PER_LAYER} "
        f"and {told(CROSS_LAYER, 'precision')} of the {CROSS_LAYER} ones are the circuit's."
    )


def _measures(study: "MultiHopStudy", planted: Found, seeds: Sequence[Found]) -> Table:
    rows = [
        [name, "—", *(f"{planted[name][key]:.2f}" for key in _MEASURES)]
        for name in (NEURONS, LOOK_UP)
    ]
    for kind in (PER_LAYER, CROSS_LAYER):
        rows += [
            [kind, l1, *(shown(_of(seeds, l1, kind, key), 2) for key in _MEASURES)]
            for l1 in seeds[0]
        ]
    return Table(
        "Transcoders beside the circuit",
        "The model computes z = x XOR y from x = a AND b and y = c AND d: its first MLP has a "
        "neuron for x and one for y, its second one for each of x AND NOT y and NOT x AND y. "
        f"Transcoders have {study.n_features} features in each layer, and learn from all 16 inputs "
        f"for {study.steps} steps. FVU: squared error of both MLPs' outputs by their variance. "
        "Answers: the part of the inputs for which the model through the transcoders answers as it "
        "does by itself. Reactions: the same when x or y is turned to its opposite in the stream "
        "behind the first layer, which the second hop has to notice. Skipped: of the edges from "
        "features into the answer, the part by size from features that read the first layer. "
        "Precision and recall: of edges on ways to the answer, in the graphs of the 6 inputs for "
        f"which it is true; edges of at least {LEAST_SHARE:g} of the sizes of all edges into their "
        "reader, where a feature stands for the neuron of its layer that is active for the same "
        "inputs. Means with 95 % intervals over seeds (Student's). Neurons are the truth; the "
        "look-up table is a cross-layer transcoder, written by hand, with one feature of the first "
        "layer for each input that some neuron is active for, which writes what both layers write.",
        ["transcoders", "L1 coefficient", *_MEASURES.values()], rows,
    )  # fmt: skip


def skipped_figure(seeds: Sequence[Found]) -> go.Figure:
    """The part of the answer's edges that skip the second layer, by L1 coefficient."""
    figure = go.Figure()
    for kind in (PER_LAYER, CROSS_LAYER):
        both = [mean_and_margin(_of(seeds, l1, kind, "skipped")) for l1 in seeds[0]]
        figure.add_scatter(
            x=[float(l1) for l1 in seeds[0]], y=[mean for mean, _ in both], name=kind,
            error_y={"array": [margin if isfinite(margin) else 0 for _, margin in both]},
        )  # fmt: skip
    figure.update_xaxes(title="L1 coefficient", type="log")
    figure.update_yaxes(title="part of the answer's edges that skip the second layer")
    return styled(figure, 420)
