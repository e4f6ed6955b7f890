"""HTML pages from templates: inserted text is escaped, and what a token shows is readable."""

import base64
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_SHARED = Path(__file__).parent / "templates"
_INVISIBLE = {"\n": "↵", "\t": "⇥", "\r": "␍", "\u00a0": "⍽", "\u200b": "∅"}


@dataclass(frozen=True)
class Framed:
    """A page of its own inside another page, in a frame without access to it."""

    title: str
    source: str
    script: str
    """The script of the page, which the policy of the page around it has to name as well."""

    def html(self) -> str:
        """The frame: it can run its script and save files, and nothing else.

        The browser draws it when it comes into sight.
        """
        return environment(_SHARED).get_template("frame.html.jinja").render(page=self)


def environment(folder: Path, **options: Any) -> Environment:
    """The templates in `folder`, and those that several pages share (feature cards).

    A page's content security policy names its scripts by the filter `sha256`.
    """
    made = Environment(
        loader=FileSystemLoader([folder, _SHARED]), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, **options,
    )  # fmt: skip
    made.filters |= {"card_id": card_id, "pieces": pieces, "sha256": _sha256}
    return made


def card_id(dictionary: str, feature: int) -> str:
    """The anchor of a feature's card on a page; a hash stands for a name of unusual characters.

    >>> card_id("topk_sae", 12)
    'card-topk_sae-12'
    """
    is_plain = re.fullmatch(r"[A-Za-z0-9_.-]+", dictionary)
    name = dictionary if is_plain else hashlib.sha256(dictionary.encode()).hexdigest()[:12]
    return f"card-{name}-{feature}"


def pieces(token: str, alone: bool = False) -> list[tuple[str, bool]]:
    """Parts of the text of a token, each with whether it stands for something invisible.

    The leading space of a token that is shown `alone` is visible too.

    >>> pieces(" a", alone=True)
    [('·', True), ('a', False)]
    """
    if alone and token.startswith(" "):
        return [("·", True), *pieces(token[1:])]
    if len(token) > 1 and not token.strip(" "):
        return [("·" * len(token), True)]
    return [
        (c, False) if c == " " or c.isprintable() else (_INVISIBLE.get(c, f"{ord(c):02x}"), True)
        for c in token
    ]


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
