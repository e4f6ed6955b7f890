"""Boolean circuits in layers, with their true edges: what a method that finds circuits should find.

A gate is a conjunction of literals, and a variable is true where one of the gates that write it is
active. Two layers of gates make two hops, which a shortcut can skip (Lange et al. 2026,
"Cross-Layer Transcoders are Incentivized to Learn Unfaithful Circuits", on a Boolean toy model).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dictlearn.core.errors import ConfigError, nearest

Edge = tuple[str, str]
"""The name of what is read, an input or a gate, and of the gate or the variable that reads it."""


@dataclass(frozen=True)
class Gate:
    """A conjunction, active where every variable that it reads has the value named beside it."""

    writes: str
    """The variable that is true where the gate is active."""
    reads: Mapping[str, bool]

    @property
    def name(self) -> str:
        """The gate as a formula, such as "x & ~y"."""
        return " & ".join(v if value else f"~{v}" for v, value in self.reads.items())


@dataclass(frozen=True)
class BooleanCircuit:
    """Gates over inputs; the last gate writes the answer.

    A gate comes after all gates that write what it reads, and no two gates that write a variable
    are active together, so that its value is the number of those that are.

    A sequence has a token for each input, which says whether it is true, and then `ask`. Tokens
    `2 * i` and `2 * i + 1` are those of input `i`, false and true; `ask`, `no` and `yes` follow.

    Raises:
        ConfigError: a gate reads what is not known before it, or reads nothing; two gates that
            write a variable are active together, or have one name; an input is written.

    >>> TWO_HOPS.variables
    ('a', 'b', 'c', 'd', 'x', 'y', 'z')
    >>> sorted(TWO_HOPS.edges([True, True, False, True]))
    [('a', 'a & b'), ('a & b', 'x & ~y'), ('b', 'a & b'), ('x & ~y', 'z')]
    """

    inputs: Sequence[str]
    gates: Sequence[Gate]

    def __post_init__(self) -> None:
        if not self.inputs or not self.gates or len({*self.inputs}) < len(self.inputs):
            raise ConfigError(
                "a Boolean circuit needs inputs of different names and at least one gate, got "
                f"inputs {', '.join(self.inputs) or 'none'} and {len(self.gates)} gates"
            )
        if len({gate.name for gate in self.gates}) < len(self.gates):
            raise ConfigError(
                "required gates of different formulas, got "
                f"{'; '.join(gate.name for gate in self.gates)}"
            )
        for i, gate in enumerate(self.gates):
            later = {other.writes for other in self.gates[i:]}
            known = [v for v in self.variables if v in self.inputs or v not in later]
            unknown = [v for v in gate.reads if v not in known]
            if unknown or not gate.reads or gate.writes in self.inputs:
                raise ConfigError(
                    "a gate reads variables that are known before it and writes none of the "
                    f"inputs; gate {i} reads {', '.join(gate.reads) or 'nothing'} and writes "
                    f"{gate.writes}; {nearest((unknown or [gate.writes])[0], known)}"
                )
        self._require_one_gate_at_a_time()

    def _require_one_gate_at_a_time(self) -> None:
        active = self.active(self.assignments)
        for variable in self.variables[len(self.inputs) :]:
            of_variable = active[:, self._writers(variable)].sum(dim=1)
            if int(of_variable.max()) > 1:
                row = self.assignments[int(of_variable.argmax())].tolist()
                true = [v for v, value in zip(self.inputs, row, strict=True) if value]
                raise ConfigError(
                    f"required gates of {variable} of which at most one is active, got "
                    f"{int(of_variable.max())} where {', '.join(true) or 'no input'} is true; add "
                    "literals that tell them apart"
                )

    # Structure

    @property
    def variables(self) -> tuple[str, ...]:
        """Inputs, and what gates write, in order."""
        return tuple(dict.fromkeys([*self.inputs, *(gate.writes for gate in self.gates)]))

    @property
    def answer(self) -> str:
        """The variable that the circuit computes."""
        return self.gates[-1].writes

    @cached_property
    def layers(self) -> tuple[int, ...]:
        """The layer of each gate: 0 if it reads inputs alone, else after all that it reads."""
        depth = dict.fromkeys(self.inputs, 0)
        found = []
        for gate in self.gates:
            found.append(max(depth[v] for v in gate.reads))
            depth[gate.writes] = max(depth.get(gate.writes, 0), found[-1] + 1)
        return tuple(found)

    # Tokens

    @property
    def ask(self) -> int:
        """The last token of a sequence, after which the answer follows."""
        return 2 * len(self.inputs)

    @property
    def no(self) -> int:
        """The token of the answer false."""
        return self.ask + 1

    @property
    def yes(self) -> int:
        """The token of the answer true."""
        return self.ask + 2

    @property
    def d_vocab(self) -> int:
        """The number of tokens."""
        return self.ask + 3

    def ids(self, values: Bool[Tensor, "n input"]) -> Int[Tensor, "n pos"]:
        """The sequences that give the inputs these values."""
        own = 2 * torch.arange(len(self.inputs)) + values.long()
        return torch.cat([own, torch.full_like(own[:, :1], self.ask)], dim=1)

    # Truth

    @cached_property
    def assignments(self) -> Bool[Tensor, "n input"]:
        """All values of the inputs, false first."""
        return torch.tensor(list(product((False, True), repeat=len(self.inputs))))

    def active(self, values: Bool[Tensor, "n input"]) -> Bool[Tensor, "n gate"]:
        """Whether each gate is active."""
        known, found = dict(zip(self.inputs, values.T, strict=True)), list[Tensor]()
        for gate in self.gates:
            literals = [known[v] == value for v, value in gate.reads.items()]
            found.append(torch.stack(literals).all(dim=0))
            known[gate.writes] = known.get(gate.writes, torch.zeros_like(found[-1])) | found[-1]
        return torch.stack(found, dim=1)

    def values(self, variable: str, values: Bool[Tensor, "n input"]) -> Bool[Tensor, " n"]:
        """The value of a variable."""
        if variable in self.inputs:
            return values[:, list(self.inputs).index(variable)]
        return self.active(values)[:, self._writers(variable)].any(dim=1)

    def edges(self, values: Iterable[bool]) -> set[Edge]:
        """The edges on ways to the answer at these values of the inputs: into it from the active
        gate that writes it, and into gates on a way from inputs and active gates that they read.

        That a variable is false is written by nothing, so gates that read this have no edge for it,
        and there are no edges where the answer is false.
        """
        active = self.active(torch.tensor([list(values)]))[0].tolist()
        on = [gate for gate, is_on in zip(self.gates, active, strict=True) if is_on]
        found = {(gate.name, self.answer) for gate in on if gate.writes == self.answer}
        for gate in reversed(on):  # those that read a gate come after it
            if any(source == gate.name for source, _ in found):
                found |= {(v, gate.name) for v in gate.reads if v in self.inputs}
                found |= {(other.name, gate.name) for other in on if other.writes in gate.reads}
        return found

    def _writers(self, variable: str) -> list[int]:
        return [i for i, gate in enumerate(self.gates) if gate.writes == variable]


TWO_HOPS = BooleanCircuit(
    inputs=("a", "b", "c", "d"),
    gates=(
        Gate("x", {"a": True, "b": True}),
        Gate("y", {"c": True, "d": True}),
        Gate("z", {"x": True, "y": False}),
        Gate("z", {"x": False, "y": True}),
    ),
)
"""`z = x XOR y` of `x = a AND b` and `y = c AND d`: two gates in each of two layers."""
