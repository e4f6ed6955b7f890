"""Rules by which each coefficient follows from its own score, in a matrix as in a list of entries.

Stated once for both, such a rule has a sparse path: entries whose score is too small to matter are
neither kept nor differentiated.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, TypeAlias

from jaxtyping import Float, Int
from torch import Tensor

from dictlearn.core.learning import Encoding
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.dictionaries.linear import LinearDictionary, Rule
from dictlearn.kernels.search import above, positive_if_sparse

Features: TypeAlias = Int[Tensor, " nnz"] | slice
"""The feature of each score in a list; `EVERY` for a matrix, whose last axis they are."""
EVERY = slice(None)


class ElementwiseRule(Rule, ABC):
    """A rule by which a coefficient depends on its own score, and is 0 up to a bound."""

    sparse_below: ClassVar[float] = 0.15
    """Fraction of scores above their bound below which a training step is sparse.

    Up to there sparse steps of every kind take less time than dense ones (`benchmarks/step.py`).
    """

    @abstractmethod
    def entries(
        self, dictionary: LinearDictionary, scores: Float[Tensor, "*n"], features: Features
    ) -> Float[Tensor, "*n"]:
        """The coefficients of `scores`, whose parameters are those at `[features]`."""

    def train_entries(
        self, dictionary: LinearDictionary, scores: Float[Tensor, "*n"], features: Features
    ) -> Float[Tensor, "*n"]:
        """The same coefficients; override it where training has gradients of its own."""
        return self.entries(dictionary, scores, features)

    def bounds(self, dictionary: LinearDictionary) -> Float[Tensor, " feature"] | None:
        """The scores up to which coefficients are 0; None where all of them are 0."""
        return None

    def train_bounds(self, dictionary: LinearDictionary) -> Float[Tensor, " feature"] | None:
        """The scores up to which no gradient depends on a score; `bounds` by default."""
        return self.bounds(dictionary)

    def coefficients(
        self, dictionary: LinearDictionary, scores: Float[Tensor, "n feature"]
    ) -> Float[Tensor, "n feature"]:
        """The coefficients of all scores."""
        return self.entries(dictionary, scores, EVERY)

    def encode_sparse(self, dictionary: LinearDictionary, z: Float[Tensor, "n d_in"]) -> SparseActs:
        """The coefficients that are not 0, without a dense matrix."""
        bounds = self.bounds(dictionary)
        found = above(z, dictionary.W_enc, _shifted(dictionary, bounds))
        scores = dictionary.differentiable(z, _shifted_back(found, bounds))
        acts = scores.with_values(self.entries(dictionary, scores.values, scores.indices))
        return acts.where(acts.values != 0)

    def train_encode(self, dictionary: LinearDictionary, z: Float[Tensor, "n d_in"]) -> Encoding:
        """The coefficients, sparse if few scores are above their bound."""
        bounds = self.train_bounds(dictionary)
        found = positive_if_sparse(
            z, dictionary.W_enc, _shifted(dictionary, bounds), self.sparse_below
        )
        if found is None:
            return self.train_densely(dictionary, z)
        scores = dictionary.differentiable(z, _shifted_back(found, bounds))
        values = self.train_entries(dictionary, scores.values, scores.indices)
        return Encoding(scores.with_values(values), scores)

    def train_densely(self, dictionary: LinearDictionary, z: Float[Tensor, "n d_in"]) -> Encoding:
        """The coefficients of all scores, as in training."""
        scores = dictionary.all_scores(z)
        return Encoding(self.train_entries(dictionary, scores, EVERY), scores)


def _shifted(
    dictionary: LinearDictionary, bounds: Float[Tensor, " feature"] | None
) -> Float[Tensor, " feature"]:
    """The offset that makes positive what is above its bound."""
    return dictionary.offset() if bounds is None else dictionary.offset() - bounds


def _shifted_back(found: SparseActs, bounds: Float[Tensor, " feature"] | None) -> SparseActs:
    """The scores, given by how much they are above their bound."""
    if bounds is None:
        return found
    return found.with_values(found.values + bounds.detach()[found.indices])
