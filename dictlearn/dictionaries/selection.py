"""Selection of coefficients from scores, and base classes of kinds that select."""

import logging
from abc import ABC, abstractmethod
from copy import copy

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import ConfigError
from dictlearn.core.shortcuts import shortcuts_allowed
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.distributed.process_group import SINGLE, ProcessGroup
from dictlearn.kernels import fastest
from dictlearn.kernels.search import Search, exact_top_k, int8_top_k

_logger = logging.getLogger(__name__)


def top_k(scores: Float[Tensor, "n feature"], k: int) -> Float[Tensor, "n feature"]:
    """The `k` largest positive scores of each row, zero elsewhere."""
    values, indices = scores.topk(k, dim=1, sorted=False)
    return torch.zeros_like(scores).scatter(1, indices, values.relu())


def largest_k(scores: Float[Tensor, "n feature"], k: int) -> Float[Tensor, "n feature"]:
    """The `k` scores of largest magnitude in each row, sign kept, zero elsewhere."""
    indices = scores.abs().topk(k, dim=1, sorted=False).indices
    return torch.zeros_like(scores).scatter(1, indices, scores.gather(1, indices))


class Searching(FeatureDictionary, ABC):
    """A kind that finds the features with the best scores by `search`."""

    search: Search = staticmethod(exact_top_k)
    """The search for the features with the largest scores."""

    @property
    def search_weights(self) -> int:
        """Weights of one search: inputs times the features that it chooses among."""
        return self.sites.source.d * self.n_features // self.traits.n_groups

    def search_exactly_(self) -> None:
        """Use the exact search, which is the default."""
        self.search = exact_top_k

    def search_inexactly_(self) -> None:
        """Use the faster int8 search, which finds nearly all of the best features."""
        self.search = int8_top_k

    @torch.no_grad()
    def search_recall(self, z: Float[Tensor, "n d_in"]) -> Float[Tensor, ""]:
        """Recall of `search` on `z`: the fraction found of the features of the exact search."""
        exact = copy(self)
        exact.search_exactly_()
        found, true = (d._encode_sparse(z).to_dense() != 0 for d in (self, exact))
        return (found & true).sum() / true.sum()

    def top_scores(
        self,
        z: Float[Tensor, "n d_in"],
        W: Float[Tensor, "d_in feature"],
        b: Float[Tensor, " feature"],
        k: int,
        group: ProcessGroup = SINGLE,
    ) -> SparseActs:
        """The `k` largest entries of each row of `z @ W + b`, those that are positive.

        With a `group` that shares the features, the part held here of the `k` largest of all.
        """
        scores, features = self.search(z, W, b, min(k, len(b)))
        scores = group.global_top_k(scores, k)
        return SparseActs.from_top(scores.relu(), features, len(b))


class Choosing(FeatureDictionary, ABC):
    """A kind whose coefficients are 1 at a fixed number of chosen features."""

    @abstractmethod
    def _chosen(self, z: Float[Tensor, "n d_in"]) -> Int[Tensor, "n chosen"]:
        """The features chosen for each row."""

    def _encode(self, z: Float[Tensor, "n d_in"]) -> Float[Tensor, "n feature"]:
        return z.new_zeros(z.shape[0], self.n_features).scatter(1, self._chosen(z), 1.0)

    def _encode_sparse(self, z: Float[Tensor, "n d_in"]) -> SparseActs:
        chosen = self._chosen(z)
        return SparseActs.from_top(z.new_ones(chosen.shape), chosen, self.n_features)


def search_with_int8_(dictionary: Searching, device: torch.device, n_rows: int) -> None:
    """Let a dictionary on `device` search with int8 products, unless its searches, of `n_rows`
    rows, are so small that an exact one takes less time. On a GPU the search is exact anyway.

    Raises:
        ConfigError: an exact search takes less time on this CPU for large ones, too.
    """
    if not shortcuts_allowed():
        return
    if device.type == "cpu":
        if dictionary.search_weights < fastest.INT8_WEIGHTS or n_rows < fastest.MIN_ROWS:
            _logger.warning(
                "int8_search is not used for %s: with fewer than %s weights in a search (width "
                "times features) or %s rows in a batch, an exact search takes less time",
                dictionary, f"{fastest.INT8_WEIGHTS:,}", f"{fastest.MIN_ROWS:,}",
            )  # fmt: skip
            return
        if not (found := fastest.timings()).int8_search_pays():
            raise ConfigError(
                "FitConfig.int8_search on a CPU needs one where it takes less time than an exact "
                f"search; here ({found.machine}) {found.of_int8_search()}. Leave it off "
                "(int8_search=False, --int8-search false): an exact search misses nothing"
            )
    dictionary.search_inexactly_()
