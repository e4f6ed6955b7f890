"""Tables of blind case studies."""

from typing import TYPE_CHECKING

from dictlearn.cli.terminal import console, say

if TYPE_CHECKING:
    from dictlearn.blind.case import BlindCase, Weighted
    from dictlearn.blind.contexts import Revealed
    from dictlearn.blind.reveal import RevealedCase


def show_case(case: "BlindCase") -> None:
    """Print the circuit of a blind case."""
    from rich.text import Text

    from dictlearn.comparison.tables.terminal import terminal_table

    say(
        f"{case.dictionary} {case.feature}, active at {case.density:.3%} of tokens; positions @ 0, "
        "@ -1, … count from the token where it is active"
    )
    for number, prompt in enumerate(case.prompts, start=1):
        table = terminal_table(
            f"Prompt {number}: paths", f"coefficient {prompt.coefficient:.3f} at the last token"
        )
        for head in ("path", "attribution"):
            table.add_column(head)
        for path in prompt.paths[:10]:
            table.add_row(Text(" <- ".join(path.nodes)), f"{path.attribution:+.3f}")
        console.print(table)
    _print_weights("Nodes of all prompts", "mean attribution", case.nodes)
    _print_weights("Edges of all prompts", "mean attribution", case.edges)
    for route in case.routes:
        heads = " and ".join(f"head {layer}.{head}" for layer, head in route.heads)
        way = f"through {heads}" if heads else "along the residual stream"
        _print_weights(f"Features that it reads {way}", "virtual weight", route.features)
        _print_weights(f"Tokens that it reads {way}", "de-embedding", route.tokens, quoted=True)
    for one in case.upstream:
        _print_weights(f"Tokens that {one.name} reads", "de-embedding", one.tokens, quoted=True)
    for what, reason in case.left_out.items():
        say(f"no {what}: {reason}")


def _print_weights(title: str, unit: str, rows: "list[Weighted]", *, quoted: bool = False) -> None:
    from rich.text import Text

    from dictlearn.comparison.tables.terminal import terminal_table

    if rows:
        table = terminal_table(title, unit)
        for head in ("name", "weight"):
            table.add_column(head)
        for row in rows:
            table.add_row(Text(repr(row.name) if quoted else row.name), f"{row.weight:+.3g}")
        console.print(table)


def show_scores(found: "RevealedCase") -> None:
    """Print a guess, its scores, and contexts."""
    from rich.text import Text

    from dictlearn.comparison.tables.terminal import terminal_table

    guess = found.guess
    say(f"guess of {guess.time}: {guess.hypothesis}\npattern: {guess.pattern}\nseal: {guess.seal}")
    table = terminal_table(
        "The pattern's tokens, detected by",
        f"chance: precisions {found.base_rate:.4f}, recall the density; 95 % intervals over "
        f"sequences; difference of average precision {_interval(found.advantage)}",
    )
    for head in ("feature", "density", "precision", "recall", "average precision"):
        table.add_column(head)
    for one, role in zip(found.scores, ("", " (random live feature)"), strict=False):
        three = map(_interval, (one.precision, one.recall, one.average_precision))
        table.add_row(Text(one.feature + role), f"{one.density:.4f}", *three)
    console.print(table)
    _print_contexts("Strongest contexts", found.top)
    _print_contexts("Random contexts", found.random)


def _print_contexts(title: str, contexts: "list[Revealed]") -> None:
    console.rule(title, align="left")
    for one in contexts:
        mark = "✓" if one.matched else "–"
        say(f"{mark} {one.context.strength:8.3g}  {one.context.marked()!r}")


def _interval(interval: tuple[float, float, float]) -> str:
    value, low, high = (f"{x:.3f}" if x == x else "–" for x in interval)
    return f"{value} [{low}, {high}]"
