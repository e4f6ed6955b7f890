"""What a study compares, on what, and how it is measured: everything but where it is written."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dictlearn.core.errors import ConfigError, nearest
from dictlearn.core.file_lists import is_file_name
from dictlearn.core.kinds import ClosedFormConfig, DictionaryConfig
from dictlearn.core.sites import Sites
from dictlearn.lm.hooks import LanguageModel
from dictlearn.lm.sites import hook_sites, mlp_sites
from dictlearn.training.config import FitConfig


class Place(ABC):
    """Where in a model the dictionaries of a study sit."""

    @abstractmethod
    def sites(self, model: LanguageModel) -> Sites:
        """The sites there."""


@dataclass(frozen=True)
class MLP(Place):
    """What the MLP of a layer reads and writes."""

    layer: int

    def sites(self, model: LanguageModel) -> Sites:
        return mlp_sites(model, self.layer)

    def __str__(self) -> str:
        return f"mlp{self.layer}"


@dataclass(frozen=True)
class Hook(Place):
    """One hook point, read and written."""

    hook: str

    def sites(self, model: LanguageModel) -> Sites:
        return hook_sites(model, self.hook)

    def __str__(self) -> str:
        return self.hook


@dataclass(frozen=True, kw_only=True)
class Study:
    """A comparison, described completely: the same description gives the same numbers.

    Every dictionary of `learned` is trained at every place with every seed, all of one seed over
    the same batches. `baselines` are fitted once a place. All are evaluated together, on the same
    held-out tokens.
    """

    name: str
    question: str
    """What the study asks, in a sentence."""
    learned: Mapping[str, DictionaryConfig]
    baselines: Mapping[str, DictionaryConfig]
    fit: FitConfig
    """The run of one seed; the seed in it is replaced."""
    places: tuple[Place, ...]
    seeds: tuple[int, ...] = (0,)
    model: str = "builtin:stories"
    text: str = "builtin:stories"
    train_tokens: int = 500_000
    held_out_tokens: int = 40_000
    randoms_with: int | None = None
    """Features of random dictionaries, one for each L0 that a learned dictionary has, rounded
    up; none if unset."""
    bits: bool = False
    """Whether coefficients are quantised, for a price in bits per token."""
    inspected: tuple[str, ...] = ()
    """Learned dictionaries, by name, that are looked at closely: what concepts they find, how far
    they agree with each other and between seeds, and cards of some features."""
    n_cards: int = 6
    """Features of each inspected dictionary that get a card."""
    concept_tokens: int = 20_000
    """Held-out tokens in which concepts are looked for."""

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
        for name, config in self.baselines.items():
            if not isinstance(config, ClosedFormConfig):
                raise ConfigError(
                    f"baseline {name!r} of study {self.name!r} is trained by gradient descent: "
                    "it belongs to `learned`, with every seed"
                )

    def to_dict(self) -> dict[str, Any]:
        """The description as JSON: what decides the numbers of a run."""
        described = {k: v for k, v in vars(self).items() if isinstance(v, str | int | None)}
        return described | {
            "fit": self.fit.to_dict(),
            "seeds": list(self.seeds),
            "inspected": list(self.inspected),
            "places": [str(place) for place in self.places],
            "learned": _described(self.learned),
            "baselines": _described(self.baselines),
        }


def _described(configs: Mapping[str, DictionaryConfig]) -> dict[str, Any]:
    return {name: {"kind": config.kind, **config.to_dict()} for name, config in configs.items()}
