"""The commands of blind case studies: show a circuit, seal a guess, reveal the text."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dictlearn.cli import options
from dictlearn.cli.blind_tables import show_case, show_scores
from dictlearn.cli.terminal import named_feature, say

if TYPE_CHECKING:
    from dictlearn.blind.case import BlindCase

_TOKENS = options.TokenCount(40_000, at_most=True)
_HELD_OUT = options.TokenCount(20_000, at_most=True)
blind = typer.Typer(
    name="blind",
    help="Tell from a feature's circuit alone what it is active on, and be scored. Three steps: "
    "`show` prints the circuit without any text; `guess` seals a hypothesis; `reveal` shows text "
    "and scores the hypothesis on it. No guess, no text; and only one guess.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
Run = Annotated[Path, typer.Argument(help="Folder that `dictlearn blind show --out` wrote.")]


@blind.command()
def show(
    dictionaries: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of dictionaries, or folders that contain them: that of the feature, and "
            "those of layers before it. They need different targets."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the case; it will hold no text.")],
    feature: Annotated[
        str | None,
        typer.Option(
            help="Feature, as NAME NUMBER; by default one that is active at more than 1 of 10,000 "
            "tokens, drawn with the seed."
        ),
    ] = None,
    n_prompts: Annotated[
        int, typer.Option("--prompts", help="Prompts, those where the feature is most active.")
    ] = 5,
    iterations: Annotated[int, typer.Option(help="Largest number of hops of a path.")] = 3,
    width: Annotated[int, typer.Option(help="Paths of each length.")] = 10,
    de_embeddings: Annotated[
        bool,
        typer.Option(
            help="Show tokens of the vocabulary with the largest weights: words, but of no text."
        ),
    ] = True,
    restricted: Annotated[
        bool,
        typer.Option(
            "--restricted", help="Leave features of the first layer, near tokens, out of paths."
        ),
    ] = False,
    model: options.ModelOfDictionaries = None,
    check_model: options.CheckModel = True,
    device: options.Device = None,
    text: options.TextOfDictionaries = None,
    column: options.ColumnOfDictionaries = None,
    tokens: Annotated[
        options.TokenCount, options.token_count("Tokens of the train split, for prompts.")
    ] = _TOKENS,
    held_out: Annotated[
        options.TokenCount, options.token_count("Tokens of the held-out split, to reveal.")
    ] = _HELD_OUT,
    context: Annotated[int, typer.Option(help="Tokens per block: longest prompt.")] = 64,
    seed: Annotated[int, typer.Option(help="Seed of what is drawn.")] = 0,
    overwrite: options.Overwrite = False,
) -> None:
    """Show a feature's circuit without any text.

    Paths lead from the feature back through features and attention heads, with positions from the
    end of the prompt; virtual weights and de-embeddings depend on no prompt.
    """
    from dictlearn.blind.case import CASE_FILE, REVEALED_FILE, RUN
    from dictlearn.blind.show import blind_case
    from dictlearn.cli.origins import origin
    from dictlearn.cli.reading import reading
    from dictlearn.cli.results import results_in
    from dictlearn.cli.subject import beside, use_device
    from dictlearn.dictionaries.files import load_all
    from dictlearn.lm.loading import load_model

    use_device(device)
    wanted = None if feature is None else _feature(feature)
    results_in(out, [CASE_FILE, REVEALED_FILE], overwrite=overwrite, run=RUN)
    loaded = load_all(dictionaries)
    found = origin(loaded, model, text, context=context, column=column)
    settings = {
        "dictionaries": [str(folder.resolve()) for folder in dictionaries],
        "model": _whole(found.model), "check_model": check_model, "text": _whole(found.text),
        "held_out": held_out.n, "held_out_at_most": held_out.at_most, "reading": found.settings,
    }  # fmt: skip
    read = reading(found.text, "train", tokens, **found.settings)
    reading(found.text, "held_out", held_out, **found.settings)  # checked before the case is shown
    subject = load_model(found.model, check=check_model)
    loaded = beside(subject, loaded)
    case = blind_case(
        subject, loaded, read(subject), wanted, n_prompts=n_prompts, iterations=iterations,
        width=width, de_embeddings=de_embeddings, restricted=restricted, seed=seed,
    )  # fmt: skip
    replace(case, settings=settings).save(out)
    show_case(case)
    say(f"next:  dictlearn blind guess {out} 'HYPOTHESIS' --pattern 'REGULAR EXPRESSION'")


@blind.command()
def guess(
    run: Run,
    hypothesis: Annotated[str, typer.Argument(help="What the feature is active on, in words.")],
    pattern: Annotated[
        str,
        typer.Option(
            help="The same as a regular expression on the text: the feature should be active at "
            r"the first token of a match, or of its first group, as in '\bin (\d{4})'."
        ),
    ],
) -> None:
    """Seal the one hypothesis about a case.

    It cannot be changed, and there is no second one. Note the seal elsewhere to prove that the
    hypothesis came first.
    """
    from dictlearn.blind.guess import seal_guess

    sealed = seal_guess(run, hypothesis, pattern)
    say(f"sealed at {sealed.time}: {sealed.seal}\nnext:  dictlearn blind reveal {run}")


@blind.command()
def reveal(
    run: Run,
    n_shown: Annotated[int, typer.Option("--shown", help="Contexts of each of the lists.")] = 8,
    seed: Annotated[int, typer.Option(help="Seed of the random contexts.")] = 0,
    device: options.Device = None,
) -> None:
    """Show held-out text around the feature, and score the sealed hypothesis on it.

    Refused without a hypothesis, or if the case or the hypothesis was altered since.
    """
    from dictlearn.blind.case import REVEALED_FILE, RUN
    from dictlearn.blind.guess import sealed_guess
    from dictlearn.blind.reveal import reveal_case
    from dictlearn.cli.subject import beside, use_device
    from dictlearn.core.own_files import OwnFiles
    from dictlearn.dictionaries.files import load_all
    from dictlearn.lm.loading import load_model
    from dictlearn.text.tokens import load_tokens

    use_device(device)
    case, _ = sealed_guess(run)
    OwnFiles.of(run, RUN).require(REVEALED_FILE)
    made = _settings(case, run)
    subject = load_model(made["model"], check=made["check_model"])
    loaded = beside(subject, load_all([Path(folder) for folder in made["dictionaries"]]))
    # Earlier versions kept two settings of reading, beside the others.
    reading = made.get("reading") or {name: made[name] for name in ("context", "column")}
    held_out = load_tokens(
        made["text"], subject, "held_out", made["held_out"],
        at_most=made.get("held_out_at_most", False), **reading,
    )  # fmt: skip
    found = reveal_case(run, subject, loaded, held_out, n_contexts=n_shown, seed=seed)
    path = found.save(run)
    show_scores(found)
    say(f"results: {path}")


def _feature(text: str) -> tuple[str, int]:
    from dictlearn.core.errors import InputError

    if (named := named_feature(text)) is None:
        raise InputError(f"required --feature 'NAME NUMBER', such as 'mlp3 17', got {text!r}")
    return named


def _whole(name: str) -> str:
    """The absolute path of what lies here, or the name as it is."""
    return str(Path(name).resolve()) if Path(name).expanduser().exists() else name


def _settings(case: "BlindCase", run: Path) -> dict[str, Any]:
    from dictlearn.core.errors import InputError

    if not case.settings:
        raise InputError(
            f"{run}: required a case that `dictlearn blind show` made, got one made in Python; "
            "reveal it with reveal_case"
        )
    return case.settings
