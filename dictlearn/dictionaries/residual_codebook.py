"""Residual codebook: each stage quantizes the residual of the stages before it.

Zeghidour et al. 2021, "SoundStream", section III-C (residual vector quantization).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from dictlearn.core.dictionary import Traits
from dictlearn.core.sites import Sites
from dictlearn.dictionaries.codebook import CodebookFields, Quantizer


class ResidualCodebook(Quantizer):
    """One code per stage: the nearest to the residual, which is then subtracted.

    Feature `s * C + c` is code `c` of stage `s`.
    """

    def __init__(self, sites: Sites, *, n_codes: int, n_stages: int, seed: int) -> None:
        super().__init__(sites, n_stages * n_codes)
        self.n_codes, self.n_stages = n_codes, n_stages
        self.traits = Traits(nonnegative=True, binary=True, max_active=n_stages, n_groups=n_stages)
        generator = torch.Generator().manual_seed(seed)
        shape = (n_stages, n_codes, sites.target.d)
        self.codes = nn.Parameter(torch.randn(shape, generator=generator))

    @property
    def _atoms(self) -> Float[Tensor, "feature d_out"]:
        return rearrange(self.codes, "stage code d -> (stage code) d")

    def _stages(
        self, z: Float[Tensor, "n d_in"]
    ) -> Iterator[tuple[Float[Tensor, "n d_in"], Int[Tensor, " n"]]]:
        """The input of each stage, and the code chosen there."""
        residual = z
        for codes in self.codes:
            code = self._nearest(residual, codes, 1)[:, 0]
            yield residual, code
            residual = residual - codes[code]

    @torch.no_grad()
    def _chosen(self, z: Float[Tensor, "n d_in"]) -> Int[Tensor, "n chosen"]:
        """Feature indices of the chosen codes, by stage."""
        chosen = [stage * self.n_codes + code for stage, (_, code) in enumerate(self._stages(z))]
        return torch.stack(chosen, dim=1)

    def _scores(
        self, z: Float[Tensor, "n d_in"], features: Int[Tensor, " m"]
    ) -> Float[Tensor, "n m"]:
        """The similarity of each code to the input of its stage, given earlier choices."""
        near = [
            torch.addmm(offset, residual, codes)
            for (residual, _), (codes, offset) in zip(
                self._stages(z), map(self.similarity, self.codes), strict=True
            )
        ]
        return torch.cat(near, dim=1)[:, features]

    @torch.no_grad()
    def initialize_(self, z: Float[Tensor, "n d_in"], t: Float[Tensor, "n d_out"]) -> None:
        """Initialize the codes of each stage as residuals of the earlier stages, on different rows.

        A row that became a code of an earlier stage has residual 0, so each stage needs its own
        rows. Codes without a row keep their random directions, with the norm of residuals.
        """
        residual = z
        own = z.shape[0] // self.n_stages
        for stage, codes in enumerate(self.codes):
            rows = residual[stage * own : (stage + 1) * own][: self.n_codes]
            codes *= residual.pow(2).mean().sqrt()
            codes[: len(rows)] = rows
            residual = residual - codes[self._nearest(residual, codes, 1)[:, 0]]

    @torch.no_grad()
    def reseed_(
        self,
        features: Int[Tensor, " m"],
        z: Float[Tensor, "m d_in"],
        residual: Float[Tensor, "m d_out"],
    ) -> None:
        """Re-initialize dead codes as residuals of rows of data, in the first stage as inputs."""
        first = (features < self.n_codes).unsqueeze(1)
        self.codes.view(-1, z.shape[1])[features] = torch.where(first, z, residual)


@dataclass(frozen=True, kw_only=True)
class ResidualCodebookConfig(CodebookFields[ResidualCodebook]):
    """A codebook of `n_stages` stages with one code chosen at each."""

    kind = "residual_codebook"
    n_stages: int = 4
    """Number of stages, which is also the number of codes per row."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_count("n_stages")

    def _build(self, sites: Sites, seed: int) -> ResidualCodebook:
        """A fresh residual codebook at `sites`."""
        return ResidualCodebook(sites, n_codes=self.n_codes, n_stages=self.n_stages, seed=seed)

    @classmethod
    def tiny(cls) -> "ResidualCodebookConfig":
        """The smallest useful instance."""
        return cls(n_codes=16, n_stages=2, replace_after_steps=20)
