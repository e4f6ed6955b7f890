"""Directions that nobody learned, beside which the similarity of dictionaries is read.

Rows of data and Gaussian directions with the covariance of the data resemble learned atoms as well,
since all of them lie where the data vary most.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from dictlearn.core.dictionary import FeatureDictionary, Traits
from dictlearn.core.sites import Site, Sites
from dictlearn.evaluation.stream.activations import ActivationStream
from dictlearn.lm.hooks import LanguageModel

ROWS, GAUSSIAN = "rows of data", "random directions"
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


def controls(
    dictionaries: Mapping[str, FeatureDictionary],
    model: LanguageModel,
    ids: Int[Tensor, "sequence pos"],
    counted: Bool[Tensor, "sequence pos"],
    seed: int = 0,
) -> dict[str, FeatureDictionary]:
    """Rows of data and Gaussian directions at every target, as many as the widest dictionary has.

    There are at most as many rows as evaluated tokens. With several targets, names end in theirs.
    """
    widths: dict[Site, int] = {}
    for dictionary in dictionaries.values():
        target = dictionary.sites.target
        widths[target] = max(widths.get(target, 0), dictionary.n_features)
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, FeatureDictionary] = {}
    for target, width in widths.items():
        rows = _rows(model, ids, counted, target, max(width, _FEWEST_ROWS), generator)
        mean = rows.mean(dim=0)
        mixing = torch.randn(width, len(rows), generator=generator) / len(rows) ** 0.5
        for name, directions in ((ROWS, rows[:width] - mean), (GAUSSIAN, mixing @ (rows - mean))):
            control = Directions(Sites(target, target), directions, mean)
            control.kind = name
            found[name if len(widths) == 1 else f"{name} at {target}"] = control
    return {name: d for name, d in found.items() if d.n_features and name not in dictionaries}


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
