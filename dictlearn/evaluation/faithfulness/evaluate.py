"""`evaluate`: metrics of several dictionaries, on the same tokens and the same tensors."""

import warnings
from collections.abc import Collection, Mapping

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError
from dictlearn.core.named import Dictionaries
from dictlearn.core.tokens import Tokens
from dictlearn.evaluation.faithfulness.ablations import ABLATIONS
from dictlearn.evaluation.faithfulness.clean_passes import CleanPasses
from dictlearn.evaluation.faithfulness.coefficient_bits import coefficient_messages
from dictlearn.evaluation.faithfulness.dictionary_sums import DictionarySums
from dictlearn.evaluation.faithfulness.estimate_sums import named_targets
from dictlearn.evaluation.origins import require_fitting, required_dictionaries
from dictlearn.lm.hooks import LanguageModel
from dictlearn.lm.sites import require_readable
from dictlearn.progress import timed
from dictlearn.records.results import Records


@timed("evaluate")
def evaluate(
    dictionaries: Dictionaries,
    model: LanguageModel,
    tokens: Tokens,
    *,
    exclude_special: bool = True,
    batch_size: int | None = None,
    seed: int = 0,
    bits: bool = False,
    ablations: Collection[str] = ABLATIONS,
    allow_other_model: bool = False,
    progress: bool = True,
) -> Records:
    """The records of `dictionaries`, all evaluated on the same tokens of `model`.

    For every batch of sequences, the model runs once without changes. Each dictionary's estimate,
    made from that pass, is then spliced in at its target, and the model runs again. All metrics
    are ratios of sums over the whole evaluation set (`metrics.pooled`); `docs/results.md` defines
    them.

    With `exclude_special`, special tokens are neither replaced nor counted as rows, and
    predictions of special tokens are not counted. `seed` pairs sequences for the resample
    ablation; `batch_size` (in sequences, by default some 2,000 tokens on a CPU and 16,000 on other
    devices) changes the time it takes and nothing else.

    With `bits`, the bits per token of coefficients that are not binary are measured as well
    (`coefficient_bits`), and all sums of what a decoder of these bits would reconstruct, in up to
    six more passes, and one for single targets of several. The bits that say which features are
    active are always measured, but have intervals only with `bits`.

    A dictionary that writes at several hooks has a record of all its targets, replaced together,
    and one of each alone, named "dictionary @ hook". Where each target comes after what it depends
    on (cross-layer transcoders), the former is made inside the spliced pass itself, the
    replacement model; where not (crosscoders), from the clean pass: `estimates` says which.
    Sparsity at a single target is that of the features that can write there.

    `ablations` says against what loss recovered is measured: "zero", and "mean" and "resample"
    unless left out to save their passes.

    With `allow_other_model`, dictionaries of another model are evaluated too, such as those of a
    base model on its fine-tuned sibling; the records name them.

    Raises:
        InputError: no dictionary, no such ablation, a hook that the model does not have, a wrong
            width, or a target that changes the predictions when it is replaced by itself.
        ProvenanceError: a dictionary was trained on another model, and `allow_other_model` is off.
        NonFiniteError: activations or an estimate hold NaN or infinity.
    """
    require_readable(model, tokens)
    dictionaries = required_dictionaries("evaluate", dictionaries)
    _require_distinct_rows(dictionaries)
    origin, transfer = require_fitting(dictionaries, model, allow_other_model=allow_other_model)
    for name, dictionary in dictionaries.items():
        trained_on = dictionary.provenance
        if trained_on.text_hash == tokens.hash or trained_on.split == tokens.split == "train":
            warnings.warn(
                f"{name!r} was trained on text of this split: evaluate on the held-out split",
                stacklevel=2,
            )
    if batch_size is not None and not (isinstance(batch_size, int) and batch_size >= 1):
        raise InputError(f"batch_size must be a whole number of sequences, got {batch_size!r}")
    ablations = _known_ablations(ablations)
    counted = tokens.counted(exclude_special=exclude_special)
    if not counted.any():
        raise InputError(
            f"required at least one token to evaluate, got {tokens.ids.numel()} special ones; give "
            "other text, or exclude_special=False (--include-special)"
        )
    passes = CleanPasses(model, tokens.ids, counted, dictionaries.values(), batch_size)
    sums = DictionarySums(dictionaries, passes, seed, ablations)
    sums.run(show=progress)
    found = sums.records()
    if bits:
        messages = coefficient_messages(dictionaries, found, sums.usage, passes, show=progress)
        found = sums.records(messages)
    provenance = origin.on(tokens, exclude_special=exclude_special)
    described = tokens.describe() | {
        "exclude_special": exclude_special,
        "resample_seed": seed,
        "shortcuts": passes.splicer.shortcuts.names,
        **transfer,
    }
    return Records(provenance, described, found)


def _known_ablations(ablations: Collection[str]) -> Collection[str]:
    """The ablations, checked to be known and to include "zero"; one may be given by its name."""
    ablations = (ablations,) if isinstance(ablations, str) else ablations
    if (
        not isinstance(ablations, Collection)
        or "zero" not in ablations
        or not set(ablations) <= set(ABLATIONS)
    ):
        raise InputError(
            f"ablations must be 'zero' and any of {', '.join(ABLATIONS[1:])}, got {ablations!r}"
        )
    return ablations


def _require_distinct_rows(dictionaries: Mapping[str, FeatureDictionary]) -> None:
    rows = [row for name, d in dictionaries.items() for row in named_targets(name, d.sites.target)]
    if twice := {row for row in rows if rows.count(row) > 1}:
        raise InputError(
            f"two results would be named {', '.join(map(repr, sorted(twice)))}, since a dictionary "
            "of several targets has one of each; rename one of the dictionaries"
        )
