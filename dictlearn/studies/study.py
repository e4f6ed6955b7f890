"""Description of a study: dictionaries, hook points, data, training and evaluation."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dictlearn.core.errors import ConfigError, nearest
from dictlearn.core.file_lists import is_file_name
from dictlearn.core.kinds import ClosedFormConfig, DictionaryConfig, GradientConfig
from dictlearn.core.sites import Sites
from dictlearn.lm.hooks import LanguageModel
from dictlearn.lm.mlps import mlp_sites
from dictlearn.lm.sites import hook_sites
from dictlearn.training.config import FitConfig


class Place(ABC):
    """A location in a model, at which the dictionaries of a study are trained."""

    @abstractmethod
    def sites(self, model: LanguageModel) -> Sites:
        """The source and target site in `model`."""


@dataclass(frozen=True)
class MLP(Place):
    """The input and output of the MLP of a layer."""

    layer: int

    def sites(self, model: LanguageModel) -> Sites:
        return mlp_sites(model, self.layer)

    def __str__(self) -> str:
        return f"mlp{self.layer}"


@dataclass(frozen=True)
class Hook(Place):
    """One hook point, as both source and target."""

    hook: str

    def sites(self, model: LanguageModel) -> Sites:
        return hook_sites(model, self.hook)

    def __str__(self) -> str:
        return self.hook


@dataclass(frozen=True, kw_only=True)
class RateSearch:
    """A search for the learning rate of each kind, at several lengths of training.

    At the shortest length all rates are tried, at the longer ones the best of the length before
    and its neighbours, always with every dictionary of the study and the first seed. The rate with
    the lowest FVU on validation tokens at equal L0 is taken for all dictionaries of the kind;
    `rates_frame` says how rates are compared that reach different values of L0.
    Validation tokens are training text that no dictionary is trained on.
    """

    learning_rates: tuple[float, ...]
    """Peak learning rates, ascending."""
    shorter: tuple[int, ...] = ()
    """Numbers of steps below that of the study's `fit`, ascending: results at these lengths show
    what longer training changes."""
    validation_tokens: int = 5_000

    def __post_init__(self) -> None:
        for name in ("learning_rates", "shorter"):
            values = getattr(self, name)
            if list(values) != sorted(set(values)) or not all(value > 0 for value in values):
                raise ConfigError(
                    f"{name} of a search must be positive and ascending, got {values}"
                )
        if not self.learning_rates or self.validation_tokens < 1:
            raise ConfigError("a search needs learning rates and validation tokens")

    def around(self, rate: float) -> tuple[float, ...]:
        """The rates that are tried where `rate` was the best at the length before."""
        at = self.learning_rates.index(rate)
        return self.learning_rates[max(at - 1, 0) : at + 2]


@dataclass(frozen=True, kw_only=True)
class Study:
    """A complete description of a comparison; equal descriptions give equal numbers.

    Each dictionary of `learned` is trained at each place with each seed, and all with the same
    seed on the same batches. `baselines` are fitted once per place. All are evaluated on the same
    held-out tokens.
    """

    name: str
    question: str
    """The question of the study, in one sentence."""
    learned: Mapping[str, DictionaryConfig]
    baselines: Mapping[str, DictionaryConfig]
    fit: FitConfig
    """The training config of each seed; its seed is replaced."""
    places: tuple[Place, ...]
    search: RateSearch | None = None
    """The search for learning rates; None to train at that of `fit`."""
    seeds: tuple[int, ...] = (0,)
    model: str = "builtin:stories"
    text: str = "builtin:stories"
    train_tokens: int = 500_000
    held_out_tokens: int = 40_000
    randoms_with: int | None = None
    """Number of features of the random dictionaries, of which there is one for each L0 of a
    learned dictionary, rounded up; None for no random dictionaries."""
    bits: bool = False
    """Whether coefficients are quantized, to measure bits per token."""
    inspected: tuple[str, ...] = ()
    """Names of learned dictionaries to analyse further: precision at detecting concepts,
    similarity to each other and between seeds, and cards of some features."""
    n_cards: int = 6
    """Number of feature cards for each inspected dictionary."""
    concept_tokens: int = 20_000
    """Number of held-out tokens on which concepts are evaluated."""

    def __post_init__(self) -> None:
        if not self.learned or not self.places or not self.seeds:
            raise ConfigError(f"study {self.name!r} needs dictionaries, places and seeds")
        for folder in (*map(str, self.places), *self.learned, *self.baselines):
            if not is_file_name(folder):
                raise ConfigError(
                    f"places and dictionaries of study {self.name!r} become folders inside its "
                    f"own: required a name without '/' or '\\', got {folder!r}"
                )
        for name in self.inspected:
            if name not in self.learned:
                raise ConfigError(
                    f"study {self.name!r} inspects {name!r}, which it does not train; "
                    f"{nearest(name, self.learned)}"
                )
        for name in self.learned:
            if name in self.baselines:
                raise ConfigError(f"study {self.name!r} has two dictionaries named {name!r}")
        if self.search is not None:
            self._require_searchable(self.search)
        for name, config in self.baselines.items():
            if not isinstance(config, ClosedFormConfig):
                raise ConfigError(
                    f"baseline {name!r} of study {self.name!r} is trained by gradient descent: "
                    "it belongs to `learned`, with every seed"
                )

    def _require_searchable(self, search: RateSearch) -> None:
        if any(steps >= self.fit.steps for steps in search.shorter):
            raise ConfigError(
                f"the shorter lengths of the search of study {self.name!r} must be below the "
                f"{self.fit.steps} steps of its fit, got {search.shorter}"
            )
        kinds = Counter(config.kind for config in self.learned.values())
        for name, config in self.learned.items():
            if not isinstance(config, GradientConfig) or kinds[config.kind] < 2:
                raise ConfigError(
                    f"{name!r} of study {self.name!r}: a search for learning rates compares a kind "
                    "at equal L0, which requires two dictionaries or more of each kind, trained by "
                    "gradient descent"
                )

    @property
    def lengths(self) -> tuple[int, ...]:
        """The numbers of training steps, ascending; all but the last are those of the search."""
        return (*(self.search.shorter if self.search else ()), self.fit.steps)

    def to_dict(self) -> dict[str, Any]:
        """The description as JSON: all settings that affect the results."""
        plain = {k: v for k, v in vars(self).items() if isinstance(v, str | int | None)}
        described: dict[str, Any] = plain | {"search": asdict(self.search) if self.search else None}
        if self.search is None:  # a setting that earlier versions did not have
            del described["search"]
        return described | {
            "fit": self.fit.to_dict() | {"device": str(self.fit.torch_device)},
            "seeds": list(self.seeds),
            "inspected": list(self.inspected),
            "places": [str(place) for place in self.places],
            "learned": _described(self.learned),
            "baselines": _described(self.baselines),
        }


def _described(configs: Mapping[str, DictionaryConfig]) -> dict[str, Any]:
    return {name: {"kind": config.kind, **config.to_dict()} for name, config in configs.items()}
