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
    model: Annotated[
        str | None,
        typer.Option(
            help="builtin:stories, a Hugging Face id, or a local folder; by default that of the "
            "folder, or of the dictionaries."
        ),
    ] = None,
    check_model: options.CheckModel = True,
    device: options.Device = None,
    seed: Annotated[int, typer.Option(help="Seed of the samples.")] = 0,
) -> None:
    """Sample texts from a model whose features are edited, beside texts without the edits.

    A folder that `finetune` wrote is one argument: its model and dictionaries belong together. If
    the model was not trained and came from a folder, --model is that model. A published codebook
    model is one argument too, and --model the model that it was made from.
    """
    from dictlearn.cli.subject import use_device
    from dictlearn.core.errors import InputError
    from dictlearn.interventions.inside import inside
    from dictlearn.interventions.language import parse_edit, read_edits
    from dictlearn.lm.generation import generate
    from dictlearn.text.prompts import prompt_ids

    edits = [*map(parse_edit, edit or ()), *(read_edits(edit_file) if edit_file else ())]
    if not edits:
        raise InputError("required an edit: --edit, or --edits with a file")
    use_device(device)
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


def _opened(
    dictionaries: list[Path], model: str | None, *, check_model: bool
) -> "tuple[Finetuned, bool]":
    """The model and the dictionaries, of a folder that `finetune` wrote, of a published codebook
    model, or each from its own; and whether to keep the error by default."""
    from dictlearn.cli.origins import model_of
    from dictlearn.cli.subject import beside
    from dictlearn.dictionaries.files import load_all
    from dictlearn.finetuning.finetuned import DICTIONARIES, Finetuned
    from dictlearn.interop.codebook_features import is_released
    from dictlearn.lm.loading import load_model

    folder = dictionaries[0]
    if len(dictionaries) == 1 and ((folder / DICTIONARIES).is_dir() or is_released(folder)):
        return Finetuned.load(folder, model, check=check_model), False
    loaded = load_all(dictionaries)
    subject = load_model(model_of(loaded, model), check=check_model)
    return Finetuned(subject, beside(subject, loaded)), True
