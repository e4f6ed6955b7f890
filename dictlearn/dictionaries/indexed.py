"""Codebooks that find their codes in a FAISS index (Douze et al. 2024, "The Faiss library").

The index compares inputs with codes by the similarity of the codebook: by inner product with the
codes as they are, by inner product with normalized codes for the cosine, by Euclidean distance.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from math import isqrt
from types import ModuleType
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dictlearn.core.config import Config
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError
from dictlearn.dictionaries.codebook import (
    Affine,
    Quantizer,
    cosine,
    euclidean,
    inner_product,
)
from dictlearn.kernels.search import exact_top_k

D = TypeVar("D", bound=FeatureDictionary)

_METRICS: dict[Callable, str] = {
    cosine: "METRIC_INNER_PRODUCT",
    inner_product: "METRIC_INNER_PRODUCT",
    euclidean: "METRIC_L2",
}
"""The metric of FAISS that ranks codes as a similarity does."""


def faiss() -> ModuleType:
    """The library.

    Raises:
        InputError: it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise InputError(
            "an index of codes needs the library FAISS, which is not installed: "
            "pip install dictlearn[faiss]"
        ) from error
    return faiss


@dataclass(frozen=True, kw_only=True)
class CodeIndex(Config):
    """A kind of index, and its parameters."""

    @abstractmethod
    def empty(self, n_codes: int, d: int, metric: int) -> Any:
        """The FAISS index, for `n_codes` codes of width `d`, before it is trained."""


@dataclass(frozen=True, kw_only=True)
class FlatIndex(CodeIndex):
    """All codes are compared, in float32: exact, except between codes that are equally near."""

    def empty(self, n_codes: int, d: int, metric: int) -> Any:
        return faiss().IndexFlat(d, metric)


@dataclass(frozen=True, kw_only=True)
class IVFIndex(CodeIndex):
    """Codes are divided into cells by k-means; those in the cells nearest to an input are compared.

    Sivic and Zisserman 2003, "Video Google", section 4 (inverted files).
    """

    n_cells: int | None = None
    """Number of cells; by default the square root of the number of codes."""
    n_probes: int = 8
    """Number of cells searched for each input. With all of them the search is exact."""

    def __post_init__(self) -> None:
        self._require_count("n_cells", "n_probes")

    def empty(self, n_codes: int, d: int, metric: int) -> Any:
        n_cells = min(self.n_cells or isqrt(n_codes), n_codes)
        centroids = faiss().IndexFlat(d, metric)
        index = faiss().IndexIVFFlat(centroids, d, n_cells, metric)
        index.nprobe = min(self.n_probes, n_cells)
        index.cp.min_points_per_centroid = 1  # fewer than 39 codes a cell are meant
        return index


@dataclass(frozen=True)
class CodeSearch:
    """A search for the nearest codes, in one index for every group or stage.

    The index is found by comparison with the codes that it was built from, at every call, so
    codes that have changed are never searched.
    """

    similarity: Callable[[Tensor], Affine]
    parts: tuple[tuple[Float[Tensor, "code d"], Any], ...]
    """The codes of each group or stage in float32, and the index of them."""

    @torch.no_grad()
    def __call__(
        self, z: Float[Tensor, "n d"], codes: Float[Tensor, "code d"], k: int
    ) -> Int[Tensor, "n k"]:
        """The `k` codes that the index finds; for inputs for which it finds fewer, the nearest."""
        index = self._index_of(codes)
        with _threads_of_torch():
            found = torch.from_numpy(index.search(z.detach().float().numpy(), k)[1])
        missed = (found < 0).any(dim=1)
        if missed.any():
            found[missed] = exact_top_k(z[missed], *self.similarity(codes), k).features
        return found

    def _index_of(self, codes: Float[Tensor, "code d"]) -> Any:
        if codes.device.type == "cpu":
            for known, index in self.parts:
                if torch.equal(known, codes.float()):
                    return index
        raise InputError(
            "an indexed codebook needs the codes that its index was built from, on the CPU, but "
            "they have changed or moved: make a new one with indexed(codebook)"
        )


def indexed(codebook: D, index: CodeIndex | None = None) -> D:
    """A copy of `codebook` that finds its codes in an index, by default an `IVFIndex`.

    Everything else is as in the codebook, which may be trained further. The codes of the copy must
    not change: the next input would raise an `InputError`. It is saved without the index. FAISS
    computes on the CPU in float32, with as many threads as torch.

    Where the index misses a code, one with a lower score is active in its place: every group has k
    codes all the same. `search_recall` measures how rarely.

    Raises:
        InputError: it is no codebook, it is not on the CPU, or FAISS is not installed.
    """
    if not isinstance(codebook, Quantizer):
        raise InputError(
            "indexed() needs a codebook or residual codebook, got a dictionary of kind "
            f"{codebook.kind!r}"
        )
    if codebook.codes.device.type != "cpu":
        raise InputError(
            f"indexed() needs a codebook on the CPU, got one on {codebook.codes.device}: move it "
            'there with codebook.to("cpu")'
        )
    copied, kind = deepcopy(codebook), index or IVFIndex()
    copied.index = CodeSearch(
        codebook.similarity,
        tuple((codes, _built(kind, codes, codebook.similarity))
              for codes in codebook.codes.detach().float().clone()),
    )  # fmt: skip
    return copied


def _built(
    kind: CodeIndex, codes: Float[Tensor, "code d"], similarity: Callable[[Tensor], Affine]
) -> Any:
    """The index of the codes as the similarity reads them, normalized for the cosine."""
    vectors = similarity(codes)[0].T.contiguous().numpy()
    index = kind.empty(len(vectors), vectors.shape[1], getattr(faiss(), _METRICS[similarity]))
    with _threads_of_torch():
        index.train(vectors)
        index.add(vectors)
    return index


@contextmanager
def _threads_of_torch() -> Iterator[None]:
    """A context in which FAISS uses as many threads as torch; it may have an OpenMP of its own."""
    before = faiss().omp_get_max_threads()
    faiss().omp_set_num_threads(torch.get_num_threads())
    try:
        yield
    finally:
        faiss().omp_set_num_threads(before)
