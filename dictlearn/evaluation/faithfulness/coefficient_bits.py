"""The cost of coefficients in bits, at the coarsest quantization that keeps loss recovered.

A quantization step is tried by splicing in the estimate of the quantized dictionary
(`core.quantized`). The steps of all dictionaries are searched together, so that each pass over
the tokens runs the clean model once.
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
from dictlearn.progress import progress as progress_bar
from dictlearn.records.results import DictionaryRecord

LADDER = tuple(2.0**i for i in range(1, -6, -1))
"""Steps in units of the root mean square contribution of an active coefficient, coarsest first."""
KEPT = 0.99
"""Fraction of the loss recovered (zero ablation) that a step must keep."""
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
    """The bits per token of the coefficients of every dictionary that is not binary.

    The step is the coarsest of `LADDER` that keeps `KEPT` of the loss recovered in `records`,
    found by bisection in three passes: it keeps enough, and the next coarser one does not. The
    bisection assumes that coarser steps keep less. `nan` with the reason where even the finest
    step keeps too little, or where no loss is recovered.
    """
    costs = {name: _known(records[name]) for name, d in dictionaries.items() if not d.traits.binary}
    found = {name: cost for name, cost in costs.items() if cost is not None}
    searches = {
        name: _Search(dictionaries[name], records[name], runs=passes.runs(dictionaries[name]))
        for name in costs
        if name not in found
    }
    n = passes.n_batches
    with progress_bar("quantizing coefficients", N_PASSES * n, show=show) as done:
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
    return found | {name: search.cost for name, search in searches.items()}


def _known(record: DictionaryRecord) -> Metric | None:
    """The cost where it follows without a search."""
    part = record.metrics["loss_recovered_zero"]
    if record.sums["l0"].sum() == 0:
        return Metric(0.0)
    if not math.isfinite(part.value):
        return Metric(math.nan, part.reason)
    return None if part.value > 0 else Metric(math.nan, _NOTHING_TO_KEEP)


class _Search:
    """The search for the step of one dictionary: contributions first, then one step a pass."""

    def __init__(
        self, dictionary: FeatureDictionary, record: DictionaryRecord, *, runs: bool
    ) -> None:
        self._base = dictionary
        self._runs = runs  # as it was spliced to measure what has to be kept
        self._sums = {name: sums.sum().item() for name, sums in record.sums.items()}
        self._l0 = record.metrics["l0"].value
        self._needed = KEPT * record.metrics["loss_recovered_zero"].value
        self._low, self._high = 0, len(LADDER)  # the first step that is fine enough lies between
        self.cost = Metric(math.nan, _TOO_COARSE)
        self._mean_square: float | None = None
        self._norms = torch.linalg.vector_norm(dictionary.atoms, dim=1)
        self._squares = 0.0
        self._quantized: Quantized | None = None

    def start_pass_(self) -> bool:
        """Start a pass; False if the search has ended."""
        self._levels: Counter[int] = Counter()
        self._cross_entropy = 0.0
        if self._mean_square == 0:
            self.cost = Metric(0.0)  # no atom: every level is the same
            return False
        if self._mean_square is not None and self._low < self._high:
            step = LADDER[(self._low + self._high) // 2] * math.sqrt(self._mean_square)
            self._quantized = Quantized(self._base, step)
        return self._low < self._high

    def spliced(self, batch: CleanBatch) -> Float[Tensor, "m d_row"] | None:
        """Unembedding inputs with the quantized estimate spliced in; None in the first pass."""
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
        if self._runs:
            return batch.running(self._quantized)
        return batch.spliced(self._base.sites.target, self._quantized.estimate(x, acts))

    def add_(self, cross_entropy: Float[Tensor, " m"]) -> None:
        """Add the losses of the spliced predictions."""
        self._cross_entropy += cross_entropy.double().sum().item()

    def end_pass_(self) -> None:
        """Narrow the search by the losses of a pass."""
        if self._mean_square is None:
            self._mean_square = self._squares / self._sums["l0"]
            return
        clean, zero = (self._sums[f"cross_entropy_{name}"] for name in ("clean", "zero"))
        middle = (self._low + self._high) // 2
        if (zero - self._cross_entropy) / (zero - clean) >= self._needed:
            self._high = middle
            counts = torch.tensor(list(self._levels.values()))
            self.cost = Metric(coefficient_bits(self._l0, counts))
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
