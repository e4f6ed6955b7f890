"""A hypothesis about a feature, sealed before any text is shown."""

import hashlib
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from dictlearn.blind.case import CASE_FILE, GUESS_FILE, RUN, BlindCase
from dictlearn.core.errors import CorruptFileError, InputError
from dictlearn.core.files import entries_of, json_text, read_own_json, sha256, typed
from dictlearn.core.own_files import OwnFiles
from dictlearn.text.concepts import Concept


@dataclass(frozen=True)
class Guess:
    """A hypothesis, its form as a pattern, and what it was about when it was made."""

    hypothesis: str
    pattern: str
    """A regular expression for the tokens at which the feature is active (`Concept`)."""
    feature: str
    case_sha256: str
    """Hash of the file of the case that was seen."""
    time: str
    """When the guess was sealed, in UTC."""

    @property
    def seal(self) -> str:
        """The SHA-256 of all entries: noted elsewhere, it shows that a guess was not exchanged."""
        return hashlib.sha256(json_text(asdict(self)).encode()).hexdigest()


def seal_guess(folder: str | Path, hypothesis: str, pattern: str) -> Guess:
    """Write the one guess about the case in `folder`, and return it.

    Nothing is read but the case: whether the pattern occurs in the text is not told.

    Args:
        folder: where a `BlindCase` was saved.
        hypothesis: in words.
        pattern: a regular expression of Python's `re`; the token at the start of a match, or of
            its first group, is where the feature should be active.

    Raises:
        InputError: there has been a guess, the hypothesis is empty, or the pattern is malformed.
        CorruptFileError: the case is absent or was altered.
    """
    case = BlindCase.load(folder)
    if not hypothesis.strip() or not pattern:
        raise InputError(
            "required a hypothesis in words and a pattern that says the same, got "
            f"{hypothesis!r} and {pattern!r}"
        )
    Concept("guess", pattern)
    own = OwnFiles.of(folder, RUN)
    with own.locked():
        own.require_unaltered(CASE_FILE)
        path = own.path / GUESS_FILE
        if own.lists(GUESS_FILE) or os.path.lexists(path):
            raise InputError(
                f"{path}: a guess was made on this case, and there is no second one; show another "
                "case in another folder"
            )
        guess = Guess(
            hypothesis,
            pattern,
            f"{case.dictionary} {case.feature}",
            sha256(own.path / CASE_FILE),
            datetime.now(UTC).isoformat(timespec="seconds"),
        )
        own.write_json(GUESS_FILE, {"guess": asdict(guess), "seal": guess.seal})
    return guess


def sealed_guess(folder: str | Path) -> tuple[BlindCase, Guess]:
    """The case in `folder` and the guess about it, both as they were when it was sealed.

    Raises:
        InputError: no guess was made.
        CorruptFileError: the case or the guess is absent, or was altered.
    """
    case, own = BlindCase.load(folder), OwnFiles(Path(folder), RUN)
    path = own.path / GUESS_FILE
    if not own.lists(GUESS_FILE) and not os.path.lexists(path):
        raise InputError(
            f"{path}: required a guess before any text is shown, got none; make it with "
            "seal_guess, or `dictlearn blind guess`"
        )
    data = read_own_json(path, "blind guess", "show another case in another folder")
    with entries_of(path):
        guess, seal = typed(data["guess"], Guess), typed(data["seal"], str)
    own.require_unaltered(GUESS_FILE)
    if seal != guess.seal or guess.feature != f"{case.dictionary} {case.feature}":
        raise CorruptFileError(f"{path}: was altered since it was sealed (its seal differs)")
    if guess.case_sha256 != sha256(own.path / CASE_FILE):
        raise CorruptFileError(
            f"{own.path / CASE_FILE}: was altered or exchanged since the guess was sealed (its "
            "hash differs); show another case in another folder"
        )
    return case, guess
