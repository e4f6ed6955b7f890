"""Tokens of a text, in blocks for a language model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dictlearn.core.errors import InputError


@dataclass(frozen=True)
class Tokens:
    """Packed blocks of equal length, with their origin.

    `ordinary` is false at special tokens (BOS, EOS, padding): the model sees them, but
    they are excluded from training rows and metrics by default.
    """

    ids: Int[Tensor, "b pos"]
    ordinary: Bool[Tensor, "b pos"]
    source: str
    split: str
    hash: str
    """SHA-256 of the ids and of the block length."""
    path: str = field(default="", compare=False)
    """Absolute path of a local source."""
    files_hash: str = field(default="", compare=False)
    """Fingerprint of the files of a local source (`text.places.files_hash`)."""
    settings: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """Arguments of `load_tokens` by which the source was read and divided into blocks, such as
    `column` and `separator`, without the context. Empty if not known."""

    def __post_init__(self) -> None:
        ids, ordinary = self.ids, self.ordinary
        if ids.ndim != 2 or ids.dtype != torch.long or ordinary.shape != ids.shape:
            raise InputError(
                "required ids as whole numbers (torch.long) of shape [sequence, position] and a "
                f"mask of the same shape, got {ids.dtype} of shape {tuple(ids.shape)} and a mask "
                f"of shape {tuple(ordinary.shape)}"
            )

    def __len__(self) -> int:
        return self.ids.shape[0]

    def __repr__(self) -> str:
        """Their number, and where they are from."""
        number, length = self.ids.shape
        origin = f", {self.split} split of {self.source}" if self.source else ""
        return f"Tokens({self.n_tokens:,} in {number:,} sequences of {length:,}{origin})"

    @property
    def n_tokens(self) -> int:
        """The number of non-special tokens in all blocks."""
        return int(self.ordinary.sum())

    def counted(self, *, exclude_special: bool) -> Bool[Tensor, "b pos"]:
        """The positions of evaluated tokens, that give rows and predictions: non-special or all."""
        return self.ordinary if exclude_special else torch.ones_like(self.ordinary)

    def describe(self) -> dict[str, Any]:
        """The description that identifies these tokens in a manifest or in results."""
        return {
            "source": self.source,
            "split": self.split,
            "hash": self.hash,
            "n_tokens": self.n_tokens,
            "n_sequences": len(self),
            "context": self.ids.shape[1],
        }
