"""`reveal_case`: the text of a blind case, and how well the sealed guess tells the feature."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from jaxtyping import Bool, Float
from torch import Tensor

from dictlearn.blind.case import REVEALED_FILE, RUN, BlindCase, hash_of_weights
from dictlearn.blind.coefficients import coefficients
from dictlearn.blind.contexts import Revealed, random_contexts, top_contexts
from dictlearn.blind.guess import Guess, sealed_guess
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError, ProvenanceError, nearest
from dictlearn.core.own_files import OwnFiles
from dictlearn.core.provenance import Provenance
from dictlearn.core.tokens import Tokens
from dictlearn.lm.hooks import LanguageModel
from dictlearn.lm.identity import model_provenance
from dictlearn.metrics.intervals import Interval, Jackknifed
from dictlearn.metrics.precision import jackknifed_average_precision, jackknifed_ratio
from dictlearn.text.concepts import Concept, concept_labels

FEWEST_SEQUENCES = 4
"""Matches in fewer sequences are no ground for an interval."""
_UNDEFINED = Interval(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Score:
    """One feature as a detector of the pattern's tokens; `nan` where undefined.

    The threshold is the feature's own: it is active, its coefficient positive.
    """

    feature: str
    density: float
    """Fraction of tokens at which it is active: the chance level of recall."""
    precision: Interval
    """Fraction of the tokens at which it is active that the pattern names."""
    recall: Interval
    """Fraction of the tokens that the pattern names at which it is active."""
    average_precision: Interval
    """Precision at the coefficient of each named token, averaged over these."""


@dataclass(frozen=True)
class RevealedCase:
    """A guess, scored on text that it was not made on, and that text around the feature."""

    guess: Guess
    base_rate: float
    """Fraction of tokens that the pattern names: the chance level of precisions."""
    scores: list[Score]
    """Of the feature, and of the control if there is one."""
    advantage: Interval
    """Average precision of the feature minus that of the control; `nan` without one."""
    top: list[Revealed]
    random: list[Revealed]
    n_tokens: int
    tokens_sha256: str

    def save(self, folder: str | Path) -> Path:
        """Write the scores and contexts to the folder of the case; the path of their file.

        Raises:
            InputError: there is such a file, and it is not one that was saved there.
        """
        own = OwnFiles.of(folder, RUN)
        entries = {key: _plain(x) for key, x in asdict(self).items()}
        own.write_json(REVEALED_FILE, {"seal": self.guess.seal} | entries)
        return own.path / REVEALED_FILE


def reveal_case(
    folder: str | Path,
    model: LanguageModel,
    dictionaries: Mapping[str, FeatureDictionary],
    held_out: Tokens,
    *,
    n_contexts: int = 8,
    seed: int = 0,
) -> RevealedCase:
    """The text of the case in `folder`, and the scores of the guess, which must be sealed.

    The pattern's tokens are labels, and the feature detects them: a right guess has precision and
    recall near 1, and one that has nothing to do with the feature a precision near the base rate
    and a recall near the density. Intervals are 95 % intervals over sequences from the jackknife,
    as in `evaluate_concepts`; their ends are `nan` with matches in fewer than four sequences.

    Args:
        folder: where the case was saved and the guess sealed.
        model: the model of the case.
        dictionaries: by name; the one of the case is used.
        held_out: other text than that of the case.
        n_contexts: largest number of contexts, of the strongest and of random active tokens.
        seed: the seed of the random contexts.

    Raises:
        InputError: there is no guess, no such dictionary, or the text is that of the case.
        CorruptFileError: the case or the guess was altered.
        ProvenanceError: the model or the dictionary is another one.
    """
    case, guess = sealed_guess(folder)
    _require_same(case, model, dictionaries, held_out)
    numbers = [case.feature, *([] if case.control is None else [case.control])]
    values = coefficients(model, dictionaries[case.dictionary], held_out, numbers)
    concept = Concept("guess", guess.pattern)
    labels = concept_labels(held_out, model.tokenizer, [concept])[0] & held_out.ordinary
    found = [_Detection.of(values[..., i], labels, held_out) for i in range(len(numbers))]
    shown = (values[..., 0], labels, held_out, model.tokenizer, n_contexts)
    return RevealedCase(
        guess=guess,
        base_rate=int(labels.sum()) / held_out.n_tokens,
        scores=[one.score(f"{case.dictionary} {n}") for one, n in zip(found, numbers, strict=True)],
        advantage=found[0].minus(found[1]) if len(found) > 1 else _UNDEFINED,
        top=top_contexts(*shown),
        random=random_contexts(*shown, seed),
        n_tokens=held_out.n_tokens,
        tokens_sha256=held_out.hash,
    )


@dataclass(frozen=True)
class _Detection:
    """The detection of the pattern's tokens by one feature."""

    density: float
    precision: Jackknifed
    recall: Jackknifed
    average_precision: Jackknifed | None
    """None without a token that the pattern names."""
    enough: bool
    """Whether enough sequences have a match for intervals."""

    @classmethod
    def of(
        cls, values: Float[Tensor, "b pos"], labels: Bool[Tensor, "b pos"], tokens: Tokens
    ) -> "_Detection":
        """The detection on these tokens, special ones apart."""
        n, ordinary = len(tokens), tokens.ordinary
        sequences = ordinary.nonzero()[:, 0]
        active = values > 0
        hits, taken, matches = (x.sum(dim=1) for x in (active & labels, active, labels))
        ranked = None
        if bool(matches.any()):
            ranked = jackknifed_average_precision(values[ordinary], labels[ordinary], sequences, n)
        return cls(
            int(taken.sum()) / tokens.n_tokens,
            jackknifed_ratio(hits, taken),
            jackknifed_ratio(hits, matches),
            ranked,
            int((matches > 0).sum()) >= FEWEST_SEQUENCES,
        )

    def score(self, feature: str) -> Score:
        """The scores with their intervals."""
        three = (self.precision, self.recall, self.average_precision)
        return Score(feature, self.density, *(self._shown(x and x.interval) for x in three))

    def minus(self, other: "_Detection") -> Interval:
        """The difference of average precisions."""
        if self.average_precision is None or other.average_precision is None:
            return _UNDEFINED
        return self._shown(self.average_precision.minus(other.average_precision))

    def _shown(self, interval: Interval | None) -> Interval:
        if interval is None or math.isnan(interval.value):
            return _UNDEFINED
        return interval if self.enough else Interval(interval.value, math.nan, math.nan)


