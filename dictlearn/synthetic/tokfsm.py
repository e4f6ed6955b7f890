"""TokFSM: sequences of the states of a random finite-state machine, written as digits.

Tamkin, Taufeeque and Goodman 2024, "Codebook Features", section 3; the graph is that of the
released code, drawn with numpy's generator.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dictlearn.core.config import Config

_DIGITS = 2


class Optimum(NamedTuple):
    """The best that any model can do, over all predicted tokens of a sequence."""

    loss: float
    """Cross-entropy in nats."""
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class TokFSM(Config):
    """A machine that walks from each state to one of `n_edges` others with equal probability.

    A sequence is BOS and then two digits in base `base` for each state, cut at `context` tokens.
    Token `base` is BOS.

    >>> machine = TokFSM()
    >>> round(machine.optimum.loss, 4), round(100 * machine.optimum.accuracy, 2)
    (1.1748, 46.38)
    >>> len(machine.trigrams())
    686
    """

    n_states: int = 100
    n_edges: int = 10
    base: int = 10
    context: int = 128
    graph_seed: int = 42

    def __post_init__(self) -> None:
        self._require_count("n_states", "n_edges", "base")
        self._require(self.n_edges <= self.n_states, "n_edges", f"at most {self.n_states}")
        self._require(
            self.n_states <= self.base**_DIGITS, "base", f"one in which {self.n_states} states "
            "have two digits",
        )  # fmt: skip
        self._require(self.context >= 1 + _DIGITS, "context", "at least 3")

    @property
    def bos(self) -> int:
        """The token that every sequence begins with."""
        return self.base

    @cached_property
    def _successors(self) -> "np.ndarray[Any, np.dtype[np.int64]]":
        generator = np.random.default_rng(self.graph_seed)
        chosen = [
            generator.choice(self.n_states, size=self.n_edges, replace=False)
            for _ in range(self.n_states)
        ]
        return np.stack(chosen)

    @cached_property
    def transitions(self) -> Float[Tensor, "state state"]:
        """The probability of each state after each state."""
        matrix = torch.zeros(self.n_states, self.n_states, dtype=torch.float64)
        return matrix.scatter(1, torch.from_numpy(self._successors), 1 / self.n_edges)

    def sample(self, n: int, seed: int) -> Int[Tensor, "n context"]:
        """`n` sequences, the same for the same arguments."""
        generator = np.random.default_rng(seed)
        n_visited = -(-(self.context - 1) // _DIGITS)
        states = np.empty((n, n_visited), dtype=np.int64)
        states[:, 0] = generator.integers(self.n_states, size=n)
        edges = generator.integers(self.n_edges, size=(n, n_visited))
        for t in range(1, n_visited):
            states[:, t] = self._successors[states[:, t - 1], edges[:, t]]
        return self.written(torch.from_numpy(states))[:, : self.context]

    def written(self, states: Int[Tensor, "n state"]) -> Int[Tensor, "n pos"]:
        """The tokens of sequences of states, BOS first."""
        digits = torch.stack([states // self.base, states % self.base], dim=2).flatten(1)
        return torch.cat([torch.full_like(digits[:, :1], self.bos), digits], dim=1)

    def states(self, ids: Int[Tensor, "n pos"]) -> Int[Tensor, "n pos"]:
        """The state that each token completes; -1 at first digits, BOS, and what is no state."""
        found = torch.full_like(ids, -1)
        second = slice(_DIGITS, None, _DIGITS)
        tens, ones = ids[:, 1:-1:_DIGITS], ids[:, second]
        number = tens * self.base + ones
        digits = torch.stack([tens, ones])
        legal = ((digits >= 0) & (digits < self.base)).all(dim=0) & (number < self.n_states)
        found[:, second] = torch.where(legal, number, -1)
        return found

    def transition_accuracy(self, ids: Int[Tensor, "n pos"]) -> tuple[float, float]:
        """The fraction of legal pairs of successive states, and that of the first pairs alone.

        A pair with something that is no state is illegal; a last state cut in half does not count.
        Both are nan where no sequence has two states.
        """
        states = self.states(ids)[:, _DIGITS::_DIGITS]
        before, after = states[:, :-1], states[:, 1:]
        allowed = self.transitions[before.clamp_min(0), after.clamp_min(0)] > 0
        legal = (allowed & (before >= 0) & (after >= 0)).double()
        return float(legal.mean()), float(legal[:, :1].mean())

    def bigrams(self) -> Int[Tensor, "input 3"]:
        """BOS and every state."""
        return self.written(torch.arange(self.n_states).unsqueeze(1))

    def trigrams(self) -> Int[Tensor, "input 4"]:
        """BOS, every state, and every digit that one of its successors begins with."""
        states, firsts = (self._first_digits > 0).nonzero(as_tuple=True)
        return torch.cat([self.bigrams()[states], firsts.unsqueeze(1)], dim=1)

    @cached_property
    def _first_digits(self) -> Float[Tensor, "state digit"]:
        """The probability of each first digit of the next state."""
        padded = torch.zeros(self.n_states, self.base**_DIGITS, dtype=torch.float64)
        padded[:, : self.n_states] = self.transitions
        return padded.unflatten(1, (self.base, self.base)).sum(dim=2)

    @cached_property
    def optimum(self) -> Optimum:
        """Loss and accuracy of the true distribution of each token, given those before it."""
        pairs = torch.zeros(self.n_states + 1, self.base**_DIGITS, dtype=torch.float64)
        pairs[:-1, : self.n_states] = self.transitions
        pairs[-1, : self.n_states] = 1 / self.n_states  # the first state, after BOS
        pairs = pairs.unflatten(1, (self.base, self.base))
        first = pairs.sum(dim=2)
        second = pairs / first.unsqueeze(2).clamp_min(1e-300)
        entropy = [-torch.xlogy(first, first).sum(1), -torch.xlogy(pairs, second).sum((1, 2))]
        best = [first.amax(1), pairs.amax(2).sum(1)]
        visited = torch.zeros(self.n_states + 1, dtype=torch.float64)
        visited[-1] = 1
        loss = accuracy = 0.0
        for t in range(self.context - 1):
            loss += float(visited @ entropy[t % _DIGITS])
            accuracy += float(visited @ best[t % _DIGITS])
            if t % _DIGITS == _DIGITS - 1:
                after = pairs.flatten(1)[:, : self.n_states]
                visited = torch.cat([visited @ after, visited.new_zeros(1)])
        return Optimum(loss / (self.context - 1), accuracy / (self.context - 1))


SMALL = TokFSM(n_states=25, n_edges=5, base=5, context=32)
"""A machine for small models."""
