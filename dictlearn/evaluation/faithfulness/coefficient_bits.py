"""The cost of coefficients in bits, at the coarsest quantization that keeps loss recovered.

A quantization step is tried by splicing in the estimate of the quantized dictionary
(`core.quantized`). The steps of all dictionaries are searched together, so that each pass over
the tokens runs the clean model once. Everything that a decoder of the messages would get is
measured in the very pass that tries a step, so none is needed afterwards.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.massive import massive_rows
from dictlearn.core.metric import Metric
from dictlearn.core.quantized import Quantized
from dictlearn.core.sites import Site
from dictlearn.evaluation.faithfulness.clean_passes import CleanBatch, CleanPasses
from dictlearn.evaluation.faithfulness.estimate_sums import EstimateSums, named_targets
from dictlearn.evaluation.faithfulness.messages import (
    Message,
    QuantizedSums,
    SupportLengths,
    Usage,
)
from dictlearn.metrics.bits import QUANTIZED, SupportCode
from dictlearn.metrics.predictions import compared
from dictlearn.progress import progress as progress_bar
from dictlearn.records.results import DictionaryRecord

PER_OCTAVE = 4
LADDER = tuple(2.0 ** (1 - i / PER_OCTAVE) for i in range(6 * PER_OCTAVE + 1))
"""Steps in units of the root mean square contribution of an active coefficient, coarsest first."""
KEPT = 0.99
"""Fraction of the loss recovered (zero ablation) that a step must keep."""
N_PASSES = 6
"""Most passes of a search: one more than plain bisection takes, so that guesses may be followed."""

_LIMIT = 8
"""Most that a loss is believed to exceed, or to fall short of, what is allowed."""
_TOO_COARSE = f"even steps of 2^-5 of the mean contribution keep less than {KEPT:.0%} of the loss"
_NOTHING_TO_KEEP = "loss recovered is not above 0, so no precision of coefficients keeps it"


@torch.no_grad()
def coefficient_messages(
    dictionaries: Mapping[str, FeatureDictionary],
    records: Mapping[str, DictionaryRecord],
    usage: Mapping[str, Usage],
    passes: CleanPasses,
    *,
    show: bool,
) -> dict[str, Message]:
    """The message of every row of results in `records`.

    The step is the coarsest of `LADDER` that keeps `KEPT` of the loss recovered in `records`: it
    keeps enough, and the next coarser one does not. The search assumes that coarser steps keep
    less. The cost is `nan` with the reason where even the finest step keeps too little, or where
    no loss is recovered. Single targets of several are quantized with the step of all together,
    in a pass of their own.
    """
    codes = {row: used.code for row, used in usage.items()}
    costs = {name: _known(d, records[name], usage[name]) for name, d in dictionaries.items()}
    known = {name: cost for name, cost in costs.items() if cost is not None}
    unquantized = _Unquantized({name: dictionaries[name] for name in known}, codes, passes)
    searches = [
        _Search(name, dictionaries[name], records[name], usage[name], codes, passes)
        for name, cost in costs.items()
        if cost is None
    ]
    n = passes.n_batches
    with progress_bar("quantizing coefficients", N_PASSES * n, show=show) as done:
        for i in range(N_PASSES):
            under_way = [search for search in searches if not search.ended]
            tried = [search.start_pass_(N_PASSES - 1 - i) for search in under_way]
            encoded = [unquantized] if i == 0 and known else []
            for j in _pass(passes, tried, encoded):
                done(i * n + j)
            for search in under_way:
                search.end_pass_()
    apart = [sums for search in searches for sums in search.at_single_targets()]
    for _ in _pass(passes, apart, []):
        pass
    found = unquantized.messages(known, records)
    for search in searches:
        found |= search.messages()
    for sums in apart:
        found |= sums.messages()
    return found


def _known(dictionary: FeatureDictionary, record: DictionaryRecord, used: Usage) -> Metric | None:
    """The cost where it follows without a search."""
    part = record.metrics["loss_recovered_zero"]
    if dictionary.traits.binary or used.mean_square == 0:
        return Metric(0.0)  # no value, no feature or no atom: nothing is rounded
    if not math.isfinite(part.value):
        return Metric(math.nan, part.reason)
    return None if part.value > 0 else Metric(math.nan, _NOTHING_TO_KEEP)


class _Unquantized:
    """The supports of dictionaries whose coefficients are not quantized, at each target."""

    def __init__(
        self,
        dictionaries: Mapping[str, FeatureDictionary],
        codes: Mapping[str, SupportCode],
        passes: CleanPasses,
    ) -> None:
        self._estimates = {
            name: EstimateSums(name, d, named_targets(name, d.sites.target), passes)
            for name, d in dictionaries.items()
        }
        rows = [row for e in self._estimates.values() for row in e.targets]
        self._supports = SupportLengths({row: codes[row] for row in rows}, len(passes.ids))

    def add_(self, batch: CleanBatch) -> None:
        """Add a batch."""
        for estimates in self._estimates.values():
            self._supports.add_(batch, estimates.acts_of(batch.encode(estimates.dictionary)))

    def messages(
        self, costs: Mapping[str, Metric], records: Mapping[str, DictionaryRecord]
    ) -> dict[str, Message]:
        """The message of every row of results, given the cost of each dictionary."""
        found = {}
        for name, estimates in self._estimates.items():
            for row in estimates.targets:
                sums = {"support_bits": self._supports.bits[row]}
                if costs[name].value == 0:
                    sums["bits"] = sums["support_bits"]
                    sums |= {new: records[row].sums[old] for old, new in QUANTIZED.items()}
                found[row] = Message(costs[name], sums)
        return found


class _Search:
    """The search for the step of one dictionary, one step a pass.

    The logarithm of the loss that a step costs is taken to be linear in that of the step, between
    steps tried or with the square of the step, which says where the step should lie that costs
    what is allowed. A guess is followed as far as bisection can still end in time. The coarsest
    step comes first: features that write too little, such as random ones, may gain by it.
    """

    def __init__(
        self,
        name: str,
        dictionary: FeatureDictionary,
        record: DictionaryRecord,
        used: Usage,
        codes: Mapping[str, SupportCode],
        passes: CleanPasses,
    ) -> None:
        self._name, self._dictionary = name, dictionary
        self._codes, self._passes = codes, passes
        self._unit = math.sqrt(used.mean_square)
        self._sums = {key: sums.sum().item() for key, sums in record.sums.items()}
        self._recovered = record.metrics["loss_recovered_zero"].value
        self._low, self._high = 0, len(LADDER)  # the first step that is fine enough lies between
        self._rung = self._guess = 0
        self._excess: dict[int, float] = {}
        self._tried: QuantizedSums
        self._found: QuantizedSums | None = None  # at the coarsest step so far that keeps enough

    @property
    def ended(self) -> bool:
        """Whether the step is known, or that there is none."""
        return self._low == self._high

    def start_pass_(self, n_later: int) -> QuantizedSums:
        """The sums to fill in the next pass, after which at most `n_later` follow."""
        room = 2**n_later  # outcomes that bisection can still tell apart
        first = max(self._low, self._high - room)
        self._rung = min(max(self._guess, first), self._high - 1, self._low + room - 1)
        quantized = Quantized(self._dictionary, LADDER[self._rung] * self._unit)
        self._tried = self._sums_of(quantized, {self._name: self._dictionary.sites.target})
        return self._tried

    def end_pass_(self) -> None:
        """Narrow the search by the losses of the pass."""
        loss = self._tried.estimates.sums[self._name]["cross_entropy_spliced"].sum().item()
        clean, zero = (self._sums[f"cross_entropy_{name}"] for name in ("clean", "zero"))
        recovered = (zero - loss) / (zero - clean)
        if recovered >= KEPT * self._recovered:
            self._high, self._found = self._rung, self._tried
        else:
            self._low = self._rung + 1
        lost = (1 - recovered / self._recovered) / (1 - KEPT)
        self._excess[self._rung] = math.log2(min(max(lost, 1 / _LIMIT), _LIMIT))
        self._guess = self._rung + math.ceil(self._excess[self._rung] / self._slope())

    def _slope(self) -> float:
        """The decrease of the excess per rung: between the bracketing steps, if both are known."""
        ends = [self._excess[i] for i in (self._low - 1, self._high) if i in self._excess]
        if len(ends) < 2 or ends[0] <= ends[1]:
            return 2 / PER_OCTAVE
        return (ends[0] - ends[1]) / (self._high - self._low + 1)

    def at_single_targets(self) -> list[QuantizedSums]:
        """The sums to fill at each of several targets, if there are several, and a step."""
        targets = named_targets(self._name, self._dictionary.sites.target)
        del targets[self._name]
        if self._found is None or not targets:
            return []
        return [self._sums_of(self._found.quantized, targets)]

    def _sums_of(self, quantized: Quantized, targets: Mapping[str, Site]) -> QuantizedSums:
        return QuantizedSums(self._name, quantized, targets, self._codes, self._passes)

    def messages(self) -> dict[str, Message]:
        """The message of all targets; of each, too, where no step was found."""
        if self._found is not None:
            return self._found.messages()
        rows = named_targets(self._name, self._dictionary.sites.target)
        return dict.fromkeys(rows, Message(Metric(math.nan, _TOO_COARSE), {}))


def _pass(
    passes: CleanPasses, tried: Sequence[QuantizedSums], encoded: Sequence[_Unquantized]
) -> Iterator[int]:
    """Fill the sums in one pass over all sequences, if there are any; yields the batches so far."""
    if not tried and not encoded:
        return
    with passes.batches() as batches:
        for i, batch in enumerate(batches):
            for unquantized in encoded:
                unquantized.add_(batch)
            if tried:
                _add(batch, tried, passes)
            yield i + 1


def _add(batch: CleanBatch, tried: Sequence[QuantizedSums], passes: CleanPasses) -> None:
    sites = {site for sums in tried for site in sums.estimates.targets.values()}
    typical = {
        site: ~massive_rows(batch.rows_at(site), batch.row_sequences, site) for site in sites
    }
    spliced = [sums.add_(batch, typical) for sums in tried]
    rows = {row: inputs for of_one in spliced for row, inputs in of_one.items()}
    n_vocab = passes.model.cfg.d_vocab
    _, found = compared(passes.splicer.logits, n_vocab, batch.clean.rows, rows, batch.targets)
    for sums, of_one in zip(tried, spliced, strict=True):
        for row in of_one:
            sums.estimates.add_predictions_(batch, row, found[row])
