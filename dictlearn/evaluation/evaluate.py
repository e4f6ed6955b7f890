"""Dictionaries side by side: the same tokens, the same tensors, one clean pass for all."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dictlearn.core.batches import require_finite
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError
from dictlearn.core.records import DictionaryRecord, Records
from dictlearn.core.tokens import Tokens
from dictlearn.evaluation.ablations import Reference, RunningMean, donors
from dictlearn.evaluation.sums import SequenceSums
from dictlearn.lm.forward import activations_at, logits_and_activations, spliced_logits
from dictlearn.lm.hooks import LanguageModel
from dictlearn.lm.identity import model_provenance
from dictlearn.lm.sites import require_sites
from dictlearn.metrics import rows as per_row
from dictlearn.progress import progress as progress_bar

_LOGITS_PER_BATCH = 1 << 23
"""Logits held at once, per tensor of them: 32 MB in float32. Larger is slower on a CPU."""


def evaluate(
    dictionaries: Mapping[str, FeatureDictionary],
    model: LanguageModel,
    tokens: Tokens,
    *,
    exclude_special: bool = True,
    batch_size: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Records:
    """The records of `dictionaries`, all measured on the same tokens of `model`.

    For every batch of sequences the model runs once clean; each dictionary's estimate, made
    from that pass, is then spliced in at its target. All reported numbers are ratios of sums
    over the whole set (`metrics.pooled`); `docs/results.md` defines them.

    With `exclude_special`, special tokens are neither replaced nor counted as rows, and
    predictions of special tokens are not counted. `seed` pairs sequences for the resample
    ablation; `batch_size` (in sequences, by default chosen from the vocabulary's size) changes
    the time it takes and nothing else.

    Raises:
        InputError: no dictionary, a hook that the model does not have, or a wrong width.
        ProvenanceError: a dictionary was trained on another model.
        NonFiniteError: activations or an estimate hold NaN or infinity.
    """
    _require_fitting(dictionaries, model)
    origin = model_provenance(model)
    for name, dictionary in dictionaries.items():
        dictionary.provenance.require_same_model(origin, name)
        trained_on = dictionary.provenance
        if trained_on.text_hash == tokens.hash or trained_on.split == tokens.split == "train":
            warnings.warn(
                f"{name!r} was trained on text of this split: evaluate on the held-out split",
                stacklevel=2,
            )
    if batch_size is not None and batch_size < 1:
        raise InputError(f"batch_size must be at least 1 sequence, got {batch_size}")
    if batch_size is None:
        logits = tokens.ids.shape[1] * model.cfg.d_vocab
        batch_size = max(1, _LOGITS_PER_BATCH // logits)
    run = _Run(dict(dictionaries), model, tokens, exclude_special, batch_size, seed)
    with torch.no_grad():
        run.measure(show=progress)
    provenance = origin.on(tokens, exclude_special=exclude_special)
    described = tokens.describe() | {"exclude_special": exclude_special, "resample_seed": seed}
    return Records(provenance, described, run.records())


@dataclass(frozen=True)
class _Batch:
    """Some sequences, after the clean pass: which positions count, and what the model said."""

    ids: Int[Tensor, "b pos"]
    counted: Bool[Tensor, "b pos"]
    sequences: Int[Tensor, " b"]
    at: dict[str, Float[Tensor, "b pos _"]]
    clean: Float[Tensor, "m vocab"]
    """Logits at the positions whose next token is counted."""

    @cached_property
    def predicted(self) -> Bool[Tensor, "b pos_minus_1"]:
        """Positions whose next token is counted."""
        return self.counted[:, 1:]

    @cached_property
    def targets(self) -> Int[Tensor, " m"]:
        """The next tokens that are counted."""
        return self.ids[:, 1:][self.predicted]

    @cached_property
    def row_sequences(self) -> Int[Tensor, " n"]:
        """The sequence of each counted row."""
        return self.sequences[self.counted.nonzero()[:, 0]]

    @cached_property
    def prediction_sequences(self) -> Int[Tensor, " m"]:
        """The sequence of each counted prediction."""
        return self.sequences[self.predicted.nonzero()[:, 0]]

    def rows(self, hook: str) -> Float[Tensor, "n _"]:
        """The activations at counted positions."""
        return self.at[hook][self.counted]


class _Run:
    """One evaluation under way."""

    def __init__(
        self,
        dictionaries: dict[str, FeatureDictionary],
        model: LanguageModel,
        tokens: Tokens,
        exclude_special: bool,
        batch_size: int,
        seed: int,
    ) -> None:
        self._dictionaries = dictionaries
        self._model = model
        self._ids = tokens.ids
        self._counted = tokens.counted(exclude_special=exclude_special)
        self._batch_size = batch_size
        self._donors = donors(len(tokens), seed)
        n = len(tokens)
        self._sums = {k: SequenceSums(n, d.n_features) for k, d in dictionaries.items()}
        sites = [d.sites for d in dictionaries.values()]
        self._targets = list(dict.fromkeys(s.target.hook for s in sites))
        self._hooks = list(dict.fromkeys(hook for s in sites for hook in s.hooks))

    def measure(self, *, show: bool) -> None:
        """Fill the sums: a pass for the means, then the clean and the spliced passes."""
        n_batches = -(-len(self._ids) // self._batch_size)
        with progress_bar("evaluating", 2 * n_batches, show=show) as done:
            mean = RunningMean()
            for i, part in enumerate(self._parts()):
                at = activations_at(self._model, self._ids[part], self._targets)
                counted = self._counted[part]
                rows = {hook: y[counted.to(y.device)] for hook, y in at.items()}
                for hook, y in rows.items():
                    require_finite(y, f"activations at {hook!r}, sequences from {part.start}")
                mean.add_(rows)
                done(i + 1)
            references = mean.references()
            for i, part in enumerate(self._parts()):
                self._measure_batch(self._clean(part), references)
                done(n_batches + i + 1)

    def records(self) -> dict[str, DictionaryRecord]:
        """The record of every dictionary."""
        return {
            name: DictionaryRecord(
                kind=_kind(dictionary),
                sites=dictionary.sites,
                n_features=dictionary.n_features,
                provenance=dictionary.provenance,
                metrics=self._sums[name].metrics(),
                sums=self._sums[name].sums,
                density=self._sums[name].density(),
            )
            for name, dictionary in self._dictionaries.items()
        }

    def _parts(self) -> Iterator[slice]:
        size = self._batch_size
        return (slice(i, min(i + size, len(self._ids))) for i in range(0, len(self._ids), size))

    def _clean(self, part: slice) -> _Batch:
        logits, at = logits_and_activations(self._model, self._ids[part], self._hooks)
        device = logits.device
        counted = self._counted[part].to(device)
        sequences = torch.arange(part.start, part.stop, device=device)
        clean = logits[:, :-1][counted[:, 1:]]
        return _Batch(self._ids[part].to(device), counted, sequences, at, clean)

    def _measure_batch(self, batch: _Batch, references: Mapping[str, Reference]) -> None:
        given = self._ids[self._donors[batch.sequences.cpu()]]
        others = activations_at(self._model, given, self._targets)
        shared = {
            hook: self._ablated(batch, hook, references[hook], others[hook][batch.counted])
            for hook in self._targets
        }
        clean = per_row.cross_entropy(batch.clean, batch.targets)
        for name, dictionary in self._dictionaries.items():
            sums, hook = self._sums[name], dictionary.sites.target.hook
            self._add_reconstruction(sums, dictionary, batch, references[hook], name)
            predicted = batch.prediction_sequences
            sums.add_("predictions", predicted, torch.ones_like(clean))
            sums.add_("cross_entropy_clean", predicted, clean)
            for key, values in shared[hook].items():
                sums.add_(key, predicted, values)

    def _ablated(
        self, batch: _Batch, hook: str, reference: Reference, others: Float[Tensor, "n _"]
    ) -> dict[str, Float[Tensor, " m"]]:
        """Per-prediction losses with the target at `hook` ablated in each way."""
        found = {}
        for name, rows in reference.ablations(batch.rows(hook), others):
            logits = self._spliced(batch, hook, rows)
            found[f"cross_entropy_{name}"] = per_row.cross_entropy(logits, batch.targets)
            if name == "zero":
                found["kl_zero"] = per_row.kl_divergence(batch.clean, logits)
        return found

    def _add_reconstruction(
        self,
        sums: SequenceSums,
        dictionary: FeatureDictionary,
        batch: _Batch,
        reference: Reference,
        name: str,
    ) -> None:
        sites, sequences = dictionary.sites, batch.row_sequences
        y = batch.rows(sites.target.hook)
        x = batch.rows(sites.source.hook).to(dictionary.x_mean.device)
        acts = dictionary.encode_sparse(x)
        y_hat = dictionary.estimate(x, acts).to(y)
        require_finite(y_hat, f"the estimate of dictionary {name!r}")
        sums.add_firings_(acts.firing_counts())
        for key, values in {
            "rows": torch.ones(len(y)),
            "l0": per_row.l0(acts),
            "l1": per_row.l1(acts),
            "squared_error": per_row.squared_error(y, y_hat),
            "variance": per_row.squared_norm(y.double() - reference.mean.to(y.device)),
            "cosine": per_row.cosine_similarity(y, y_hat),
            "norm": per_row.squared_norm(y).sqrt(),
            "norm_hat": per_row.squared_norm(y_hat).sqrt(),
        }.items():
            sums.add_(key, sequences, values)
        logits = self._spliced(batch, sites.target.hook, y_hat)
        for key, values in {
            "cross_entropy_spliced": per_row.cross_entropy(logits, batch.targets),
            "kl": per_row.kl_divergence(batch.clean, logits),
            "top1_agreement": per_row.top1_agreement(batch.clean, logits),
        }.items():
            sums.add_(key, batch.prediction_sequences, values)

    def _spliced(
        self, batch: _Batch, hook: str, rows: Float[Tensor, "n _"]
    ) -> Float[Tensor, "m vocab"]:
        """Logits at counted predictions with `rows` at the counted positions of `hook`."""
        replacement = batch.at[hook].clone()
        replacement[batch.counted] = rows
        logits = spliced_logits(self._model, batch.ids, hook, replacement, batch.counted)
        return logits[:, :-1][batch.predicted]


def _kind(dictionary: FeatureDictionary) -> str:
    return dictionary.config.kind if dictionary.config else type(dictionary).__name__


def _require_fitting(dictionaries: Mapping[str, FeatureDictionary], model: LanguageModel) -> None:
    if not isinstance(dictionaries, Mapping) or not dictionaries:
        raise InputError(
            "evaluate needs a dict of dictionaries by name, with at least one; got "
            f"{type(dictionaries).__name__ if dictionaries else 'none'}"
        )
    for name, dictionary in dictionaries.items():
        if not isinstance(dictionary, FeatureDictionary):
            raise InputError(
                f"{name!r}: required a FeatureDictionary, got {type(dictionary).__name__}"
            )
    require_sites(model, {f"dictionary {name!r}": d.sites for name, d in dictionaries.items()})
