"""The page about the greater-than study."""

from collections.abc import Mapping, Sequence
from math import isfinite
from statistics import fmean
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from dictlearn.comparison.figures.style import styled
from dictlearn.experiments.experiment import PARTS, Found, mean_and_margin, shown
from dictlearn.experiments.greater_than.measures import KEPT
from dictlearn.experiments.greater_than.prompts import TASK
from dictlearn.experiments.page import Graph, Page, Table

if TYPE_CHECKING:
    from dictlearn.experiments.greater_than.study import GreaterThanStudy

GRAPH = "graph"
"""The folder, in the part of the first seed, of the graph of the prompt in the middle."""
CURVES = {"features": "transcoder features", "neurons": "neurons", "random": "random features"}
OTHERS = {"zero": "the others 0", "mean": "the others at their means"}
"""The coefficients of features that are not kept."""
_PUBLISHED = (
    "Published for MLP 10 of GPT-2 small (Dunefsky et al. 2024): 0.883 in the model, 0.798 with "
    "all features of the transcoder, features above neurons for fewer than 24 kept."
)


def greater_than_page(study: "GreaterThanStudy", found: Mapping[str, Found]) -> Page:
    """The page, from the results of all parts."""
    models = [found[f"model-{seed}"] for seed in range(study.n_seeds)]
    curves = [found[f"curves-{seed}"] for seed in range(study.n_seeds)]
    main = min(curves[0], key=lambda name: fmean(one["removed"][name] for one in models))
    of_main = [one[main] for one in curves]
    return Page(
        verdict=[
            _differences_verdict(models, of_main, main),
            *(_kept_verdict(models, of_main, others) for others in OTHERS),
            _PUBLISHED,
            _years_verdict(study, of_main),
        ],
        tables=[
            _differences(study, models, curves),
            *(
                _kept(name, [one[name] for one in curves], others)
                for name in curves[0]
                for others in OTHERS
            ),
            _years(study, of_main, main),
        ],
        figures={
            **{
                f"kept-{others}": kept_figure(
                    of_main, others, fmean(one["difference"] for one in models)
                )
                for others in OTHERS
            },
            "direct-effects": year_figure(of_main[0], "direct", "output year"),
            "de-embedding": year_figure(of_main[0], "scores", "input year"),
        },
        graphs=[_graph(study)],
    )


def enough(curve: Sequence[float], goal: float) -> int | None:
    """The first number of kept features from which on the difference stays at `goal` or above."""
    reached = None
    for n, value in zip(KEPT, curve, strict=True):
        reached = None if value < goal else n if reached is None else reached
    return reached


def _differences_verdict(models: Sequence[Found], curves: Sequence[Found], main: str) -> str:
    removed = [one["removed"][main] for one in models]
    less = fmean(one["difference"] for one in models) - fmean(removed)
    return (
        f"P(later) - P(not later) is {shown([one['difference'] for one in models])} in the model, "
        f"{shown([one['blind'] for one in models])} if every prompt gets the mean prediction, "
        f"{shown(removed)} if {main}, the MLP that matters most, writes nothing at the last token "
        f"({less:.3f} less), and {shown([one['whole'] for one in curves])} with its transcoder in "
        "its place."
    )


def _kept_verdict(models: Sequence[Found], curves: Sequence[Found], others: str) -> str:
    """The features, neurons and random features that nine tenths of the way to the model take."""
    whole, counts = fmean(one["difference"] for one in models), []
    for key, name in CURVES.items():
        curve = [fmean(values) for values in zip(*_curves(curves, key, others), strict=True)]
        needed = enough(curve, curve[0] + 0.9 * (whole - curve[0]))
        taken = f"more than {KEPT[-1]}" if needed is None else str(needed)
        counts.append(f"{taken} {name} (from {curve[0]:.3f})")
    features, neurons = (_curves(curves, key, others) for key in ("features", "neurons"))
    above = [
        n for i, n in enumerate(KEPT)
        if all(one[i] > two[i] for one, two in zip(features, neurons, strict=True))
    ]  # fmt: skip
    return (
        f"With {OTHERS[others]}, nine tenths of the way from none kept to the model take "
        f"{', '.join(counts)}; features are above neurons with every seed at these numbers kept: "
        f"{', '.join(map(str, above)) or 'none'}."
    )


def _curves(curves: Sequence[Found], key: str, others: str) -> list[list[float]]:
    return [one[key][others] for one in curves]


def _years_verdict(study: "GreaterThanStudy", curves: Sequence[Found]) -> str:
    def both(key: str) -> str:
        own, other = ([one[key][i] for one in curves] for i in (0, 1))
        return f"{shown(own, 2)}, and {shown(other, 2)} for another feature's"

    return (
        f"Of the {study.n_looked_at} features of the largest variance: de-embedding scores through "
        "the layer's heads correlate over input years with the coefficients in the model by "
        f"{both('input')} (chance); a feature's direct effect favours years later than those that "
        f"it is on for by {both('output')} (chance; in logits per unit of the coefficient at unit "
        "scale)."
    )


