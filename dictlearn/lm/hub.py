"""Models on the Hugging Face hub, or in its local cache where it does not answer."""

import re
from pathlib import Path

from dictlearn.core.errors import InputError
from dictlearn.text.hub import why_no_hub

_OF_A_TOKENIZER = re.compile(
    r"(tokenizer|vocab|merges|spiece|tekken|bpe)|.*\.(model|tiktoken|spm)$"
)


def located(name: str) -> str:
    """`name` if it is a folder or the hub answers; else its folder in the local cache, if any."""
    from huggingface_hub import snapshot_download
    from transformer_lens.supported_models import MODEL_ALIASES

    reason = "" if Path(name).is_dir() else why_no_hub()
    if not reason:
        return name
    official = next((known for known, others in MODEL_ALIASES.items() if name in others), name)
    try:
        return snapshot_download(official, local_files_only=True)
    except (OSError, ValueError) as error:
        raise InputError(
            f"the model {name!r} is not in the local cache, and {reason}; check the name and the "
            "network, or use a local folder"
        ) from error


def has_tokenizer(name: str) -> bool:
    """Whether a model folder, or a repository on the hub, holds files of a tokenizer."""
    from huggingface_hub import list_repo_files

    folder = Path(name)
    names = [p.name for p in folder.iterdir()] if folder.is_dir() else list_repo_files(name)
    return any(_OF_A_TOKENIZER.match(file) for file in names)
