"""Directions that nobody learned, beside which the similarity of dictionaries is read.

Rows of data and Gaussian directions with the covariance of the data resemble learned atoms as well,
since all of them lie where the data vary most. The maximum over more of them is larger, so there
are as many as the dictionary has in which features are looked for.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations, product

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from dictlearn.core.dictionary import FeatureDictionary, Traits
from dictlearn.core.sites import Site, Sites
from dictlearn.evaluation.stream.activations import ActivationStream
from dictlearn.lm.hooks import LanguageModel
from dictlearn.records.agreement import GAUSSIAN, MEASURES, ROWS, PairAgreement

_ACTIVE = 32
"""Active features of a control in each row, if it has so many."""
_FEWEST_ROWS = 4096
_SEQUENCES_AT_ONCE = 16


class Directions(FeatureDictionary):
    """Coefficients on given unit directions, from the mean on; the largest in size are kept."""

    _bias: Tensor

    def __init__(
        self, sites: Sites, directions: Float[Tensor, "feature d"], mean: Float[Tensor, " d"]
    ) -> None:
        super().__init__(sites, len(directions))
        self.register_buffer("_atoms", normalize(directions, dim=1))
        self.register_buffer("_bias", mean)
        self.baseline = True
        self.traits = Traits(max_active=min(_ACTIVE, len(directions)))

    def _encode(self, z: Float[Tensor, "n d_in"]) -> Float[Tensor, "n feature"]:
        scores = (z - self._bias) @ self._atoms.T
        kept = scores.abs().topk(min(_ACTIVE, self.n_features), dim=1, sorted=False).indices
        return torch.zeros_like(scores).scatter(1, kept, scores.gather(1, kept))

    def _scores(
        self, z: Float[Tensor, "n d_in"], features: Int[Tensor, " m"]
    ) -> Float[Tensor, "n m"]:
        return (z - self._bias) @ self._atoms[features].T


@dataclass(frozen=True)
class Controls:
    """Rows of data and Gaussian directions at every target, of every width of a dictionary there.

    Those of a smaller width are the first of the widest. They give the level of chance for
    dictionaries of their width, and nothing else is compared with them.
    """

    widest: Mapping[str, FeatureDictionary]
    narrower: Mapping[str, FeatureDictionary]

    def pairs(self, names: Iterable[str]) -> list[tuple[str, str]]:
        """The pairs to compare: the dictionaries `names` and the widest controls; narrower ones."""
        names = list(names)
        return [*combinations([*names, *self.widest], 2), *product(names, self.narrower)]

    def beside(
        self, dictionaries: Mapping[str, FeatureDictionary], pairs: Iterable[PairAgreement]
    ) -> list[PairAgreement]:
        """The pairs without narrower controls; each of two `dictionaries` with its controls."""
        every = {(pair.first, pair.second): pair for pair in pairs}
        return [
            replace(pair, controls=self._levels(every, first, dictionaries[second]))
            if {first, second} <= dictionaries.keys()
            else pair
            for (first, second), pair in every.items()
            if not {first, second} & self.narrower.keys()
        ]

    def _levels(
        self, every: Mapping[tuple[str, str], PairAgreement], first: str, second: FeatureDictionary
    ) -> dict[str, dict[str, float]]:
        """The measures of `first` with the controls of the width and target of `second`."""
        return {
            control.kind: {
                m: v for m in MEASURES if math.isfinite(v := every[first, name].value(m))
            }
            for name, control in (*self.widest.items(), *self.narrower.items())
            if control.sites.target == second.sites.target
            and control.n_features == second.n_features
        }


def controls(
    dictionaries: Mapping[str, FeatureDictionary],
    model: LanguageModel,
    ids: Int[Tensor, "sequence pos"],
    counted: Bool[Tensor, "sequence pos"],
    seed: int = 0,
) -> Controls:
    """The controls of `dictionaries`.

    There are at most as many rows as evaluated tokens. With several targets, names end in theirs.
    """
    widths: dict[Site, set[int]] = {}
    for dictionary in dictionaries.values():
        widths.setdefault(dictionary.sites.target, set()).add(dictionary.n_features)
    generator = torch.Generator().manual_seed(seed)
    widest, narrower = dict[str, FeatureDictionary](), dict[str, FeatureDictionary]()
    for target, known in widths.items():
        most = max(known)
        rows = _rows(model, ids, counted, target, max(most, _FEWEST_ROWS), generator)
        mean = rows.mean(dim=0)
        mixing = torch.randn(most, len(rows), generator=generator) / len(rows) ** 0.5
        for kind, directions in ((ROWS, rows[:most] - mean), (GAUSSIAN, mixing @ (rows - mean))):
            name = kind if len(widths) == 1 else f"{kind} at {target}"
            for width in sorted({min(width, len(directions)) for width in known} - {0}):
                control = Directions(Sites(target, target), directions[:width], mean)
                control.kind = kind
                if width == len(directions):
                    widest[name] = control
                else:
                    narrower[f"{name}, {width:,} features"] = control
    taken = dictionaries.keys()
    return Controls(
        *({n: d for n, d in some.items() if n not in taken} for some in (widest, narrower))
    )


def _rows(
    model: LanguageModel,
    ids: Int[Tensor, "sequence pos"],
    counted: Bool[Tensor, "sequence pos"],
    target: Site,
    n: int,
    generator: torch.Generator,
) -> Float[Tensor, "n d"]:
    """At most `n` evaluated rows at `target`, in random order."""
    order = torch.randperm(int(counted.sum()), generator=generator)
    place = torch.full((len(order),), -1)
    place[order[:n]] = torch.arange(len(order[:n]))
    kept = torch.empty(len(order[:n]), target.d)
    start = 0
    with ActivationStream(model, ids, counted, target.hooks, _SEQUENCES_AT_ONCE).batches() as all_:
        for batch in all_:
            y = batch.rows_at(target)
            where = place[start : start + len(y)]
            kept[where[where >= 0]] = y[(where >= 0).to(y.device)].float().cpu()
            start += len(y)
    return kept