def _differences(
    study: "GreaterThanStudy", models: Sequence[Found], curves: Sequence[Mapping[str, Found]]
) -> Table:
    rows = [
        ["the model", shown([one["difference"] for one in models])],
        ["its mean prediction, for every prompt", shown([one["blind"] for one in models])],
    ]
    for name in curves[0]:
        removed, whole = ([one["removed"][name] for one in models],
                          [one[name]["whole"] for one in curves])  # fmt: skip
        rows += [[f"{name} writes nothing", shown(removed)],
                 [f"transcoder for {name}, all features", shown(whole)]]  # fmt: skip
    subject = (
        study.model
        or "one layer, trained here with each seed, on BOS, "
        "a year of two digits as one token, a token between, and a year uniform among the later"
    )
    return Table(
        "Probability difference",
        f"P(later) - P(not later) among all 100 years, averaged over prompts. The "
        f"model: {subject}. The mean prediction knows nothing of the prompt: late years are a safe "
        "bet. Means with 95 % intervals over seeds (Student's).",
        ["", "difference"], rows,
    )  # fmt: skip


def _graph(study: "GreaterThanStudy") -> Graph:
    names = (
        ""
        if study.model
        else f" <{TASK.bos}> begins a sequence, and <{TASK.to}> stands before the later year."
    )
    return Graph(
        "Graph of one prompt",
        "What features of the transcoders (first seed), their errors and the tokens contribute to "
        f"the mean logit of the later years minus that of the others.{names}",
        f"{PARTS}/curves-0/{GRAPH}",
    )


def _kept(layer: str, curves: Sequence[Found], others: str) -> Table:
    rows = [
        [
            name,
            *(shown(list(values), 2) for values in zip(*_curves(curves, key, others), strict=True)),
        ]
        for key, name in CURVES.items()
    ]
    active = shown([float(one["n_active"]) for one in curves], 0)
    return Table(
        f"Features kept in {layer}, {OTHERS[others]}",
        "The difference when the features of the largest variance over prompts are kept at the "
        f"last token, and {OTHERS[others]}; biases stay, and everything else is as in the model. "
        f"Random features are among the {active} that are on for some prompt, means over 5 orders.",
        ["kept", *map(str, KEPT)], rows,
    )  # fmt: skip


def _years(study: "GreaterThanStudy", curves: Sequence[Found], main: str) -> Table:
    names = {"input": "r of de-embedding and coefficient, over input years",
             "output": "advantage of later years in the direct effect"}  # fmt: skip
    rows = [
        [name, *(shown([one[key][i] for one in curves]) for i in (0, 1))]
        for key, name in names.items()
    ]
    return Table(
        "Input and output years of features",
        f"{main}, the {study.n_looked_at} features of the largest variance; beside the mean over "
        "pairs of different features, as chance.",
        ["", "same feature", "other feature"], rows,
    )  # fmt: skip


def kept_figure(curves: Sequence[Found], others: str, whole: float) -> go.Figure:
    """The probability difference by the number of features kept, beside that of the model."""
    figure = go.Figure()
    for key, name in CURVES.items():
        by_kept = zip(*_curves(curves, key, others), strict=True)
        both = [mean_and_margin(list(values)) for values in by_kept]
        figure.add_scatter(
            x=list(KEPT), y=[mean for mean, _ in both], name=name,
            error_y={"array": [margin if isfinite(margin) else 0 for _, margin in both]},
        )  # fmt: skip
    figure.add_hline(y=whole, line_dash="dot", annotation_text="the model")
    figure.update_xaxes(title=f"features kept, {OTHERS[others]}")
    figure.update_yaxes(title="P(later) - P(not later)")
    return styled(figure, 420)


def year_figure(found: Found, key: str, axis: str) -> go.Figure:
    """A map of features by years (first seed), each feature divided by its largest size.

    Features are sorted by the mean year that they are on for.
    """
    acts = found["acts"]
    centres = [
        sum(year * act for year, act in enumerate(row)) / max(sum(row), 1e-30) for row in acts
    ]
    order = sorted(range(len(acts)), key=centres.__getitem__)
    rows = [[value / max(map(abs, found[key][i])) for value in found[key][i]] for i in order]
    figure = go.Figure(go.Heatmap(
        z=rows, y=[f"{found['chosen'][i]}" for i in order], colorscale="RdBu", zmid=0,
    ))  # fmt: skip
    figure.update_xaxes(title=axis)
    figure.update_yaxes(title="feature", type="category")
    return styled(figure, 480)
