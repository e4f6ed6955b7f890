"""Targets of circuit graphs: logits, differences of logits, features."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from dictlearn.core.errors import InputError, nearest
from dictlearn.core.numbers import finite, whole
from dictlearn.text.prompts import single_token

if TYPE_CHECKING:
    from dictlearn.circuits.local_model import LocalModel


@dataclass(frozen=True)
class Function:
    """An affine function, at a token, of what a dictionary reads, of the value vectors of a layer,
    or of the unembedding's input."""

    position: int
    reader: Float[Tensor, " d"]
    offset: float
    dictionary: str | None = None
    """The name of the dictionary that reads."""
    layer: int | None = None
    """The layer of the value vectors."""


@dataclass(frozen=True)
class Explained:
    """A function to explain, its weight among several, and its name."""

    function: Function
    weight: float
    label: str
    token: int = -1
    """The id of the token whose logit it is, if it is one."""
    probability: float = float("nan")
    """The probability that the model gives this token."""


class Target(ABC):
    """One function to explain, or several with weights."""

    @abstractmethod
    def functions(self, local: "LocalModel") -> list[Explained]:
        """The functions, in the local replacement model of a prompt.

        Raises:
            InputError: the model or the prompt does not have what is named.
        """


@dataclass(frozen=True)
class Logit(Target):
    """The logit of one token, less the mean over all tokens, which changes no probability.

    Where a model caps its logits, it is the logit before.
    """

    token: str | int
    position: int = -1

    def functions(self, local: "LocalModel") -> list[Explained]:
        """The logit alone."""
        token = _token(self.token, local)
        probability = float(local.probabilities(self.position)[token])
        function = local.logit({token: 1.0}, self.position)
        return [Explained(function, 1.0, local.text(token), token, probability)]


@dataclass(frozen=True)
class LogitDifference(Target):
    """The logit of `token` minus that of `minus`."""

    token: str | int
    minus: str | int
    position: int = -1

    def functions(self, local: "LocalModel") -> list[Explained]:
        """The difference alone."""
        a, b = (_token(token, local) for token in (self.token, self.minus))
        if a == b:
            raise InputError(f"required two different tokens, got {local.text(a)!r} twice")
        function = local.logit({a: 1.0, b: -1.0}, self.position)
        return [Explained(function, 1.0, f"{local.text(a)} - {local.text(b)}")]


@dataclass(frozen=True)
class TopLogits(Target):
    """The logits of the most probable tokens, weighted by their probabilities.

    As many as have `probability` together, at most `n` (Ameisen et al. 2025: 10 and 95 %).
    """

    n: int = 10
    probability: float = 0.95
    position: int = -1

    def __post_init__(self) -> None:
        n, p = whole(self.n), finite(self.probability)
        if n is None or n < 1 or p is None or not 0 < p <= 1:
            raise InputError(
                "required at least 1 token, and a probability above 0 and up to 1, got "
                f"n={self.n!r:.80} and probability={self.probability!r:.80}"
            )

    def functions(self, local: "LocalModel") -> list[Explained]:
        """The logit of each of these tokens."""
        p = local.probabilities(self.position)
        top = p.sort(descending=True)
        below = top.values.cumsum(0) - top.values < self.probability
        return [
            Explained(
                local.logit({token: 1.0}, self.position), float(p[token]), local.text(token), token,
                float(p[token]),
            )
            for token in top.indices[: min(self.n, int(below.sum()))].tolist()
        ]  # fmt: skip


@dataclass(frozen=True)
class FeatureTarget(Target):
    """The coefficient of a feature at a token; where coefficients are 0 or 1, its score."""

    dictionary: str
    feature: int
    position: int = -1

    def functions(self, local: "LocalModel") -> list[Explained]:
        """The coefficient or score alone."""
        if self.dictionary not in local.dictionaries:
            raise InputError(
                f"no dictionary {self.dictionary!r}; {nearest(self.dictionary, local.dictionaries)}"
            )
        n, feature = local.dictionaries[self.dictionary].n_features, whole(self.feature)
        if feature is None or not 0 <= feature < n:
            raise InputError(
                f"required a feature of {self.dictionary!r} from 0 to {n - 1}, got "
                f"{self.feature!r:.80}"
            )
        position = local.position(self.position)
        (function,) = local.readings(self.dictionary, [position], [feature])
        label = f"{self.dictionary} {feature} @ {position}"
        return [Explained(function, 1.0, label)]


@dataclass(frozen=True)
class Several(Target):
    """Several targets, with equal weights."""

    targets: Sequence[Target]

    def functions(self, local: "LocalModel") -> list[Explained]:
        """The functions of all targets."""
        return [one for target in self.targets for one in target.functions(local)]


def functions_of(target: Target | None, local: "LocalModel") -> list[Explained]:
    """The functions of a target; those of the most probable next tokens if it is None.

    Raises:
        InputError: it is no target, it has no function, or the model or the prompt does not have
            what it names.
    """
    target = TopLogits() if target is None else target
    if not isinstance(target, Target):
        raise InputError(
            "required a target, such as LogitDifference(' She', ' He'), got "
            f"{type(target).__name__} {target!r:.80}"
        )
    found = target.functions(local)
    if not found:
        raise InputError(f"required a target with a function to explain, got {target!r:.80}")
    return found


def _token(token: str | int, local: Any) -> int:
    """The id of a token, given as its text or as an id."""
    if isinstance(token, str):
        return single_token(local.tokenizer, token)
    found = whole(token)
    if found is None or not 0 <= found < local.n_vocabulary:
        raise InputError(f"required a token from 0 to {local.n_vocabulary - 1}, got {token!r:.80}")
    return found