def _require_same(
    case: BlindCase,
    model: LanguageModel,
    dictionaries: Mapping[str, FeatureDictionary],
    held_out: Tokens,
) -> None:
    if case.dictionary not in dictionaries:
        raise InputError(
            f"no dictionary {case.dictionary!r}; {nearest(case.dictionary, dictionaries)}"
        )
    if held_out.hash == case.tokens["hash"]:
        raise InputError(
            "required other text than that of the case, got the same, on which its prompts were "
            "found; use the held-out split"
        )
    here = model_provenance(model)
    if not Provenance.from_dict(case.model).is_same_model(here):
        raise ProvenanceError(
            f"the case is of model {Provenance.from_dict(case.model).model_in_words()}, got "
            f"{here.model_in_words()}; use that model"
        )
    if hash_of_weights(dictionaries[case.dictionary]) != case.weights_sha256:
        raise ProvenanceError(
            f"dictionary {case.dictionary!r} has other weights than when the case was shown; use "
            "that dictionary"
        )


def _plain(x: object) -> object:
    """Plain data for JSON, with None in the place of every `nan`."""
    if isinstance(x, dict):
        return {key: _plain(item) for key, item in x.items()}
    if isinstance(x, list | tuple):
        return [_plain(item) for item in x]
    return None if isinstance(x, float) and math.isnan(x) else x
