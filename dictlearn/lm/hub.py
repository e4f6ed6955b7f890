"""Models on the Hugging Face hub, or in its local cache where it does not answer."""

import re
from pathlib import Path

from dictlearn.core.errors import InputError

PATIENCE = 2.0
"""Seconds within which the hub must answer."""
_OF_A_TOKENIZER = re.compile(
    r"(tokenizer|vocab|merges|spiece|tekken|bpe)|.*\.(model|tiktoken|spm)$"
)


def located(name: str) -> str:
    """`name` if it is a folder or the hub answers; else its folder in the local cache.

    The libraries behind it repeat every request for half a minute before they give up.

    Raises:
        InputError: the hub does not answer, and the model is not in the cache.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.utils import get_session
    from transformer_lens.supported_models import MODEL_ALIASES

    if Path(name).is_dir():
        return name
    try:
        get_session().head(constants.ENDPOINT, timeout=PATIENCE)
        return name
    except Exception as error:  # of the HTTP library, which differs between versions
        reason = error
    official = next((known for known, others in MODEL_ALIASES.items() if name in others), name)
    try:
        return snapshot_download(official, local_files_only=True)
    except (OSError, ValueError) as error:
        raise InputError(
            f"the model {name!r} is not in the local cache, and {constants.ENDPOINT} does not "
            f"answer ({reason}); check the name and the network, or use a local folder"
        ) from error


def has_tokenizer(name: str) -> bool:
    """Whether a model folder, or a repository on the hub, holds files of a tokenizer."""
    from huggingface_hub import list_repo_files

    folder = Path(name)
    names = [p.name for p in folder.iterdir()] if folder.is_dir() else list_repo_files(name)
    return any(_OF_A_TOKENIZER.match(file) for file in names)
