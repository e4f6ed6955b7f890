"""What coefficients cost: the coarsest steps at which a dictionary is worth almost the same.

A step is tried by splicing in what the quantised dictionary writes (`core.quantized`). All
dictionaries are searched together, so that each pass over the tokens runs the clean model once.
"""

import math
from collections import Counter
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.metric import Metric
from dictlearn.core.quantized import Quantized
from dictlearn.evaluation.faithfulness.clean_passes import CleanBatch, CleanPasses
from dictlearn.metrics.bits import coefficient_bits
from dictlearn.metrics.predictions import compared
from dictlearn.metrics.recovered import recovered
from dictlearn.progress import progress as progress_bar
from dictlearn.records.results import DictionaryRecord

LADDER = tuple(2.0**i for i in range(1, -6, -1))
"""Steps in units of the root mean square contribution of an active coefficient, coarsest first."""
KEPT = 0.99
"""Part of the loss recovered (zero ablation) that a step must keep."""
N_PASSES = 1 + math.ceil(math.log2(len(LADDER) + 1))

_TOO_COARSE = f"even steps of 2^-5 of the mean contribution keep less than {KEPT:.0%} of the loss"
_NOTHING_TO_KEEP = "loss recovered is not above 0, so no precision of coefficients keeps it"


@torch.no_grad()
def coefficient_costs(
    dictionaries: Mapping[str, FeatureDictionary],
    records: Mapping[str, DictionaryRecord],
    passes: CleanPasses,
    *,
    show: bool,
) -> dict[str, Metric]:
    """What the coefficients of every dictionary that is not binary cost, in bits per token.

    The step is the coarsest of `LADDER` that keeps `KEPT` of the loss recovered in `records`,
    found by bisection in three passes: it keeps enough, and the next coarser one does not. Where
    a coarser one yet does again, by luck, it is not looked for. `nan` with the reason where even
    the finest step keeps less, or where nothing is recovered.
    """
    prices = {
        name: _known(records[name]) for name, d in dictionaries.items() if not d.traits.binary
    }
    found = {name: price for name, price in prices.items() if price is not None}
    searches = {
        name: _Search(dictionaries[name], records[name]) for name in prices if name not in found
    }
    n = passes.n_batches
    with progress_bar("pricing coefficients", N_PASSES * n, show=show) as done:
        for i in range(N_PASSES):
            under_way = {name: s for name, s in searches.items() if s.start_pass_()}
            if not under_way:
                break
            with passes.batches() as batches:
                for j, batch in enumerate(batches):
                    _add(batch, under_way, passes)
                    done(i * n + j + 1)
            for search in under_way.values():
                search.end_pass_()
    return found | {name: search.price for name, search in searches.items()}


def _known(record: DictionaryRecord) -> Metric | None:
    """The price where it follows without a search."""
    part = record.metrics["loss_recovered_zero"]
    if record.sums["l0"].sum() == 0:
        return Metric(0.0)
    if not math.isfinite(part.value):
        return Metric(math.nan, part.reason)
    return None if part.value > 0 else Metric(math.nan, _NOTHING_TO_KEEP)


class _Search:
    """The search for one dictionary's step: first its contributions, then a rung a pass."""

    def __init__(self, dictionary: FeatureDictionary, record: DictionaryRecord) -> None:
        self._base = dictionary
        self._sums = {name: sums.sum().item() for name, sums in record.sums.items()}
        self._l0 = record.metrics["l0"].value
        self._needed = KEPT * record.metrics["loss_recovered_zero"].value
        self._low, self._high = 0, len(LADDER)  # the first rung that is fine enough lies between
        self.price = Metric(math.nan, _TOO_COARSE)
        self._mean_square: float | None = None
        self._norms = torch.linalg.vector_norm(dictionary.atoms, dim=1)
        self._squares = 0.0
        self._quantized: Quantized | None = None

    def start_pass_(self) -> bool:
        """Whether there is anything left to try."""
        self._levels: Counter[int] = Counter()
        self._cross_entropy = 0.0
        if self._mean_square == 0:
            self.price = Metric(0.0)  # no atom: every level is the same
            return False
        if self._mean_square is not None and self._low < self._high:
            step = LADDER[(self._low + self._high) // 2] * math.sqrt(self._mean_square)
            self._quantized = Quantized(self._base, step)
        return self._low < self._high

    def spliced(self, batch: CleanBatch) -> Float[Tensor, "m d_row"] | None:
        """What the model makes of the quantised estimate; None while no step is known."""
        x = batch.source_rows(self._base)
        if self._quantized is None:
            acts = batch.encode(self._base)
            contributions = acts.values.double() * self._norms[acts.indices].double()
            self._squares += contributions.square().sum().item()
            return None
        acts = self._quantized.encode_sparse(x)
        levels, counts = self._quantized.levels(acts).unique(return_counts=True)
        for level, count in zip(levels.tolist(), counts.tolist(), strict=True):
            self._levels[level] += count
        return batch.spliced(self._base.sites.target, self._quantized.estimate(x, acts))

    def add_(self, cross_entropy: Float[Tensor, " m"]) -> None:
        """Add the loss of the spliced predictions."""
        self._cross_entropy += cross_entropy.double().sum().item()

    def end_pass_(self) -> None:
        """Draw the conclusion from a pass."""
        if self._mean_square is None:
            self._mean_square = self._squares / self._sums["l0"]
            return
        clean, zero = (self._sums[f"cross_entropy_{name}"] for name in ("clean", "zero"))
        middle = (self._low + self._high) // 2
        if recovered(zero, self._cross_entropy, clean) >= self._needed:
            self._high = middle
            counts = torch.tensor(list(self._levels.values()))
            self.price = Metric(coefficient_bits(self._l0, counts))
        else:
            self._low = middle + 1


def _add(batch: CleanBatch, searches: Mapping[str, _Search], passes: CleanPasses) -> None:
    spliced = {name: search.spliced(batch) for name, search in searches.items()}
    rows = {name: row for name, row in spliced.items() if row is not None}
    if not rows:
        return
    n_vocab = passes.model.cfg.d_vocab
    _, found = compared(passes.splicer.logits, n_vocab, batch.clean.rows, rows, batch.targets)
    for name, agreement in found.items():
        searches[name].add_(agreement.cross_entropy)
