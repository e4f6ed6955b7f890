"""Cards of single features: top activating contexts, logit weights and similar features."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from dictlearn.core.errors import InputError
from dictlearn.core.named import Dictionaries
from dictlearn.core.tokens import Tokens
from dictlearn.evaluation.cards.describe_features import describe_features
from dictlearn.evaluation.origins import required_dictionaries
from dictlearn.lm.hooks import LanguageModel
from dictlearn.records.features import FeatureCard, FeatureRecords


@dataclass(frozen=True, repr=False)
class Shown:
    """Feature cards, displayed as HTML in a notebook and as text in a terminal."""

    records: FeatureRecords

    def _repr_html_(self) -> str:
        from dictlearn.comparison.report.cards import cards_html  # loads plotly

        return cards_html(self.records)

    def __repr__(self) -> str:
        return "\n\n".join(map(_text, self.records.cards))


def show(
    dictionary: Dictionaries,
    features: int | Sequence[int],
    model: LanguageModel,
    tokens: Tokens,
    **options: Any,
) -> Shown:
    """The cards of one or several features of a dictionary.

    If several dictionaries are given, the cards are of the first one, and the others are searched
    for similar features.

    Args:
        dictionary: a dictionary, or several by name.
        features: the index of a feature, or several.
        model: the model that the dictionary was trained on.
        tokens: the text in which contexts are searched.
        options: further arguments of `describe_features`, such as `n_contexts` and `window`.

    Raises:
        InputError: a feature does not exist, or `describe_features` rejects an argument.
    """
    dictionary = required_dictionaries("show", dictionary)
    chosen = list(features) if isinstance(features, Iterable) else [features]
    if not all(isinstance(feature, Integral) for feature in chosen):
        raise InputError(f"required the index of a feature, or several, got {features!r:.80}")
    named = {next(iter(dictionary)): chosen}
    return Shown(describe_features(dictionary, model, tokens, named, **options))


def _text(card: FeatureCard) -> str:
    lines = [f"{card.dictionary} {card.feature}: active at {100 * card.density:.3g} % of tokens"]
    lines += [f"  {c.strength:8.3g}  {_line(c.marked())}" for c in card.contexts]
    for label, weights in (("promotes", card.promoted), ("suppresses", card.suppressed)):
        if weights is not None:
            lines.append(f"  {label} {', '.join(repr(w.token) for w in weights)}")
    if card.no_logits:
        lines.append(f"  no logit weights: {card.no_logits}")
    if card.nearest:
        near = (f"{n.dictionary} {n.feature} ({n.cosine:.2f})" for n in card.nearest)
        lines.append(f"  nearest: {', '.join(near)}")
    return "\n".join(lines)


def _line(text: str) -> str:
    return text.replace("\n", "↵").replace("\t", "⇥").strip()
