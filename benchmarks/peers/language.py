"""The language models on which whole runs, harvests and evaluations are measured."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

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
    def bare_forward(self, ids: Tensor, batch_size: int) -> None:
        """The model's own forward pass to the end of the layer, and nothing else."""
        for part in ids.split(batch_size):
            self.model(part, stop_at_layer=self.layer + 1)


def settings(run: Run, n_tokens: int, n_held_out: int) -> Iterator[Setting]:
    """The built-in model, and the one named by the user where it is there."""
    yield Setting(BUILTIN, load_model(BUILTIN, device="cpu"), 1, n_tokens, n_held_out)
    if _has_model(run):
        model = load_model(run.model, device="cpu")
        yield Setting(run.model.name, model, 2, n_tokens, n_held_out)


def skipped(run: Run) -> list[str]:
    """A note on the second model where it was not measured."""
    if _has_model(run):
        return []
    return ["a second language model was not measured: its folder (`--model`) is not there"]


def _has_model(run: Run) -> bool:
    return run.model.is_dir()
