"""The page about steering: how often texts take up a topic, and what it costs."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from dictlearn.comparison.figures.style import styled
from dictlearn.experiments.codes import frequency_figure, frequency_table
from dictlearn.experiments.experiment import Found, mean_and_margin, shown
from dictlearn.experiments.page import Page, Table
from dictlearn.experiments.steering.topics import TOPICS

if TYPE_CHECKING:
    from dictlearn.experiments.steering.study import SteeringStudy

CLEAN, IN_PLACE = "clean", "codes in place"
PUBLISHED = {"dragon": (2.5, 65.0), "flower": (0.0, 90.0), "princess": (40.0, 87.5)}
"""Percent of texts without steering and with all codes (Tamkin et al. 2024, Table 3, TinyStories;
200 tokens, codes picked by hand)."""


def steering_page(study: "SteeringStudy", found: Mapping[str, Found]) -> Page:
    """The page, from the results of all parts."""
    seeds = range(study.n_seeds)
    topics = [topic for topic in TOPICS if all(len(found[f"{topic}-{s}"]) > 1 for s in seeds)]
    left_out = [topic for topic in TOPICS if topic not in topics]
    methods = [name for name in found[f"{topics[0]}-0"] if name != "labelled"]
    rates = {
        method: {topic: [found[f"{topic}-{s}"][method][topic] for s in seeds] for topic in topics}
        for method in methods
    }
    plain = {
        name: {topic: [found[f"baseline-{s}"][name][topic] for s in seeds] for topic in topics}
        for name in (CLEAN, IN_PLACE)
    }
    costs = {
        cost: {m: [_mean([found[f"{t}-{s}"][m][cost] for t in topics]) for s in seeds]
               for m in methods}
        | {name: [found[f"baseline-{s}"][name][cost] for s in seeds] for name in plain}
        for cost in ("loss", "implausibility")
    }  # fmt: skip
    everything, read = plain | rates, [found[f"reading-{seed}"] for seed in seeds]
    return Page(
        verdict=[_verdict(rates, plain, costs, left_out), _of_concepts(read)],
        tables=[
            _methods(study, everything, costs),
            _by_topic(everything, topics, found, study),
            _concepts(read),
            frequency_table("First seed, held-out text.", read[0]["frequencies"]),
        ],
        figures={
            "rates": cost_figure(everything, costs["implausibility"]),
            "frequencies": frequency_figure(read[0]["frequencies"]),
        },
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _over_topics(by_topic: Mapping[str, Sequence[float]]) -> list[float]:
    """The mean rate of each seed."""
    return [_mean(values) for values in zip(*by_topic.values(), strict=True)]


def _steers(values: Sequence[float], before: Sequence[float]) -> bool:
    """Whether the rate is higher than without steering, by an interval over seeds."""
    mean, margin = mean_and_margin([a - b for a, b in zip(values, before, strict=True)])
    return mean > margin if len(values) > 1 else mean > 0


def _verdict(
    rates: Mapping[str, Mapping[str, Sequence[float]]],
    plain: Mapping[str, Mapping[str, Sequence[float]]],
    costs: Mapping[str, Mapping[str, Sequence[float]]],
    left_out: Sequence[str],
) -> str:
    parts = [
        f"Without steering, {shown(_over_topics(plain[CLEAN]), 1, 100)} % of texts mention a topic "
        "on average, and the clean model gives its own texts "
        f"{shown(costs['implausibility'][CLEAN], 2)} nats "
        "per token."
    ]
    for method, by_topic in rates.items():
        reference = plain[IN_PLACE if "codes" in method else CLEAN]
        raised = [topic for topic in by_topic if _steers(by_topic[topic], reference[topic])]
        failed = [topic for topic in by_topic if topic not in raised]
        parts.append(
            f"{method[0].upper()}{method[1:]}: {shown(_over_topics(by_topic), 1, 100)} %, at "
            f"{shown(costs['implausibility'][method], 2)} nats; more than without for "
            f"{', '.join(raised) or 'no topic'}"
            + (f", not for {', '.join(failed)}." if failed else ".")
        )
    if left_out:
        parts.append(f"Too rare in the text to choose features for: {', '.join(left_out)}.")
    return " ".join(parts)


def _of_concepts(read: Sequence[Found]) -> str:
    """How precise the best codes are, beside neurons at equal recall."""
    best = [one["best code of each concept"] for one in read]
    if not all(one["n_codes"] for one in best):
        return "No code detects a concept with a recall of more than 1 %."
    codes, neurons = ([one[key] for one in best] for key in ("codes", "neurons"))
    return (
        f"As detectors of concepts, the best codes have a precision of {shown(codes, 1, 100)} % on "
        f"average, and the best neurons {shown(neurons, 1, 100)} % at the same recall."
    )


def _methods(
    study: "SteeringStudy",
    everything: Mapping[str, Mapping[str, Sequence[float]]],
    costs: Mapping[str, Mapping[str, Sequence[float]]],
) -> Table:
    rows = [
        [method, shown(_over_topics(by_topic), 1, 100), shown(costs["loss"][method], 2),
         shown(costs["implausibility"][method], 2)]
        for method, by_topic in everything.items()
    ]  # fmt: skip
    return Table(
        "Methods",
        f"{study.n_samples} texts of at most {study.n_new} tokens after each of four prompts, at "
        "temperature 1; the rate is the percentage that mention the topic, averaged over topics, "
        "with 95 % intervals over seeds of training and sampling (Student's). Loss: next-token "
        "loss of the steered model on held-out text, in nats. Implausibility: loss of the sampled "
        "texts under the clean model. Codes: the 8 or 4 codes of heads whose activity on training "
        "text with the topic differs most, in codebooks (256 codes per head, k = 8) that the model "
        f"was finetuned with for {study.steps} steps; the last of 8 slots, or all slots. SAE "
        f"feature: the one feature of a top-k SAE (1,024 features, k = 16) at {study.hook} chosen "
        "the same way; its direction is added, as is the difference of mean activations on text "
        "with and without the topic, or a random direction, with a norm of 0.3 or 0.6 times that "
        "of a mean activation. All edits are at all positions, prompts included, and no feature "
        "was picked by hand.",
        ["method", "rate (%)", "loss", "implausibility"], rows,
    )  # fmt: skip


def _by_topic(
    everything: Mapping[str, Mapping[str, Sequence[float]]],
    topics: Sequence[str],
    found: Mapping[str, Found],
    study: "SteeringStudy",
) -> Table:
    rows = []
    for topic in topics:
        share = found[f"{topic}-0"]["labelled"] / study.n_blocks
        before, after = PUBLISHED.get(topic, (None, None))
        rows.append(
            [topic, f"{100 * share:.1f}"]
            + [shown(by_topic[topic], 0, 100) for by_topic in everything.values()]
            + ["—" if before is None else f"{before:g} to {after:g}"]
        )
    return Table(
        "Topics",
        "Percentage of texts that mention the topic, with 95 % intervals over seeds; next to the "
        "name, the percentage of blocks of training text that do. Published: without steering to "
        "all codes, for another model, 200 tokens, and codes that were picked by hand.",
        ["topic", "text (%)", *everything, "published"], rows,
    )  # fmt: skip


def _concepts(read: Sequence[Found]) -> Table:
    groups = ("all codes", "best code of each concept")
    rows = [
        [group, "", *_scores([one[group] for one in read])]
        for group in groups
        if all(one[group]["n_codes"] for one in read)
    ]
    common = set.intersection(*(set(one["concepts"]) for one in read))
    rows += [
        [name, read[0]["concepts"][name]["code"], *_scores([one["concepts"][name] for one in read])]
        for name in sorted(common)
    ]
    return Table(
        "Precision for concepts",
        f"Codes of the finetuned model as detectors of {read[0]['n_concepts']} concepts (regular "
        "expressions) on held-out text. Each code stands for the concept of the tokens on which it "
        "is active most often, on half of the text; precision and recall are those on the other "
        "half, and codes with a recall of at most 1 % are left out. The neuron is the most precise "
        "of all hidden neurons of the MLPs of the model without codebooks at the recall of the "
        "code, chosen on the first half. No code is picked by hand; the code named is that of the "
        "first seed. Concepts that have a code with every seed are shown.",
        ["concept", "code", "precision (%)", "best neuron (%)", "recall (%)", "base rate (%)"],
        rows,
    )  # fmt: skip


def _scores(seeds: Sequence[Mapping[str, float]]) -> list[str]:
    return [
        shown([one[key] for one in seeds], 1, 100) if key in seeds[0] else ""
        for key in ("codes", "neurons", "recall", "base_rate")
    ]


def cost_figure(
    everything: Mapping[str, Mapping[str, Sequence[float]]],
    implausibility: Mapping[str, Sequence[float]],
) -> go.Figure:
    """The rate of each method by what it costs."""
    figure = go.Figure()
    for method, by_topic in everything.items():
        rates = [100 * rate for rate in _over_topics(by_topic)]
        figure.add_scatter(
            x=list(implausibility[method]), y=rates, name=method, mode="markers",
            marker={"size": 9},
        )  # fmt: skip
    figure.update_xaxes(title="implausibility (nats per token)")
    figure.update_yaxes(title="texts with the topic (%)")
    return styled(figure, 460)
