"""Pages from the templates of this package, in which all inserted text is escaped."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import plotly.io
from jinja2 import pass_context
from jinja2.runtime import Context
from plotly.offline import get_plotlyjs

from dictlearn.comparison.vocabulary import formatted, number
from dictlearn.pages import card_id, environment

_FOLDER = Path(__file__).parents[1] / "templates"
_MARKDOWN = re.compile(
    r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=\bwww)\.|(?:^|(?<=^ ))[#+=-]+(?=\s|$)"
)
"""Characters that Markdown interprets; an underscore within a word is not one of them."""


def render(template: str, **data: Any) -> str:
    """The page of `template`, filled with `data`."""
    return _ENVIRONMENT.get_template(template).render(data)


def escaped_markdown(text: str) -> str:
    r"""The text on one line, without characters that Markdown interprets; HTML is left alone.

    >>> print(escaped_markdown("a_b | [c](d)\n1. e"))
    a_b \| \[c\](d) 1. e
    """
    line = _MARKDOWN.sub(r"\\\g<0>", re.sub(r"\s+", " ", text))
    return re.sub(r"^( ?\d+)([.)])(?=\s|$)", r"\1\\\2", line)


@cache
def _scripts() -> tuple[str, str]:
    """The scripts of a page: plotly and our own."""
    return get_plotlyjs(), (_FOLDER / "report.js").read_text(encoding="utf-8")


@pass_context
def _finalized(context: Context, value: Any) -> Any:
    """The value; in a Markdown template, its escaped text."""
    if str(context.name).endswith(".md.jinja") and not hasattr(value, "__html__"):
        return escaped_markdown(str(value))
    return value


_ENVIRONMENT = environment(_FOLDER, finalize=_finalized)
_ENVIRONMENT.policies |= {
    "json.dumps_function": plotly.io.to_json,
    "json.dumps_kwargs": {},
}
_ENVIRONMENT.globals["scripts"] = _scripts
_ENVIRONMENT.filters |= {
    "card_of": lambda card: card_id(card.dictionary, card.feature),
    "formatted": lambda value, metric: formatted(metric, value),
    "number": number,
}
