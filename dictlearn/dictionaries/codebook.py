"""Codebook: the sum of k of C codes, in each of G groups of dimensions.

Tamkin, Taufeeque and Goodman 2024, "Codebook Features", section 2.
"""

from abc import ABC
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import layer_norm, normalize

from dictlearn.core.dictionary import Traits
from dictlearn.core.errors import ConfigError
from dictlearn.core.kinds import D, GradientConfig, Resampling
from dictlearn.core.learning import Encoding, FitPass, Objective, TrainableDictionary
from dictlearn.core.sites import Sites
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.dictionaries.objectives import squared_error
from dictlearn.dictionaries.selection import Choosing, Searching
from dictlearn.kernels.decode import decode

Affine: TypeAlias = tuple[Float[Tensor, "d code"], Float[Tensor, " code"]]
"""Weight and bias of the scores of an input, larger for more similar codes."""
Nearest: TypeAlias = Callable[[Tensor, Tensor, int], Tensor]
"""A function of inputs, codes and k: the indices of k codes for each input, of shape [n, k]."""


def cosine(codes: Float[Tensor, "code d"]) -> Affine:
    """`z . c / |c|`: cosine similarity up to the norm of the input, which changes no ranking."""
    return normalize(codes, dim=1).T, codes.new_zeros(len(codes))


def inner_product(codes: Float[Tensor, "code d"]) -> Affine:
    """`z . c`."""
    return codes.T, codes.new_zeros(len(codes))


def euclidean(codes: Float[Tensor, "code d"]) -> Affine:
    """`z . c - |c|^2 / 2`, which ranks codes as `-|z - c|` does."""
    return codes.T, -0.5 * codes.pow(2).sum(dim=1)


SIMILARITIES: dict[str, Callable[[Tensor], Affine]] = {
    "cosine": cosine,
    "inner_product": inner_product,
    "euclidean": euclidean,
}
"""Similarities of inputs and codes. Only the ranking of codes matters, so each is affine in z."""


class Quantizer(Choosing, Searching, TrainableDictionary, ABC):
    """A dictionary of codes; gradients reach the codes only, not their selection.

    Coefficients are 0 or 1, so no gradient flows through `encode`; `scores` has one.
    """

    codes: Float[Tensor, "part code d"]
    """The codes of each group or stage."""
    similarity: Callable[[Tensor], Affine] = staticmethod(euclidean)
    """The similarity by which codes are chosen."""
    index: Nearest | None = None
    """An index of the codes that takes the place of `search`; see `dictionaries.indexed`."""

    def search_exactly_(self) -> None:
        super().search_exactly_()
        self.index = None

    def _nearest(
        self, z: Float[Tensor, "n d"], codes: Float[Tensor, "code d"], k: int
    ) -> Int[Tensor, "n k"]:
        """The `k` codes most similar to each input."""
        if self.index is not None:
            return self.index(z, codes, k)
        return self.search(z, *self.similarity(codes), k).features

    @torch.no_grad()
    def _train_encode(self, z: Float[Tensor, "n d_in"]) -> Encoding:
        return Encoding(self._encode_sparse(z))


