"""The features of a pass, as data, and their use in another pass."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError
from dictlearn.core.numbers import counts
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.interventions.edit import Edit, EditedRows, Features


@dataclass(frozen=True)
class PassFeatures:
    """The coefficients of a dictionary in one pass, edits included."""

    acts: SparseActs
    """A row for each token, one sequence after the other."""
    positions: Int[Tensor, "b pos"]
    """Counted from the first token of each sequence; negative for padding before it."""

    def dense(self) -> Float[Tensor, "b pos feature"]:
        """The coefficients as one dense tensor."""
        return self.acts.to_dense().unflatten(0, self.positions.shape)

    def padding_first(self) -> "PassFeatures":
        """The same with all padding at the beginning of its row, as in padded ids."""
        order = (self.positions >= 0).long().argsort(dim=1, stable=True)
        b, n = order.shape
        rows = order + n * torch.arange(b, device=order.device).unsqueeze(1)
        return PassFeatures(self.acts.select(rows.flatten()), self.positions.gather(1, order))

    def sequences(self, wanted: Features) -> "PassFeatures":
        """Those of some sequences, given by number, in this order; one may be taken several times.

        Raises:
            InputError: there is none of such a number.
        """
        (b, n), chosen = self.positions.shape, counts(wanted)
        if chosen is None or max(chosen, default=0) >= b:
            raise InputError(
                f"required numbers of sequences from 0 to {b - 1}, such as [0, 0], got "
                f"{wanted!r:.80}"
            )
        device = self.positions.device
        taken = torch.tensor(chosen, dtype=torch.long, device=device)
        rows = taken.unsqueeze(1) * n + torch.arange(n, device=device)
        return PassFeatures(self.acts.select(rows.flatten()), self.positions[taken])


@dataclass(frozen=True, eq=False)
class Substitute(Edit):
    """The coefficients are those of another pass, at the same position of the same sequence.

    A pass over one sequence gives its coefficients to all. Positions that it does not have keep
    their own.
    """

    verb = "substitute"
    source: PassFeatures
    """The features of the other pass, such as `running["name"]`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.source, PassFeatures):
            raise InputError(
                "required the features of another pass, running['name'] after it, to substitute, "
                f"got {type(self.source).__name__}"
            )

    @property
    def subject(self) -> str:
        """The size of the other pass."""
        return "({} x {} tokens)".format(*self.source.positions.shape)

    def require_fits(self, dictionary: FeatureDictionary) -> None:
        """Raise an `InputError` unless the features are of a dictionary of this size."""
        if self.source.acts.n_features != dictionary.n_features:
            raise InputError(
                f"{self}: required the coefficients of {dictionary.n_features} features, got "
                f"{self.source.acts.n_features}"
            )

    def edited(self, acts: SparseActs, rows: EditedRows) -> SparseActs:
        """The coefficients of the other pass, where it has the position.

        Raises:
            InputError: the other pass has some sequences, but not all of these.
        """
        given, b = self.source.positions, len(self.source.positions)
        needed = int(rows.sequences.max()) + 1 if len(rows.sequences) else 0
        if b > 1 and needed > b:
            raise InputError(f"{self}: required a pass over 1 or {needed} sequences, got {b}")
        sequences = rows.sequences if b > 1 else torch.zeros_like(rows.sequences)
        same = given.to(rows.positions)[sequences] == rows.positions.unsqueeze(1)
        own = torch.arange(len(acts), device=same.device)
        theirs = len(acts) + sequences * given.shape[1] + same.long().argmax(dim=1)
        both = SparseActs.concatenated([acts, self.source.acts], acts.n_features)
        return both.select(torch.where(same.any(dim=1), theirs, own))
