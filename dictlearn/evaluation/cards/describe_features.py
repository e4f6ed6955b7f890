"""`describe_features`: cards that show where single features are active, and their effect."""

from collections.abc import Mapping, Sequence
from operator import index

import torch

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError, NotApplicableError, nearest
from dictlearn.core.named import Dictionaries
from dictlearn.core.tokens import Tokens
from dictlearn.evaluation.cards.feature_card import CardMaker
from dictlearn.evaluation.cards.top_contexts import TopContexts, Windows
from dictlearn.evaluation.origins import require_fitting, required_dictionaries
from dictlearn.evaluation.stream.activations import ActivationStream
from dictlearn.lm.hooks import LanguageModel
from dictlearn.progress import progress as progress_bar
from dictlearn.progress import timed
from dictlearn.records.features import FeatureRecords

_TOKENS_AT_ONCE = 1 << 12
_CARDS_AT_ONCE = 1 << 10
"""Features whose weights on all logits are in memory together."""
_RULE = (
    "up to {0} of the active features of each dictionary, one drawn from each of {0} equal parts "
    "of their order by density"
)


@timed("cards")
def describe_features(
    dictionaries: Dictionaries,
    model: LanguageModel,
    tokens: Tokens,
    features: Mapping[str, Sequence[int]] | int = 12,
    *,
    also: Mapping[str, Sequence[int]] | None = None,
    n_contexts: int = 8,
    window: tuple[int, int] = (12, 6),
    exclude_special: bool = True,
    seed: int = 0,
    allow_other_model: bool = False,
    progress: bool = True,
) -> FeatureRecords:
    """A card for each chosen feature: its top contexts, logit weights and nearest features.

    One pass over the tokens serves all dictionaries. A context is the text around the token of a
    sequence at which the feature is most active. Contexts with the same tokens are shown once.
    Ties are broken by a hash of the text: the contexts of a code, whose activations are all 1,
    are a sample. The density is the fraction of all tokens read at which the feature is active.

    Logit weights are the direct effect of the atom on the logits (`LogitMap.weights`). There are
    none, and the card has the reason, where the target is not added to the residual stream.
    Nearest features are those with the largest cosine of atoms, in every other dictionary with
    the same target.

    Args:
        dictionaries: one, or several by name, all of `model`.
        model: the language model; its tokenizer gives the text.
        tokens: normally of the held-out split.
        features: the features to describe, by dictionary; dictionaries not named have no cards,
            and only serve as other dictionaries. Or a number: then as many features of each
            dictionary are drawn at random, one from each of as many equal groups of its active
            features in the order of density, so that rare features are seen beside common ones.
        also: further features of these dictionaries, described after those drawn.
        n_contexts: largest number of contexts of a card.
        window: number of tokens shown before and after the strongest.
        exclude_special: leave out special tokens (BOS, EOS, padding); they also end a window.
        seed: the seed of the sample.
        allow_other_model: also take dictionaries of another model; the records name them.
        progress: show a progress bar.

    Raises:
        NotApplicableError: the model has no tokenizer.
        InputError: a dictionary or feature does not exist, an argument is out of range, or a
            dictionary does not fit the model.
        ProvenanceError: a dictionary was trained on another model, and `allow_other_model` is off.
        NonFiniteError: activations hold NaN or infinity.
    """
    dictionaries = required_dictionaries("describe_features", dictionaries)
    if getattr(model, "tokenizer", None) is None:
        raise NotApplicableError("required a model with a tokenizer, got none; set model.tokenizer")
    origin, transfer = require_fitting(dictionaries, model, allow_other_model=allow_other_model)
    further = _joined({}, also or {})
    _require_features(dictionaries, further)
    if isinstance(features, Mapping):
        named = _joined(features, further)
        _require_features(dictionaries, named)
        names, rule = list(named), "by name"
    elif features >= 1:
        named, names, rule = {}, list(dictionaries), _RULE.format(features)
    else:
        raise InputError(f"required at least 1 feature of each dictionary, got {features}")
    _require_sizes(tokens, n_contexts, window)
    counted = tokens.counted(exclude_special=exclude_special)
    tops = {
        name: TopContexts(dictionaries[name].n_features, n_contexts, window, named.get(name))
        for name in names
    }
    at_once = max(1, _TOKENS_AT_ONCE // tokens.ids.shape[1])
    hooks = [hook for name in names for hook in dictionaries[name].sites.source.hooks]
    stream = ActivationStream(model, tokens.ids.cpu(), counted.cpu(), hooks, at_once)
    _collect_(tops, dictionaries, stream, window, show=progress)
    drawn = named if isinstance(features, Mapping) else _samples(tops, features, seed)
    chosen = _joined(drawn, further)
    maker = CardMaker(dictionaries, model, tokens, counted, window)
    cards = [
        card
        for name, top in tops.items()
        for first in range(0, len(chosen[name]), _CARDS_AT_ONCE)
        for card in maker.cards(name, top, chosen[name][first : first + _CARDS_AT_ONCE])
    ]
    if further and not isinstance(features, Mapping):
        rule += ", and others that were asked for (in a report, those that detect a concept best)"
    described = tokens.describe() | {"exclude_special": exclude_special, "seed": seed} | transfer
    silent = "none of its features is active" if not named else "none was asked for"
    left_out = {name: silent for name, some in chosen.items() if not some}
    provenance = origin.on(tokens, exclude_special=exclude_special)
    return FeatureRecords(provenance, described | {"chosen": rule}, cards, left_out)


@torch.no_grad()
def _collect_(
    tops: Mapping[str, TopContexts],
    dictionaries: Mapping[str, FeatureDictionary],
    stream: ActivationStream,
    window: tuple[int, int],
    *,
    show: bool,
) -> None:
    """Read all sequences once, and fill the top contexts of these dictionaries."""
    n, context = stream.ids.shape
    with (
        progress_bar("collecting contexts", n, show=show) as done,
        stream.batches() as batches,
    ):
        for batch in batches:
            windows = Windows.of(batch.ids, batch.counted, window, batch.part.start * context)
            for name, top in tops.items():
                top.add_(batch.encode(dictionaries[name]), windows)
            done(batch.part.stop)


def _joined(
    first: Mapping[str, Sequence[int]], more: Mapping[str, Sequence[int]]
) -> dict[str, list[int]]:
    """The features of both by dictionary, each once."""
    return {
        name: list(dict.fromkeys(map(index, [*first.get(name, ()), *more.get(name, ())])))
        for name in {**first, **more}
    }


def _samples(tops: Mapping[str, TopContexts], n: int, seed: int) -> dict[str, list[int]]:
    """One feature from each of `n` equal groups of the active features in order of density."""
    found: dict[str, list[int]] = {}
    for name, top in tops.items():
        generator = torch.Generator().manual_seed(seed)
        order = top.firings.argsort(descending=True, stable=True)
        active = order[: int((top.firings > 0).sum())]
        parts = active.tensor_split(min(n, len(active))) if len(active) else ()
        draws = (part[torch.randint(len(part), (), generator=generator)] for part in parts)
        found[name] = [int(feature) for feature in draws]
    return found


def _require_features(
    dictionaries: Mapping[str, FeatureDictionary], features: Mapping[str, Sequence[int]]
) -> None:
    for name, some in features.items():
        if name not in dictionaries:
            raise InputError(f"there is no dictionary {name!r}; {nearest(name, dictionaries)}")
        n = dictionaries[name].n_features
        for feature in some:
            if not 0 <= feature < n:
                valid = f"has features 0 to {n - 1}" if n else "has no features"
                raise InputError(f"dictionary {name!r} {valid}, got feature {feature}")


def _require_sizes(tokens: Tokens, n_contexts: int, window: tuple[int, int]) -> None:
    if not len(tokens):
        raise InputError("required at least 1 sequence of tokens, got none")
    if n_contexts < 1:
        raise InputError(f"required n_contexts of at least 1, got {n_contexts}")
    if len(window) != 2 or min(window) < 0:
        raise InputError(
            f"required a window of two numbers of tokens, before and after, got {window!r}"
        )
