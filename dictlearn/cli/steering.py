"""The command that samples texts from a model with edits of its features."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dictlearn.cli import options
from dictlearn.cli.terminal import console, say

if TYPE_CHECKING:
    from dictlearn.finetuning.finetuned import Finetuned


def steer(
    dictionaries: Annotated[
        list[Path], typer.Argument(help="Folders of dictionaries, or folders that contain them.")
    ],
    edit: Annotated[
        list[str] | None,
        typer.Option(
            help="VERB NAME FEATURES [= AMOUNT] [at POSITIONS], such as 'clamp sae 17 = 4.0 at 5:' "
            "or 'activate codes 3,40 = all'; may be repeated. NAME is that of a dictionary, its "
            "folder's, and may be left out if there is one."
        ),
    ] = None,
    edit_file: Annotated[
        Path | None,
        typer.Option("--edits", help="A TOML file with further edits: edits = ['ablate 3', …]."),
    ] = None,
    prompt: Annotated[str, typer.Option(help="Text that the model continues.")] = "",
    n_samples: Annotated[int, typer.Option("--samples", help="Number of texts.")] = 3,
    n_new: Annotated[int, typer.Option("--new", help="Longest continuation, in tokens.")] = 60,
    temperature: Annotated[float, typer.Option(help="0 for the most probable token.")] = 1.0,
    keep_error: Annotated[
        bool | None,
        typer.Option(
            help="Keep what the dictionaries miss, so that only the edits change the model; by "
            "default, except with a model that was finetuned with its dictionaries."
        ),
    ] = None,
    model: options.ModelName = "builtin:stories",
    check_model: options.CheckModel = True,
    seed: Annotated[int, typer.Option(help="Seed of the samples.")] = 0,
) -> None:
    """Sample texts from a model whose features are edited, beside texts without the edits.

    A folder that `finetune` wrote is one argument: its model and dictionaries belong together. So
    is a published codebook model, for which --model is the model that it was made from.
    """
    from dictlearn.core.errors import InputError
    from dictlearn.interventions.inside import inside
    from dictlearn.interventions.language import parse, read_edits
    from dictlearn.lm.generation import generate
    from dictlearn.text.prompts import prompt_ids

    edits = [*map(parse, edit or ()), *(read_edits(edit_file) if edit_file else ())]
    if not edits:
        raise InputError("required an edit: --edit, or --edits with a file")
    found, keeps = _opened(dictionaries, model, check_model=check_model)
    subject, keeps = found.model, keeps if keep_error is None else keep_error
    ids, n_before = prompt_ids(subject.tokenizer, prompt)
    for title, own in {"without the edits": [], "; ".join(map(str, edits)): edits}.items():
        with inside(subject, found.dictionaries, edits=own, keep_error=keeps):
            rows = generate(
                subject, ids.expand(n_samples, -1), n_new, seed=seed, temperature=temperature,
                stop=subject.tokenizer.eos_token_id,
            )  # fmt: skip
        console.rule(title, align="left")
        for row in rows[:, n_before:].tolist():
            say(subject.tokenizer.decode(row, skip_special_tokens=True))


def _opened(dictionaries: list[Path], model: str, *, check_model: bool) -> "tuple[Finetuned, bool]":
    """The model and the dictionaries, of a folder that `finetune` wrote, of a published codebook
    model, or each from its own; and whether to keep the error by default."""
    from dictlearn.dictionaries.files import load_all
    from dictlearn.finetuning.finetuned import DICTIONARIES, Finetuned
    from dictlearn.interop.codebook_features import is_released
    from dictlearn.lm.loading import load_model

    if len(dictionaries) == 1 and (dictionaries[0] / DICTIONARIES).is_dir():
        return Finetuned.load(dictionaries[0]), False
    if len(dictionaries) == 1 and is_released(dictionaries[0]):
        return Finetuned.load(dictionaries[0], model), False
    return Finetuned(load_model(model, check=check_model), load_all(dictionaries)), True
