"""The records of `describe_features`: cards of single features."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dictlearn.core.files import typed
from dictlearn.core.provenance import Provenance
from dictlearn.records.base import SavedRecords, listed

if TYPE_CHECKING:
    import pandas as pd

FEATURES_FILE = "features.json"


@dataclass(frozen=True)
class Context:
    """The text around a token at which a feature is strongly active."""

    tokens: list[str]
    """The text of each token, spaces included."""
    activations: list[float]
    """The feature's coefficient at each of these tokens; 0 where it is not active."""
    peak: int
    """Index, among these tokens, of the one with the peak activation."""
    sequence: int
    """Index of the sequence that the context is from."""

    def __post_init__(self) -> None:
        if not len(self.tokens) == len(self.activations) > self.peak >= 0:
            raise ValueError(
                f"a context has {len(self.tokens)} tokens, {len(self.activations)} activations, "
                f"and its peak at {self.peak}"
            )

    @property
    def strength(self) -> float:
        """The activation at the peak."""
        return self.activations[self.peak]

    def joined(self) -> list[tuple[str, float, bool]]:
        """Text, activation and whether it is the peak, of each token or run of byte fragments.

        A token that ends within a character has no text. It is joined to the token that completes
        the character, with the activation that is largest in size.

        >>> Context([" a", "", "é"], [0.0, 2.0, 1.0], peak=1, sequence=0).joined()
        [(' a', 0.0, False), ('é', 2.0, True)]
        """
        found: list[tuple[str, float, bool]] = []
        act, peak = 0.0, False
        for i, text in enumerate(self.tokens):
            act, peak = max(act, self.activations[i], key=abs), peak or i == self.peak
            if text or i + 1 == len(self.tokens):
                found.append((text, act, peak))
                act, peak = 0.0, False
        return found

    def marked(self) -> str:
        """The text with the peak in brackets.

        >>> Context([" a", " cat", " sat"], [0.0, 2.0, 0.5], peak=1, sequence=0).marked()
        ' a[ cat] sat'
        """
        return "".join(f"[{text}]" if peak else text for text, _, peak in self.joined())


@dataclass(frozen=True)
class TokenWeight:
    """A token of the vocabulary, and the weight of a feature on its logit."""

    token: str
    weight: float


@dataclass(frozen=True)
class Neighbor:
    """A feature of another dictionary, and the cosine between the two atoms."""

    dictionary: str
    feature: int
    cosine: float


@dataclass(frozen=True)
class FeatureCard:
    """One feature: its density, top contexts, logit weights and nearest features."""

    dictionary: str
    feature: int
    density: float
    """Fraction of non-special tokens on which the feature is active."""
    contexts: list[Context]
    """The strongest first."""
    promoted: list[TokenWeight] | None
    """Tokens with the largest logit weights, the largest first; None without logit weights."""
    suppressed: list[TokenWeight] | None
    """Tokens with the smallest logit weights, the smallest first; None without logit weights."""
    no_logits: str
    """The reason why there are no logit weights; empty if there are."""
    nearest: list[Neighbor]
    """The features with the largest cosines in each other dictionary with the same target."""

    @property
    def strength(self) -> float:
        """The largest activation, or 0 without a context."""
        return self.contexts[0].strength if self.contexts else 0.0

    @property
    def is_binary(self) -> bool:
        """Whether every activation on the card is 0 or 1, as those of codes are."""
        found = {act for context in self.contexts for act in context.activations}
        return bool(found) and found <= {0.0, 1.0}


@dataclass(frozen=True, repr=False)
class FeatureRecords(SavedRecords):
    """Cards of features of several dictionaries, made on the same tokens of one model."""

    file: ClassVar[str] = FEATURES_FILE
    kind: ClassVar[str] = "features"
    remake: ClassVar[str] = "describe the features again"
    maker: ClassVar[str] = "describe_features"

    cards: list[FeatureCard]
    left_out: dict[str, str]
    """Dictionaries without cards, each with the reason."""

    def to_pandas(self) -> "pd.DataFrame":
        """A table with one row for each card."""
        import pandas as pd

        columns = ["dictionary", "feature", "density", "max_activation", "top_context",
                   "promoted", "suppressed", "nearest"]  # fmt: skip
        return pd.DataFrame([_row(card) for card in self.cards], columns=columns)

    def _in_words(self) -> str:
        names = dict.fromkeys(card.dictionary for card in self.cards)
        return f"{len(self.cards)} cards of {listed(names)}"

    def _entries(self) -> dict[str, Any]:
        return {"left_out": self.left_out, "cards": [asdict(card) for card in self.cards]}

    @classmethod
    def _from_entries(
        cls, provenance: Provenance, tokens: dict[str, Any], data: dict[str, Any], folder: Path
    ) -> "FeatureRecords":
        cards = typed(data["cards"], list[FeatureCard])
        return cls(provenance, tokens, cards, typed(data["left_out"], dict[str, str]))


def _row(card: FeatureCard) -> tuple[Any, ...]:
    promoted, suppressed = (
        None if weights is None else ", ".join(repr(w.token) for w in weights[:5])
        for weights in (card.promoted, card.suppressed)
    )
    nearest = ", ".join(f"{n.dictionary} {n.feature} ({n.cosine:.2f})" for n in card.nearest[:3])
    top = card.contexts[0].marked() if card.contexts else ""
    return (card.dictionary, card.feature, card.density, card.strength, top, promoted, suppressed,
            nearest)  # fmt: skip
