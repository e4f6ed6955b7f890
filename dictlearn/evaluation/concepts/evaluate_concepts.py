"""`evaluate_concepts`: features as detectors of concepts, beside baselines.

The experiment of Tamkin, Taufeeque and Goodman 2023, "Codebook Features", figure 6, with average
precision, random features and held-out scoring: detectors are chosen on one half of the text and
scored on the other.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import NotApplicableError
from dictlearn.core.named import Dictionaries
from dictlearn.core.tokens import Tokens
from dictlearn.evaluation.concepts.compare_families import compare_families, without_interval
from dictlearn.evaluation.concepts.split_halves import halves
from dictlearn.evaluation.origins import require_fitting, required_dictionaries
from dictlearn.lm.hooks import LanguageModel
from dictlearn.lm.sites import require_readable
from dictlearn.progress import progress as progress_bar
from dictlearn.progress import timed
from dictlearn.records.concepts import ConceptRecords, ConceptScore, Family
from dictlearn.text.concepts import DEFAULT_CONCEPTS, Concept, concept_labels


@timed("concepts")
def evaluate_concepts(
    dictionaries: Dictionaries,
    model: LanguageModel,
    tokens: Tokens,
    concepts: Sequence[Concept] = DEFAULT_CONCEPTS,
    *,
    min_matches: int = 20,
    seed: int = 0,
    allow_other_model: bool = False,
    progress: bool = True,
) -> ConceptRecords:
    """How well features detect each concept, beside random features and other baselines.

    The sequences are split into random halves. On the first half, the candidate with the best
    average precision is chosen for each concept from every family: the features; as many random
    features with the same L0 there; the hidden neurons of the MLP in the target's layer; the basis
    directions of the target; its principal components; directions with both signs. So is the
    threshold of the candidate with the best F1. On the second half, all are scored by their average
    precision, and by precision and recall at their threshold.

    The best of many candidates detects something by chance: what training adds is the average
    precision of the features minus that of the random ones. Uninformative scores have an average
    precision and a precision of the base rate, the fraction of tokens with the concept.

    Intervals are 95 % intervals over the sequences of the second half, from the jackknife, and have
    one free end at 0 and 1 (`metrics.intervals`). They say how the scores of the chosen candidates
    vary with the text, not how the choice varies. There are none where fewer than four sequences
    have a match.

    Tokens in blocks of whole documents (`load_tokens`) keep a document from being in both halves,
    unless it is longer than a block. Special tokens are left out.

    Args:
        dictionaries: one, or several by name, all of `model`.
        model: the language model; its tokenizer gives the text.
        tokens: normally of the held-out split.
        concepts: the concepts, each defined by a pattern.
        min_matches: concepts with fewer matching tokens in either half are left out.
        seed: the seed of the halves and of the random features.
        allow_other_model: also take dictionaries of another model; the records name them.
        progress: show a progress bar.

    Raises:
        NotApplicableError: there is no feature, no concept with enough matches, fewer than four
            sequences, or no fast tokenizer.
        InputError: there is no dictionary, or one, or a token, does not fit the model.
        ProvenanceError: a dictionary was trained on another model, and `allow_other_model` is off.
        NonFiniteError: activations hold NaN or infinity.
    """
    dictionaries = required_dictionaries("evaluate_concepts", dictionaries)
    require_readable(model, tokens)
    _require_enough(dictionaries, tokens)
    origin, transfer = require_fitting(dictionaries, model, allow_other_model=allow_other_model)
    empty = {
        f"{n}: {Family.FEATURES}": "it has none"
        for n, d in dictionaries.items()
        if not d.n_features
    }
    dictionaries = {name: d for name, d in dictionaries.items() if d.n_features}
    labels = concept_labels(tokens, model.tokenizer, concepts)
    order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(seed))
    parts = [part.sort().values for part in order.tensor_split(2)]
    labels, kept, left_out = _frequent(labels, concepts, parts, min_matches)
    left_out |= empty
    unlike_dictionaries = ~seed  # their own random directions are drawn from small seeds
    choosing, scoring = halves(dictionaries, model, tokens, labels, parts, unlike_dictionaries)
    scores: list[ConceptScore] = []
    targets = {name: d.sites.target for name, d in dictionaries.items()}
    with progress_bar("scoring concepts", len(targets), show=progress) as done:
        for target, families in scoring.baselines.items():
            names = [name for name, at in targets.items() if at == target]
            if Family.NEURONS not in families:
                missing = f"no MLP with known weights in the layer of {str(target)!r}"
                left_out |= {f"{name}: {Family.NEURONS}": missing for name in names}
            scores += compare_families(choosing, scoring, names, target, kept)
            done(len({score.dictionary for score in scores}))
    described = tokens.describe() | {"seed": seed, "n_scored_sequences": scoring.n_sequences}
    described |= transfer
    patterns = {c.name: c.pattern for c in concepts if c.name in kept}
    provenance = origin.on(tokens, exclude_special=True)
    unsure = without_interval(scoring, kept)
    return ConceptRecords(provenance, described, patterns, scores, left_out, unsure)


def _require_enough(dictionaries: Mapping[str, FeatureDictionary], tokens: Tokens) -> None:
    if not any(dictionary.n_features for dictionary in dictionaries.values()):
        raise NotApplicableError(
            f"evaluate_concepts needs a dictionary with features, got {dictionaries!r:.80}"
        )
    if len(tokens) < 4:
        raise NotApplicableError(
            f"two halves of at least 2 sequences are required, got {len(tokens)} sequences; use "
            "more tokens or a shorter context"
        )


def _frequent(
    labels: Bool[Tensor, "concept b pos"],
    concepts: Sequence[Concept],
    parts: Sequence[Int[Tensor, " _"]],
    min_matches: int,
) -> tuple[Bool[Tensor, "kept b pos"], list[str], dict[str, str]]:
    """Labels and names of concepts with enough matches; for the others, the reason."""
    counts = torch.stack([labels[:, part].sum(dim=(1, 2)) for part in parts])
    enough = counts.amin(dim=0) >= max(min_matches, 1)
    left_out = {
        concept.name: f"{a} and {b} matches in the halves, at least {min_matches} are required"
        for concept, (a, b), ok in zip(concepts, counts.T.tolist(), enough.tolist(), strict=True)
        if not ok
    }
    names = [concept.name for concept in concepts if concept.name not in left_out]
    if not names:
        raise NotApplicableError(
            f"required a concept with at least {min_matches} matches in both halves, got none "
            f"({'; '.join(f'{k}: {v}' for k, v in list(left_out.items())[:3])}); use more tokens, "
            "other concepts or a smaller min_matches"
        )
    return labels[enough], names, left_out
