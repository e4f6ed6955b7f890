"""The command that explains a prompt by its features."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dictlearn.cli import options
from dictlearn.cli.terminal import console, named_feature, say

if TYPE_CHECKING:
    from dictlearn.circuits.graph import CircuitGraph
    from dictlearn.circuits.targets import Target

PAGE = "graph.html"


def attribute(
    dictionaries: Annotated[
        list[Path], typer.Argument(help="Folders of dictionaries, or folders that contain them.")
    ],
    prompt: Annotated[str, typer.Option(help="Text whose next token is explained.")],
    target: Annotated[
        str | None,
        typer.Option(help="Token to explain, such as ' She'; by default the most probable ones."),
    ] = None,
    minus: Annotated[
        str | None, typer.Option(help="Token to compare it with: the difference is explained.")
    ] = None,
    feature: Annotated[
        str | None,
        typer.Option(help="Feature to explain instead, as NAME NUMBER, at the last token."),
    ] = None,
    n_features: Annotated[
        int, typer.Option("--features", help="Features whose incoming edges are found.")
    ] = 1024,
    n_shown: Annotated[int, typer.Option("--shown", help="Rows of each table.")] = 10,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the graph, and for graph.html to look at it in a browser."),
    ] = None,
    model: options.ModelName = "builtin:stories",
    check_model: options.CheckModel = True,
    device: options.Device = None,
    model_dtype: options.ModelDtype = "float32",
) -> None:
    """Find which features, tokens and errors make the model expect the next token of a prompt.

    Contributions add up: attention patterns, the scales of norms and the choice of features are
    held as they are on the prompt.
    """
    from dictlearn.circuits.attribute import attribute as attributed
    from dictlearn.circuits.storage import GRAPH_FILE, TENSORS_FILE
    from dictlearn.cli.subject import beside, loaded
    from dictlearn.core.own_files import OwnFiles
    from dictlearn.dictionaries.files import load_all

    explained = _target(target, minus, feature)
    if out is not None:
        OwnFiles.of(out, "circuit graph").require(GRAPH_FILE, TENSORS_FILE, PAGE)
    own = load_all(dictionaries)
    subject = loaded(model, check=check_model, device=device, dtype=model_dtype)
    graph = attributed(subject, prompt, beside(subject, own), explained, n_features=n_features)
    _show(graph, n_shown)
    if out is not None:
        graph.save(out)
        say(f"graph: {graph.to_html(out / PAGE, title=prompt)}")


def _target(target: str | None, minus: str | None, feature: str | None) -> "Target":
    from dictlearn.circuits.targets import FeatureTarget, Logit, LogitDifference, TopLogits
    from dictlearn.core.errors import InputError

    if feature is not None:
        named = named_feature(feature)
        if target is not None or minus is not None or named is None:
            raise InputError(
                "required --feature 'NAME NUMBER', such as 'mlp3 17', without --target and "
                f"--minus, got {feature!r}"
            )
        return FeatureTarget(*named)
    if minus is not None and target is None:
        raise InputError("--minus is the token that --target is compared with: required --target")
    if target is None:
        return TopLogits()
    return Logit(target) if minus is None else LogitDifference(target, minus)


def _show(graph: "CircuitGraph", n: int) -> None:
    """Print the targets, the scores, and the strongest nodes and edges."""
    from dictlearn.comparison.tables.terminal import terminal_table

    replacement, completeness = graph.scores()
    targets = terminal_table(
        "Explained",
        f"replacement score {replacement:.3f}, completeness score {completeness:.3f}: the parts "
        "of influence and of edges that do not come from errors",
    )
    for head in ("target", "value", "probability"):
        targets.add_column(head)
    for label, value, p in zip(
        graph.labels, graph.targets.values.tolist(), graph.probabilities.tolist(), strict=True
    ):
        targets.add_row(repr(label), f"{value:.3f}", f"{p:.3f}" if p == p else "–")
    nodes = graph.nodes_to_pandas()
    nodes["direct"] = (
        graph.weights.to(graph.rows.dtype) @ graph.rows[: len(graph.weights)]
    ).numpy()
    strongest = terminal_table(
        "Most influential nodes",
        "influence: the part of all paths to the targets that lead through the node; direct: what "
        "it contributes to the targets itself, weighted",
    )
    for head in ("node", "influence", "direct"):
        strongest.add_column(head)
    for row in nodes.nlargest(n, "influence").itertuples():
        strongest.add_row(row.name, f"{row.influence:.3f}", f"{row.direct:+.3f}")
    edges = terminal_table("Strongest edges", "after pruning")
    for head in ("from", "to", "weight"):
        edges.add_column(head)
    for row in graph.edges_to_pandas().head(n).itertuples():
        edges.add_row(row.source, row.target, f"{row.weight:+.3f}")
    console.print(targets, strongest, edges)
