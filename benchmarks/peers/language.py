"""The language models on which whole runs, harvests and evaluations are measured."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from benchmarks.peers.page import Table
from benchmarks.peers.part import Run
from dictlearn.core.sites import Sites
from dictlearn.core.tokens import Tokens
from dictlearn.harvesting import harvest
from dictlearn.lm.hooks import LanguageModel
from dictlearn.lm.loading import load_model
from dictlearn.lm.sites import hook_sites
from dictlearn.text.tokens import load_tokens

BUILTIN = "builtin:stories"
TEXT = "builtin:stories"
_SEQUENCES = 4
"""Sequences of 256 tokens in one bare forward pass: with so few it is fastest on the CPU."""


@dataclass(frozen=True)
class Setting:
    """A model, a hook in it, and the text that everybody reads."""

    name: str
    model: LanguageModel
    layer: int
    n_tokens: int
    n_held_out: int

    @property
    def hook(self) -> str:
        """The hook at which dictionaries sit: what the MLP of the layer writes."""
        return f"blocks.{self.layer}.hook_mlp_out"

    @cached_property
    def sites(self) -> Sites:
        """The sites of an autoencoder at the hook."""
        return hook_sites(self.model, self.hook)

    @cached_property
    def train(self) -> Tokens:
        """The tokens to learn from."""
        return load_tokens(TEXT, self.model, split="train", n_tokens=self.n_tokens)

    @cached_property
    def held_out(self) -> Tokens:
        """Tokens of documents that nobody learns from."""
        return load_tokens(TEXT, self.model, split="held_out", n_tokens=self.n_held_out)

    @cached_property
    def held_out_rows(self) -> Tensor:
        """The activations of the held-out tokens at the hook."""
        live = harvest(self.model, self.held_out, self.sites)
        return live.rows(0, 0, live.n_rows).batch(self.sites).x

    @torch.no_grad()
    def bare_forward(self, ids: Tensor) -> None:
        """The model's own forward pass to the end of the layer, and nothing else."""
        for part in ids.split(_SEQUENCES):
            self.model(part, stop_at_layer=self.layer + 1)


def builtin(n_tokens: int, n_held_out: int) -> Setting:
    """The model that comes with the package."""
    return Setting(BUILTIN, load_model(BUILTIN, device="cpu"), 1, n_tokens, n_held_out)


def second(run: Run, n_tokens: int, n_held_out: int) -> Setting | None:
    """The model in the folder that the user names, or None where there is none."""
    if not run.model.is_dir():
        return None
    model = load_model(run.model, device="cpu")
    return Setting(run.model.name, model, 2, n_tokens, n_held_out)


def not_there() -> Table:
    """The text in place of results on a second model that is absent."""
    return Table("Not measured: no folder of a second language model (`--model`)", ("run",))
