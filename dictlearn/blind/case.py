"""A blind case: all that may be known of a feature before a hypothesis, and its file."""

import hashlib
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError
from dictlearn.core.files import entries_of, read_own_json, typed
from dictlearn.core.own_files import OwnFiles

CASE_FILE, GUESS_FILE, REVEALED_FILE = "case.json", "guess.json", "revealed.json"
RUN = "blind case"


@dataclass(frozen=True)
class Weighted:
    """The name of a node, a feature or a token of the vocabulary, and its weight."""

    name: str
    weight: float


@dataclass(frozen=True)
class ShownPath:
    """A path from the feature back, its nodes named without tokens, and its attribution."""

    nodes: list[str]
    attribution: float


@dataclass(frozen=True)
class ShownPrompt:
    """The coefficient at the last token of a prompt, and the paths that lead there."""

    coefficient: float
    paths: list[ShownPath]


@dataclass(frozen=True)
class Route:
    """Weights of the feature that depend on no prompt, along the stream or through heads."""

    heads: list[tuple[int, int]]
    """(layer, head) on the way; none for the residual stream alone."""
    tokens: list[Weighted]
    """The largest of its de-embedding."""
    features: list[Weighted]
    """The largest virtual weights from features of other dictionaries."""


@dataclass(frozen=True)
class Upstream:
    """A feature on the paths, and the tokens that it reads."""

    name: str
    attribution: float
    """Over all its places before the feature, mean over prompts."""
    tokens: list[Weighted]


@dataclass(frozen=True, kw_only=True)
class BlindCase:
    """A feature's circuit on the prompts where it is most active, without their text.

    Positions count from the last token, where the feature is active: 0, then -1 before it.
    Attributions are in units of the coefficient (of the score for codes).
    """

    dictionary: str
    feature: int
    control: int | None
    """Another live feature of the dictionary, drawn at random, on which the guess is scored too."""
    density: float
    """Fraction of the tokens at which the feature is active."""
    prompts: list[ShownPrompt]
    nodes: list[Weighted]
    """Attributions of nodes, mean over prompts, the largest first."""
    edges: list[Weighted]
    routes: list[Route]
    upstream: list[Upstream]
    left_out: dict[str, str]
    """Weights that do not exist, each with the reason."""
    de_embeddings: bool
    restricted: bool
    tokens: dict[str, Any]
    """The description of the text that prompts are from."""
    model: dict[str, Any]
    """Provenance of the model."""
    weights_sha256: str
    """Hash of the dictionary's tensors."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Anything that says how the case was made."""

    def save(self, folder: str | Path) -> Path:
        """Write the case to `folder`; the path of its file.

        Raises:
            InputError: a guess was sealed there, or a file there is not of this kind.
            StorageError: the folder cannot be written.
        """
        own = OwnFiles.of(folder, RUN)
        with own.locked():
            if own.lists(GUESS_FILE) or os.path.lexists(own.path / GUESS_FILE):
                raise InputError(
                    f"{own.path / GUESS_FILE}: a guess was made on the case in this folder, which "
                    "stays as it is; choose another folder"
                )
            own.require(CASE_FILE, REVEALED_FILE)
            own.write_json(CASE_FILE, {"case": asdict(self)})
        return own.path / CASE_FILE

    @classmethod
    def load(cls, folder: str | Path) -> "BlindCase":
        """The case that `save` wrote to `folder`.

        Raises:
            CorruptFileError: the file is absent, damaged or altered.
        """
        path = Path(folder) / CASE_FILE
        data = read_own_json(path, RUN, "show a case in another folder")
        with entries_of(path):
            return typed(data["case"], cls)


def hash_of_weights(dictionary: FeatureDictionary) -> str:
    """The SHA-256 of all tensors of a dictionary, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(dictionary.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().double().numpy().tobytes())
    return digest.hexdigest()