class Codebook(Quantizer):
    """`acts` is 1 at the k codes of each group most similar to that group's chunk of `z`.

    Feature `g * C + c` is code `c` of group `g`; its atom is that code in the group's own
    dimensions and zero elsewhere, divided by k where codes are averaged.
    """

    def __init__(
        self, sites: Sites, *, n_codes: int, k: int, n_groups: int,
        similarity: Callable[[Tensor], Affine], mean: bool, input_norm: bool = False, seed: int
    ) -> None:  # fmt: skip
        super().__init__(sites, n_groups * n_codes)
        self.n_codes, self.n_groups = n_codes, n_groups
        self.similarity, self._mean = similarity, mean
        self.choose_(k)
        generator = torch.Generator().manual_seed(seed)
        shape = (n_groups, n_codes, sites.target.d // n_groups)
        self.codes = nn.Parameter(torch.randn(shape, generator=generator) / (k * self.weight))
        self.norm_weight = nn.Parameter(torch.ones(shape[0], shape[2])) if input_norm else None
        self.norm_bias = nn.Parameter(torch.zeros(shape[0], shape[2])) if input_norm else None

    @property
    def search_weights(self) -> int:
        """Weights of one search: the width of a group times its codes."""
        return super().search_weights // self.n_groups

    def choose_(self, k: int) -> None:
        """Choose `k` codes in each group from now on."""
        self.k, self.weight = k, 1 / k if self._mean else 1.0
        self.traits = Traits(
            nonnegative=True, binary=True, max_active=k * self.n_groups, n_groups=self.n_groups
        )

    @property
    def _atoms(self) -> Float[Tensor, "feature d_out"]:
        blocks = torch.block_diag(*self.codes) if self.n_groups > 1 else self.codes[0]
        return self.weight * blocks

    def _chunks(self, z: Float[Tensor, "n d_in"]) -> Float[Tensor, "group n d"]:
        """The dimensions of each group, normalized if the codebook has a norm."""
        chunks = rearrange(z, "n (group d) -> group n d", group=self.n_groups)
        if self.norm_weight is None or self.norm_bias is None:
            return chunks
        normed = layer_norm(chunks, chunks.shape[-1:])
        return normed * self.norm_weight.unsqueeze(1) + self.norm_bias.unsqueeze(1)

    def _normed(self, t: Float[Tensor, "n d_out"]) -> Float[Tensor, "n d_out"]:
        return rearrange(self._chunks(t), "group n d -> n (group d)")

    def _approximated(self, t: Float[Tensor, "n d_out"]) -> Float[Tensor, "n d_out"]:
        """The normalized target as a constant: codes are fitted to it, and not it to them."""
        return t if self.norm_weight is None else self._normed(t).detach()

    def carrier(self, y: Float[Tensor, "n d_out"]) -> Float[Tensor, "n d_out"]:
        """The normalized target, through which gradients also reach the norm."""
        if self.norm_weight is None:
            return y
        t = (y.to(self.y_mean.dtype) - self.y_mean) / self.y_scale
        return self.y_scale * self._normed(t) + self.y_mean

    def _chosen(self, z: Float[Tensor, "n d_in"]) -> Int[Tensor, "n chosen"]:
        """Feature indices of the chosen codes of all groups."""
        chosen = [
            group * self.n_codes + self._nearest(chunk.contiguous(), codes, self.k)
            for group, (chunk, codes) in enumerate(zip(self._chunks(z), self.codes, strict=True))
        ]
        return torch.cat(chosen, dim=1)

    def _scores(
        self, z: Float[Tensor, "n d_in"], features: Int[Tensor, " m"]
    ) -> Float[Tensor, "n m"]:
        """The similarity of each code to its group's chunk of `z`."""
        groups = (features // self.n_codes).unique()
        chunks = self._chunks(z)
        scores = [torch.addmm(offset, chunks[group], codes)
                  for group in groups.tolist()
                  for codes, offset in [self.similarity(self.codes[group])]]  # fmt: skip
        if not scores:
            return z.new_zeros(len(z), 0)
        places = torch.searchsorted(groups, features // self.n_codes) * self.n_codes
        return torch.cat(scores, dim=1)[:, places + features % self.n_codes]

    def _write(self, acts: Float[Tensor, "*b feature"] | SparseActs) -> Float[Tensor, "*b d_out"]:
        """The decoder product; sparse coefficients use only the dimensions of each group."""
        if not isinstance(acts, SparseActs):
            return super()._write(acts)
        if self.n_groups == 1:
            return self.weight * decode(acts, self.codes[0])
        chunk = acts.rows() * self.n_groups + acts.indices // self.n_codes
        order = chunk.argsort(stable=True)
        counts = torch.bincount(chunk, minlength=len(acts) * self.n_groups)
        by_chunk = SparseActs.from_counts(
            counts, acts.indices[order], acts.values[order], self.n_features
        )
        chunks = decode(by_chunk, rearrange(self.codes, "group code d -> (group code) d"))
        return self.weight * rearrange(chunks, "(n group) d -> n (group d)", group=self.n_groups)

    @torch.no_grad()
    def initialize_(self, z: Float[Tensor, "n d_in"], t: Float[Tensor, "n d_out"]) -> None:
        """Initialize codes as rows of data, scaled so that a sum of k codes has the norm of a row.

        If there are more codes than rows, the others keep their random initialization.
        """
        rows = self._chunks(z)[:, : self.n_codes]
        self.codes[:, : rows.shape[1]] = rows / (self.k * self.weight)

    @torch.no_grad()
    def reseed_(
        self,
        features: Int[Tensor, " m"],
        z: Float[Tensor, "m d_in"],
        residual: Float[Tensor, "m d_out"],
    ) -> None:
        """Re-initialize dead codes as rows of data, scaled as at initialization."""
        group, code = features // self.n_codes, features % self.n_codes
        row = torch.arange(z.shape[0], device=z.device)
        self.codes[group, code] = self._chunks(z)[group, row] / (self.k * self.weight)


def codebook_error(fit_pass: FitPass) -> dict[str, Tensor]:
    """Squared error summed over dimensions, averaged over rows; its gradient reaches codes only.

    Tamkin et al. 2024, section 2, the mean squared error term.
    """
    return {"squared_error": squared_error(fit_pass) * fit_pass.t.shape[1]}


@dataclass(frozen=True, kw_only=True)
class CodebookFields(GradientConfig[D]):
    """Fields of all codebooks: their size, and the replacement of unused codes."""

    n_codes: int
    """Codes per group, or per stage."""
    replace_after_steps: int = 0
    """Steps after which an unused code is replaced by a row of data; 0, as published, for never."""

    def __post_init__(self) -> None:
        self._require_count("n_codes")
        self._require_not_negative("replace_after_steps")

    def objective(self) -> Objective:
        """Squared error."""
        return codebook_error

    def resampling(self) -> Resampling | None:
        """Replacement of unused codes by rows drawn uniformly."""
        every = self.replace_after_steps
        if not every:
            return None
        return Resampling(window=every, n_rows=self.n_codes * 4, loss_power=0.0, every=every)


@dataclass(frozen=True, kw_only=True)
class CodebookConfig(CodebookFields[Codebook]):
    """A codebook of `n_groups` groups, from each of which k codes are chosen."""

    kind = "codebook"
    k: int = 1
    """Number of codes chosen in each group."""
    n_groups: int = 1
    """Number of equal groups of dimensions, each with its own codes."""
    similarity: str = "cosine"
    """Similarity by which codes are chosen: "cosine", "inner_product" or "euclidean"."""
    combine: str = "sum"
    """"sum" of the chosen codes (the paper's text) or their "mean" (its released code)."""
    input_norm: bool = False
    """Whether each group's input goes through a LayerNorm with weight and bias, as in the released
    code. The codes then approximate the normalized activation: for codebooks that are trained with
    the model around them (`finetune`)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_count("k", "n_groups")
        self._require(self.k <= self.n_codes, "k", f"at most n_codes ({self.n_codes})")
        self._require_choice("similarity", tuple(SIMILARITIES))
        self._require_choice("combine", ("sum", "mean"))

    def _build(self, sites: Sites, seed: int) -> Codebook:
        """A fresh codebook at `sites`, whose width the groups must divide."""
        if sites.target.d % self.n_groups:
            raise ConfigError(
                f"n_groups must divide the width of {str(sites.target)!r} ({sites.target.d}), got "
                f"{self.n_groups}"
            )
        return Codebook(
            sites,
            n_codes=self.n_codes,
            k=self.k,
            n_groups=self.n_groups,
            similarity=SIMILARITIES[self.similarity],
            mean=self.combine == "mean",
            input_norm=self.input_norm,
            seed=seed,
        )

    @classmethod
    def tiny(cls) -> "CodebookConfig":
        """The smallest useful instance."""
        return cls(n_codes=16, k=2, n_groups=2, replace_after_steps=20)
