"""The features of dictionaries as one table, for sorting and filtering in a notebook."""

from collections.abc import Mapping
from math import inf, log10, nan
from typing import TYPE_CHECKING, Any

import torch

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.named import Dictionaries
from dictlearn.core.tokens import Tokens
from dictlearn.evaluation.agreement.correlations import Correlated, Correlations
from dictlearn.evaluation.cards.describe_features import describe_features
from dictlearn.evaluation.origins import required_dictionaries
from dictlearn.lm.hooks import LanguageModel
from dictlearn.progress import progress as progress_bar
from dictlearn.records.features import FeatureCard

if TYPE_CHECKING:
    import pandas as pd

_JUST_THE_TOKEN = (0, 0)
_N_PROMOTED = 5
_COLUMNS = ("density", "log10_density", "top_tokens", "promoted")


def features(
    dictionaries: Dictionaries,
    model: LanguageModel,
    tokens: Tokens,
    *,
    n_tokens: int = 5,
    exclude_special: bool = True,
    allow_other_model: bool = False,
    progress: bool = True,
) -> "pd.DataFrame":
    """A table of all features of all dictionaries, dead ones included, by dictionary and number.

    Columns about a feature itself:

    * `density`: the fraction of tokens at which it is active, and `log10_density`, -inf where the
      feature is dead;
    * `atom_norm`: the Euclidean norm of its atom, in raw units of the activation;
    * `top_tokens`: the different tokens at which it is most active, one of each sequence;
    * `promoted`: the tokens with the largest logit weights; None where the target is not added to
      the residual stream.

    For every other dictionary NAME, where there are several:

    * `nearest_NAME` and `cosine_NAME`: its feature with the nearest atom, where both have the same
      target;
    * `correlated_NAME` and `correlation_NAME`: its feature with the largest Pearson correlation of
      coefficients over the tokens, where both features vary.

    Missing values are `<NA>` or NaN. These are the numbers of `describe_features` and of
    `compare_features`.

    Args:
        dictionaries: one, named by its kind, or several by name.
        model: the language model that they were trained on.
        tokens: normally of the held-out split.
        n_tokens: number of top tokens, at most.
        exclude_special: leave out special tokens (BOS, EOS, padding).
        allow_other_model: also take dictionaries of another model.
        progress: show progress bars.

    Raises:
        InputError: there is no dictionary, `n_tokens` is below 1, or one does not fit the model.
        ProvenanceError: a dictionary was trained on another model, and `allow_other_model` is off.
        NonFiniteError: activations hold NaN or infinity.
    """
    import pandas as pd

    named = required_dictionaries("features", dictionaries)
    cards = describe_features(
        named, model, tokens, {name: range(d.n_features) for name, d in named.items()},
        n_contexts=n_tokens, window=_JUST_THE_TOKEN, exclude_special=exclude_special,
        allow_other_model=allow_other_model, progress=progress,
    ).cards  # fmt: skip
    rows = [_own(card) for card in cards]
    index = pd.MultiIndex.from_arrays(
        [[card.dictionary for card in cards], [card.feature for card in cards]],
        names=["dictionary", "feature"],
    )
    frame = pd.DataFrame(rows, index=index, columns=list(_COLUMNS))
    norms = [d.atoms.detach().float().norm(dim=1).cpu() for d in named.values()]
    frame.insert(2, "atom_norm", torch.cat(norms).tolist())
    if len(named) > 1:
        reading = Correlations(
            named, model, tokens.ids, tokens.counted(exclude_special=exclude_special)
        )
        with progress_bar("correlating", reading.n_batches, show=progress) as done:
            found = reading.run(done)
        for other in named:
            _add_nearest(frame, cards, other)
            _add_correlated(frame, named, found, other)
    return frame


def _own(card: FeatureCard) -> tuple[Any, ...]:
    """The columns about a feature that its card has."""
    top = ", ".join(repr(context.tokens[context.peak]) for context in card.contexts)
    promoted = (
        None
        if card.promoted is None
        else ", ".join(repr(weight.token) for weight in card.promoted[:_N_PROMOTED])
    )
    return card.density, log10(card.density) if card.density else -inf, top, promoted


def _add_nearest(frame: "pd.DataFrame", cards: list[FeatureCard], other: str) -> None:
    """Add the feature of `other` with the nearest atom."""
    import pandas as pd

    near = [next((n for n in card.nearest if n.dictionary == other), None) for card in cards]
    partners = [pd.NA if n is None else n.feature for n in near]
    frame[f"nearest_{other}"] = pd.array(partners, dtype="Int64")
    frame[f"cosine_{other}"] = [nan if n is None else n.cosine for n in near]


def _add_correlated(
    frame: "pd.DataFrame",
    named: Mapping[str, FeatureDictionary],
    found: Correlated,
    other: str,
) -> None:
    """Add the feature of `other` that correlates most."""
    import pandas as pd

    partners = pd.Series(pd.NA, index=frame.index, dtype="Int64")
    values = pd.Series(nan, index=frame.index, dtype=float)
    for name in named:
        if (name, other) in found.largest and found.moments[other].spread.any():
            live = found.moments[name].spread.nonzero()[:, 0].tolist()
            rows = pd.MultiIndex.from_product([[name], live], names=frame.index.names)
            partners[rows] = found.partners[name, other].tolist()
            values[rows] = found.largest[name, other].tolist()
    frame[f"correlated_{other}"] = partners
    frame[f"correlation_{other}"] = values
