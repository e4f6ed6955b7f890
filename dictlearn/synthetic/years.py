"""Pairs of years of which the second is later: the greater-than task with one token a year.

Hanna, Liu and Variengien 2023, "How does GPT-2 compute greater-than?", with their prompt cut to
what matters.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from dictlearn.core.config import Config


@dataclass(frozen=True, kw_only=True)
class LaterYears(Config):
    """Sequences BOS, a year, "to", and a year that is uniform among the later ones.

    Years are the tokens from 0; `bos` and `to` follow. The last year is never the first of a pair.

    >>> task = LaterYears(n_years=4)
    >>> task.prompts().tolist()
    [[4, 0, 5], [4, 1, 5], [4, 2, 5]]
    """

    n_years: int = 100

    def __post_init__(self) -> None:
        self._require_count("n_years")
        self._require(self.n_years >= 2, "n_years", "at least 2")

    @property
    def bos(self) -> int:
        """The token that every sequence begins with."""
        return self.n_years

    @property
    def to(self) -> int:
        """The token between the years."""
        return self.n_years + 1

    @property
    def d_vocab(self) -> int:
        """The number of tokens."""
        return self.n_years + 2

    def prompts(self) -> Int[Tensor, "year 3"]:
        """BOS, each year that has a later one, and "to"."""
        return self._begun(torch.arange(self.n_years - 1))

    def sample(self, n: int, seed: int) -> Int[Tensor, "n 4"]:
        """`n` sequences, the same for the same arguments."""
        generator = torch.Generator().manual_seed(seed)
        first = torch.randint(self.n_years - 1, (n,), generator=generator)
        part = torch.rand(n, generator=generator, dtype=torch.float64)
        later = first + 1 + (part * (self.n_years - 1 - first)).long()
        return torch.cat([self._begun(first), later.unsqueeze(1)], dim=1)

    def _begun(self, first: Int[Tensor, " n"]) -> Int[Tensor, "n 3"]:
        return torch.stack(
            [torch.full_like(first, self.bos), first, torch.full_like(first, self.to)], dim=1
        )
