"""Edits as text: `clamp codes 17 = 4.0 at 5:`."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from dictlearn.core.errors import InputError, naming, nearest
from dictlearn.core.files import parsed
from dictlearn.interventions.choice import Activate, Disable
from dictlearn.interventions.direction import Cap, DirectionEdit, ProjectOut, Push
from dictlearn.interventions.edit import NAME, Ablate, Add, Clamp, Edit, FeatureEdit, Scale

_QUOTED = r'"(?:[^"\\]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"'
_TEXT = re.compile(
    rf"\s*(?P<verb>\S+)(\s+((?P<at>{NAME})|(?P<quoted>{_QUOTED})))??"
    r"\s+(?P<features>\d{1,18}(,\d{1,18})*)(\s*=\s*(?P<amount>\S+))?(\s+at\s+(?P<span>\S+))?\s*"
)
_NUMBER = (Clamp, Scale, Add, Push, Cap)
VERBS = {kind.verb: kind for kind in (Ablate, *_NUMBER, ProjectOut, Activate, Disable)}
"""The edits that a text can name."""


def parse_edit(text: str) -> Edit:
    """The edit that a text describes: `VERB [NAME] FEATURES [= AMOUNT] [at POSITIONS]`.

    `str` of the edit gives the text again. A name with spaces or quotation marks, or of digits
    alone, stands in quotation marks, as a string of JSON: `ablate "my sae" 3`.

    >>> parse_edit("clamp codes 17 = 4.0 at 5:")
    Clamp(at='codes', positions=Span(first=5, stop=None, places=None), features=(17,), value=4.0)
    >>> str(parse_edit("disable 3,4"))
    'disable 3,4 = refill'

    Raises:
        InputError: the text has another form, or names an unknown edit.
    """
    found = _TEXT.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise InputError(
            "required an edit as 'VERB NAME FEATURES = AMOUNT at POSITIONS', such as 'clamp codes "
            f"17 = 4.0 at 5:' or 'ablate \"my codes\" 3,4', got {text!r:.80}"
        )
    verb, amount, at = found["verb"], found["amount"], found["at"]
    if found["quoted"] is not None:
        at = json.loads(found["quoted"], strict=False)
    if verb not in VERBS:
        raise InputError(f"no edit {verb!r}; {nearest(verb, VERBS)}")
    kind: Any = VERBS[verb]
    numbers = tuple(map(int, found["features"].split(",")))
    if len(numbers) > 1 and issubclass(kind, DirectionEdit):
        raise InputError(f"required one feature, whose direction is meant, got {text!r}")
    subject = numbers if issubclass(kind, FeatureEdit) else numbers[0]
    try:
        amounts = [] if amount is None else [float(amount) if kind in _NUMBER else amount]
        return kind(subject, *amounts, at=at, positions=found["span"])
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        needs = "needs a number (= 4.0)" if kind in _NUMBER else "takes no amount"
        raise InputError(f"{verb} {needs}, got {text!r}") from None


def read_edits(path: str | Path) -> list[Edit]:
    """The edits of a TOML file: `edits = ["clamp codes 17 = 4.0 at 5:", "ablate codes 3,4"]`.

    Raises:
        CorruptFileError: the file is absent or not TOML.
        InputError: it has another entry, or a text is no edit.
    """
    data = parsed(Path(path), tomllib.loads, "TOML")
    texts = data.get("edits")
    if data.keys() != {"edits"} or not isinstance(texts, list):
        raise InputError(f"{path}: required a list 'edits' and nothing else, got {data!r:.80}")
    with naming(str(path)):
        return [parse_edit(str(text)) for text in texts]
