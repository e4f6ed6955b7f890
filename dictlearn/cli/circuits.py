"""The command that explains prompts by their features."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from dictlearn.cli import options
from dictlearn.cli.terminal import console, named_feature, say

if TYPE_CHECKING:
    from dictlearn.circuits.aggregate import GraphAggregate
    from dictlearn.circuits.graph import CircuitGraph
    from dictlearn.circuits.targets import Target
    from dictlearn.core.own_files import OwnFiles

PAGE, NODES, EDGES = "graph.html", "nodes.csv", "edges.csv"


def attribute(
    dictionaries: Annotated[
        list[Path], typer.Argument(help="Folders of dictionaries, or folders that contain them.")
    ],
    prompt: Annotated[
        list[str] | None, typer.Option(help="Text whose next token is explained; may be repeated.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="File with one such text on each line.")
    ] = None,
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
    by_position: Annotated[
        bool,
        typer.Option("--by-position", help="Keep tokens of several prompts apart, from the last."),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the graph, and for graph.html to look at it in a browser; of several "
            "prompts for one folder each, and for nodes.csv and edges.csv, their means."
        ),
    ] = None,
    model: options.ModelOfDictionaries = None,
    check_model: options.CheckModel = True,
    device: options.Device = None,
    model_dtype: options.ModelDtype = "float32",
    overwrite: options.Overwrite = False,
) -> None:
    """Find which features, tokens and errors make the model expect the next token of a prompt.

    Contributions add up: attention patterns, the scales of norms and the choice of features are
    held as they are on the prompt. Of several prompts, means over all of them are shown.
    """
    from dictlearn.circuits.aggregate import aggregate_graphs
    from dictlearn.circuits.attribute import attribute as attributed
    from dictlearn.circuits.attribute import attribute_all
    from dictlearn.cli.origins import model_of
    from dictlearn.cli.subject import beside, loaded
    from dictlearn.dictionaries.files import load_all

    texts, explained = _texts(prompt, prompts), _target(target, minus, feature)
    owns = None if out is None else _own(out, len(texts), overwrite=overwrite)
    named = load_all(dictionaries)
    subject = loaded(model_of(named, model), check=check_model, device=device, dtype=model_dtype)
    own = beside(subject, named)
    if len(texts) == 1:
        graphs = iter([attributed(subject, texts[0], own, explained, n_features=n_features)])
    else:
        graphs = attribute_all(subject, texts, own, explained, n_features=n_features)
    if owns is not None:
        graphs = _written(graphs, owns, texts)
    if len(texts) == 1:
        _show(next(graphs), n_shown)
    else:
        found = aggregate_graphs(graphs, by_position=by_position)
        _show_aggregate(found, n_shown)
        if out is not None:
            _write_aggregate(found, out)
    if owns is not None:
        for folder in owns:
            say(f"graph: {folder.path / PAGE}")


def _texts(prompt: list[str] | None, prompts: Path | None) -> list[str]:
    """The prompts of options and of a file, without empty lines."""
    from dictlearn.core.errors import InputError

    texts = list(prompt or [])
    if prompts is not None:
        try:
            lines = prompts.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read the prompts in {prompts}: {error}") from error
        texts += [line for line in lines if line.strip()]
    if not texts:
        raise InputError("required --prompt TEXT, or --prompts FILE with a text on each line")
    return texts


def _own(out: Path, n: int, *, overwrite: bool) -> "list[OwnFiles]":
    """The folder of each graph, whose files are absent or its own."""
    from dictlearn.circuits.storage import GRAPH_FILE, TENSORS_FILE
    from dictlearn.cli.results import require_none, results_in
    from dictlearn.core.own_files import OwnFiles

    together = [NODES, EDGES] if n > 1 else []
    own = OwnFiles.of(results_in(out, together, overwrite=overwrite, run="circuit graph"))
    folders = [own] if n == 1 else [own.inside(f"prompt_{i:03}") for i in range(n)]
    for folder in folders:
        folder.require(GRAPH_FILE, TENSORS_FILE, PAGE)
        require_none(folder, [GRAPH_FILE, TENSORS_FILE, PAGE], overwrite=overwrite)
    return folders if n == 1 else [own.folder(folder.path.name) for folder in folders]


def _written(
    graphs: "Iterator[CircuitGraph]", owns: "list[OwnFiles]", texts: list[str]
) -> "Iterator[CircuitGraph]":
    """The graphs, each written to its folder."""
    for graph, own, text in zip(graphs, owns, texts, strict=True):
        graph.save(own.path)
        graph.to_html(own.path / PAGE, title=text)
        yield graph


def _write_aggregate(found: "GraphAggregate", out: Path) -> None:
    from dictlearn.core.own_files import OwnFiles

    own = OwnFiles.of(out, "circuit graph")
    own.write_text(NODES, found.nodes.to_csv(index=False))
    own.write_text(EDGES, found.edges.to_csv(index=False))
    say(f"means: {out / NODES}, {out / EDGES}")


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
        targets.add_row(escape(repr(label)), f"{value:.3f}", f"{p:.3f}" if p == p else "–")
    nodes = graph.nodes_to_pandas()
    nodes["direct"] = (graph.weights @ graph.rows[: len(graph.weights)].double()).numpy()
    strongest = terminal_table(
        "Most influential nodes",
        "influence: the part of all paths to the targets that lead through the node; direct: what "
        "it contributes to the targets itself, weighted",
    )
    for head in ("node", "influence", "direct"):
        strongest.add_column(head)
    for row in nodes.nlargest(n, "influence").itertuples():
        strongest.add_row(escape(row.name), f"{row.influence:.3f}", f"{row.direct:+.3f}")
    edges = terminal_table("Strongest edges", "after pruning")
    for head in ("from", "to", "weight"):
        edges.add_column(head)
    for row in graph.edges_to_pandas().head(n).itertuples():
        edges.add_row(escape(row.source), escape(row.target), f"{row.weight:+.3f}")
    console.print(targets, strongest, edges)


def _show_aggregate(found: "GraphAggregate", n: int) -> None:
    """Print the target, and the strongest nodes and edges, over all prompts."""
    from dictlearn.comparison.tables.terminal import terminal_table

    value, low, high = found.target
    nodes = terminal_table(
        f"Most influential nodes over {found.n_prompts} prompts",
        f"mean target {value:+.3f} ({low:+.3f} to {high:+.3f}); kept: the share of prompts where "
        "it is in the pruned graph; direct: what it contributes to the target itself, a mean over "
        "prompts with its 95 % interval",
    )
    for head in ("node", "influence", "kept", "direct", "interval"):
        nodes.add_column(head)
    for row in found.nodes.head(n).itertuples():
        nodes.add_row(
            escape(row.name), f"{row.influence:.3f}", f"{row.kept:.0%}", f"{row.direct:+.3f}",
            f"{row.low:+.3f} to {row.high:+.3f}",
        )  # fmt: skip
    edges = terminal_table("Strongest edges", "after pruning; means over prompts, 0 where pruned")
    for head in ("from", "to", "kept", "weight", "interval"):
        edges.add_column(head)
    for row in found.edges[found.edges.source != "pruned"].head(n).itertuples():
        edges.add_row(
            escape(row.source), escape(row.target), f"{row.kept:.0%}", f"{row.weight:+.3f}",
            f"{row.low:+.3f} to {row.high:+.3f}",
        )  # fmt: skip
    console.print(nodes, edges)
