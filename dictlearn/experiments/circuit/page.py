"""The page about the pronoun's circuit."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from dictlearn.comparison.figures.style import styled
from dictlearn.experiments.circuit.prompts import COUNTS, NAMES, PROMPT
from dictlearn.experiments.experiment import PARTS, Found, mean_and_margin, shown
from dictlearn.experiments.page import Graph, Page, Table

if TYPE_CHECKING:
    from dictlearn.experiments.circuit.study import CircuitStudy

GRAPH = "graph"
"""The folder, in the part of the first seed, of the graph of the first prompt."""
FEATURES, NEURONS, RANDOM = "transcoder features", "neurons", "random features"


def circuit_page(study: "CircuitStudy", found: Mapping[str, Found]) -> Page:
    """The page, from the results of all parts."""
    seeds = [found[f"circuits-{seed}"] for seed in range(study.n_seeds)]
    neurons = found["neurons"]
    left = {
        FEATURES: [_over_prompts(one, "left") for one in seeds],
        NEURONS: [_over_prompts(neurons, "left")],
        RANDOM: [_over_prompts(one, "random") for one in seeds],
    }
    return Page(
        verdict=[_verdict(study, left, seeds, neurons)],
        tables=[_left(left), _prompts(seeds, neurons), _agreement(study, seeds)],
        figures={"left": left_figure(left)},
        graphs=[_graph()],
    )


def _over_prompts(found: Found, key: str) -> list[float]:
    """The mean over prompts of what is left, for each number of nodes."""
    return [fmean(values) for values in zip(*(one[key] for one in found.values()), strict=True)]


def _verdict(
    study: "CircuitStudy",
    left: Mapping[str, Sequence[Sequence[float]]],
    seeds: Sequence[Found],
    neurons: Found,
) -> str:
    four = COUNTS.index(4)
    features = [one[four] for one in left[FEATURES]]
    mean, _ = mean_and_margin(features)
    fewer = [n for n, rest in zip(COUNTS, left[NEURONS][0], strict=True) if rest <= mean]
    as_much = f"{fewer[0]}" if fewer else f"more than {COUNTS[-1]}"
    held = _mean(seeds, "correlation_held")
    right = sum(one["preference"] > 0 for one in neurons.values())
    return (
        f"The model prefers the right pronoun for {right} of {len(neurons)} names. Without the "
        f"four transcoder features of the largest predicted effect {shown(features, 2)} of the "
        f"preference is left, without four neurons {left[NEURONS][0][four]:.2f}, without four "
        f"random active features {shown([one[four] for one in left[RANDOM]], 2)}; {as_much} "
        f"neurons are needed to leave as little. Predicted effects of the {study.n_compared} "
        f"strongest nodes correlate with interventions by {shown(held, 2)} if attention patterns "
        f"and norms are held, and by {shown(_mean(seeds, 'correlation_actual'), 2)} in the model "
        "itself, where removing a feature moves attention as well."
    )


def _mean(seeds: Sequence[Found], key: str) -> list[float]:
    return [fmean(one[key] for one in seed.values()) for seed in seeds]


def _left(left: Mapping[str, Sequence[Sequence[float]]]) -> Table:
    rows = [
        [name, *(shown([one[i] for one in seeds], 2) for i in range(len(COUNTS)))]
        for name, seeds in left.items()
    ]
    return Table(
        "What is left of the preference",
        "The logit of the right pronoun minus that of the other, as a part of that of the model, "
        "when what some nodes write is taken off at the outputs of the MLPs and the rest of the "
        "model follows; means over prompts, with 95 % intervals over seeds (Student's). 0: no "
        "preference is left; below 0: the other pronoun is preferred. Nodes are those of the "
        "largest total effect that the graph predicts, at any token. Neurons have no seed.",
        ["without", *(f"{n}" for n in COUNTS)], rows,
    )  # fmt: skip


def _prompts(seeds: Sequence[Found], neurons: Found) -> Table:
    rows = [
        [name, pronoun.strip(), f"{neurons[name]['preference']:.2f}",
         "; ".join(seeds[0][name]["strongest"]), "; ".join(neurons[name]["strongest"])]
        for name, pronoun in NAMES.items()
    ]  # fmt: skip
    return Table(
        "Prompts",
        f"Prompts are {PROMPT.format('NAME')!r}; the preference is in logits. Strongest nodes: "
        "dictionary, feature @ position (first seed), by predicted total effect.",
        ["name", "pronoun", "preference", "strongest features", "strongest neurons"], rows,
    )  # fmt: skip


def _graph() -> Graph:
    name = next(iter(NAMES))
    return Graph(
        f"Graph of {PROMPT.format(name)!r}",
        "What features of the transcoders (first seed), their errors and the tokens contribute to "
        "the logit of the right pronoun minus that of the other.",
        f"{PARTS}/circuits-0/{GRAPH}",
    )


def _agreement(study: "CircuitStudy", seeds: Sequence[Found]) -> Table:
    keys = {
        "replacement score": "replacement",
        "completeness score": "completeness",
        "r, patterns and norms held": "correlation_held",
        "r, nothing held": "correlation_actual",
    }
    rows = [
        [name, shown(_mean(seeds, key), 3),
         f"{min(one[key] for seed in seeds for one in seed.values()):.3f}"]
        for name, key in keys.items()
    ]  # fmt: skip
    return Table(
        "Graphs and interventions",
        "Scores of the graphs (Ameisen et al. 2025) and Pearson correlations, over the "
        f"{study.n_compared} nodes of the largest predicted total effect, with the change of the "
        "preference when one node is taken away; means over prompts, with intervals over seeds, "
        "and the least of all prompts and seeds.",
        ["", "mean", "least"], rows,
    )  # fmt: skip


def left_figure(left: Mapping[str, Sequence[Sequence[float]]]) -> go.Figure:
    """The part of the preference that is left, by the number of nodes taken away."""
    figure = go.Figure()
    for name, seeds in left.items():
        both = [mean_and_margin([one[i] for one in seeds]) for i in range(len(COUNTS))]
        figure.add_scatter(
            x=list(COUNTS), y=[mean for mean, _ in both], name=name,
            error_y={"array": [margin if margin < 1e9 else 0 for _, margin in both]},
        )  # fmt: skip
    figure.update_xaxes(title="nodes taken away", type="log")
    figure.update_yaxes(title="part of the preference that is left")
    return styled(figure, 420)
