"""`compare_features`: do dictionaries learn the same features, by atoms and by activations?"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError
from dictlearn.core.named import Dictionaries
from dictlearn.core.provenance import Provenance
from dictlearn.core.tokens import Tokens
from dictlearn.evaluation.agreement.controls import Controls, controls
from dictlearn.evaluation.agreement.correlations import LARGEST_PAIR, Correlated, Correlations
from dictlearn.evaluation.agreement.feature_statistics import (
    ULTRALOW,
    Density,
    atoms_of,
    feature_summary,
    known_densities,
)
from dictlearn.evaluation.origins import require_fitting, required_dictionaries
from dictlearn.lm.hooks import LanguageModel
from dictlearn.metrics.agreement import matched_cosine_similarity, max_cosine_similarity
from dictlearn.progress import progress as progress_bar
from dictlearn.progress import timed
from dictlearn.records.agreement import (
    SIMILARITY_BINS,
    AgreementRecords,
    PairAgreement,
)
from dictlearn.records.results import Records

_SAME = 0.9


@timed("agreement")
def compare_features(
    dictionaries: Dictionaries,
    model: LanguageModel | None = None,
    tokens: Tokens | None = None,
    *,
    records: Records | None = None,
    live_only: bool = False,
    chance: bool = True,
    matching_limit: int = 8192,
    exclude_special: bool = True,
    allow_other_model: bool = False,
    progress: bool = True,
) -> AgreementRecords:
    """Agreement between the features of every two dictionaries, in both directions.

    Atoms are compared where two dictionaries write at the same target. The agreement is then the
    largest cosine of each atom with an atom of the other dictionary: its mean
    (`mean_max_cosine_similarity`), its histogram, and the mean cosine of the best one-to-one
    matching.

    Activations are compared where a model and tokens are given. The agreement is then the largest
    Pearson correlation, over tokens, of each live feature with a feature of the other dictionary
    (Bricken et al. 2023, "Towards Monosemanticity", on universality). The targets may differ. A
    feature is live if its coefficient varies over the tokens.

    The share of features of ultralow density (active, but in less than 1e-5 of the tokens) needs
    densities: they come from `records` where it has them, else from the tokens.

    Args:
        dictionaries: two or more, by name; or one, which `chance` compares with its controls.
        model: the language model that all were trained on.
        tokens: normally of the held-out split.
        records: the result of `evaluate` for the same dictionaries.
        live_only: leave out the atoms of features that are never active.
        chance: with a model and tokens, add two dictionaries that nobody trained (`controls`), for
            rows of the data and random directions resemble a trained dictionary as well. They are
            as many as the widest dictionary has features. Beside each pair stands the similarity
            with as many of them as the second dictionary has (`AgreementRecords.level`).
        matching_limit: largest number of features that are matched one to one; the time this
            takes grows with its cube.
        exclude_special: leave out special tokens (BOS, EOS, padding).
        allow_other_model: also take dictionaries of another model; the records name them.
        progress: show a progress bar.

    Raises:
        InputError: fewer than two dictionaries, or none with `chance`, a model without tokens
            or the reverse, one that does not fit, or `live_only` without densities.
        ProvenanceError: a dictionary was trained on another model, and `allow_other_model` is off.
        NonFiniteError: activations hold NaN or infinity.
    """
    least = 1 if chance and model is not None else 2
    given = required_dictionaries("compare_features", dictionaries, at_least=least)
    if (model is None) != (tokens is None):
        raise InputError("required both a model and tokens, or neither; got only one of them")
    found, origin, described = None, Provenance(), dict[str, Any]()
    nobody, everyone = Controls({}, {}), given
    if model is not None and tokens is not None:
        origin, transfer = require_fitting(given, model, allow_other_model=allow_other_model)
        origin = origin.on(tokens, exclude_special=exclude_special)
        described = tokens.describe() | {"exclude_special": exclude_special} | transfer
        counted = tokens.counted(exclude_special=exclude_special)
        if chance:
            nobody = controls(given, model, tokens.ids, counted)
        everyone = {**given, **nobody.widest, **nobody.narrower}
        reading = Correlations(everyone, model, tokens.ids, counted, nobody.pairs(given))
        with progress_bar("correlating", reading.n_batches, show=progress) as done:
            found = reading.run(done)
    densities = known_densities(everyone, records, found)
    live = {name: _live(name, d, densities.get(name), live_only) for name, d in everyone.items()}
    summaries = {
        name: feature_summary(d, live[name], densities.get(name))
        for name, d in {**given, **nobody.widest}.items()
    }
    every = [
        pair
        for names in nobody.pairs(given)
        for pair in _pair(everyone, live, names, matching_limit, found)
    ]
    pairs = nobody.beside(given, every)
    settings = {"live_only": live_only, "matching_limit": matching_limit, "ultralow": ULTRALOW}
    return AgreementRecords(origin, described, settings, summaries, pairs)


def _pair(
    dictionaries: Mapping[str, FeatureDictionary],
    live: Mapping[str, Bool[Tensor, " _"]],
    names: tuple[str, str],
    matching_limit: int,
    found: Correlated | None,
) -> list[PairAgreement]:
    """The agreement of two dictionaries, once in each direction."""
    both = [dictionaries[name] for name in names]
    reasons: dict[str, str] = {}
    matching: dict[str, Any] = {}
    largest: list[Tensor | None] = [None, None]
    atoms = [atoms_of(d, live[name]) for d, name in zip(both, names, strict=True)]
    reason = _not_comparable(*both) or _without_atoms(names, atoms)
    if reason:
        reasons |= {"mmcs": reason, "matched": reason}
    else:
        largest = [max_cosine_similarity(*atoms), max_cosine_similarity(*reversed(atoms))]
        widest = max(len(some) for some in atoms)
        if widest > matching_limit:
            reasons["matched"] = f"{widest:,} features, at most {matching_limit:,} are matched"
        else:
            cosines = matched_cosine_similarity(*atoms)
            share = (cosines > _SAME).double().mean().item()
            matching = {"matched": cosines.mean().item(), "matched_share": share}
    pairs = []
    for (first, second), cosine in zip((names, names[::-1]), largest, strict=True):
        fields, why = _correlation(found, dictionaries, first, second)
        if cosine is not None:
            fields |= {"mmcs": cosine.mean().item(), "cosine_counts": _similarities(cosine)}
        pairs.append(
            PairAgreement(first=first, second=second, reasons=reasons | why, **matching, **fields)
        )
    return pairs


def _correlation(
    found: Correlated | None,
    dictionaries: Mapping[str, FeatureDictionary],
    first: str,
    second: str,
) -> tuple[dict[str, Any], dict[str, str]]:
    """The fields about correlations, and the reason where they are undefined."""
    n, m = dictionaries[first].n_features, dictionaries[second].n_features
    if found is None:
        return {}, {"correlation": "needs a model and tokens"}
    if n * m == 0:
        return {}, {"correlation": f"{first if n == 0 else second!r} has no features"}
    if n * m > LARGEST_PAIR:
        limit = f"at most {LARGEST_PAIR:,} products are summed"
        return {}, {"correlation": f"{n:,} x {m:,} features, {limit}"}
    for name in (first, second):
        if not found.moments[name].spread.any():
            return {}, {"correlation": f"{name!r} has no live features on these tokens"}
    largest = found.largest[first, second]
    fields: dict[str, Any] = {
        "correlation": largest.mean().item(),
        "correlation_median": largest.quantile(0.5).item(),
        "correlation_counts": _similarities(largest),
    }
    return fields, {}


def _live(
    name: str, dictionary: FeatureDictionary, density: Density | None, live_only: bool
) -> Bool[Tensor, " feature"]:
    """A mask of the features whose atoms are compared."""
    if not live_only or not dictionary.n_features:
        return torch.ones(dictionary.n_features, dtype=torch.bool)
    if density is None:
        raise InputError(
            f"live_only needs the densities of {name!r}: give records= of an evaluation of it, "
            "or a model and tokens"
        )
    return density.values > 0


def _similarities(values: Float[Tensor, " _"]) -> list[int]:
    """The histogram of similarities, in `SIMILARITY_BINS` bins from -1 to 1."""
    within = values.double().clamp(-1, 1)
    return [int(n) for n in torch.histc(within, SIMILARITY_BINS, -1, 1).tolist()]


def _not_comparable(first: FeatureDictionary, second: FeatureDictionary) -> str:
    """The reason why two dictionaries have no atoms to compare; empty if there is none."""
    a, b = first.sites.target, second.sites.target
    if a != b:
        return f"one writes at {str(a)!r} ({a.d} wide), the other at {str(b)!r} ({b.d} wide)"
    same = first.provenance.is_same_model(second.provenance)
    return "" if same else "they were trained on different models"


def _without_atoms(names: tuple[str, str], atoms: list[Tensor]) -> str:
    """The reason if one of two dictionaries has no atoms; empty if both have some."""
    empty = [repr(name) for name, some in zip(names, atoms, strict=True) if not len(some)]
    return f"{' and '.join(empty)}: no features to compare" if empty else ""
