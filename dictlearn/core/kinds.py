"""Kinds: a config is the method, and builds its dictionary."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar, final

from torch import Tensor

from dictlearn.core.config import Config
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.learning import Learner, Objective
from dictlearn.core.mlp_weights import MLPWeights
from dictlearn.core.sites import Sites, only

D = TypeVar("D", bound=FeatureDictionary, covariant=True)


@dataclass(frozen=True)
class Resampling:
    """Schedule and distribution by which dead features are re-initialized from rows of data.

    At each of `steps`, and each multiple of `every`, a feature that has not fired in the last
    `window` steps is re-initialized on one of `n_rows` fresh rows, drawn with probability
    proportional to its loss to the power `loss_power` (2: Bricken et al. 2023,
    "Neuron Resampling"; 0: uniform).
    """

    window: int
    n_rows: int
    loss_power: float
    every: int | None = None
    steps: tuple[int, ...] = ()

    def due(self, step: int) -> bool:
        """Whether features are resampled after step `step` (counted from 1)."""
        return step in self.steps or (self.every is not None and step % self.every == 0)


@dataclass(frozen=True, kw_only=True)
class DictionaryConfig(Config, ABC, Generic[D]):
    """The hyper-parameters of one kind of dictionary."""

    kind: ClassVar[str]
    """The name in files and on the command line."""
    baseline: ClassVar[bool] = False
    """Whether it is a reference such as the mean, and not a method."""

    def sites(self, offered: Sites) -> Sites:
        """The sites of a dictionary of this kind, given the sites offered.

        An autoencoder reads and writes the target, so that all kinds replace the same tensor;
        transcoders override this and return the sites unchanged.
        """
        return offered.at_target()

    def among(self, offered: Sequence[Sites]) -> Sites:
        """The sites of a dictionary of this kind, given all sites that were harvested.

        A kind that reads or writes several hooks overrides this to join the sites offered.

        Raises:
            InputError: several pairs of sites are offered, and the kind takes one.
        """
        return self.sites(only(offered))

    def given(self, mlp: MLPWeights | None) -> "DictionaryConfig[D]":
        """The config with the weights of the MLP between source and target, if the activations
        have them: overridden by a kind that is made of these weights."""
        return self

    @final
    def build(self, sites: Sites, *, seed: int = 0) -> D:
        """A fresh dictionary at `sites`, initialised from `seed` alone."""
        dictionary = self._build(sites, seed)
        dictionary.kind, dictionary.baseline = self.kind, self.baseline
        if dictionary.config is None:
            dictionary.config = self
        return dictionary

    @abstractmethod
    def _build(self, sites: Sites, seed: int) -> D:
        """The dictionary that `build` returns: supplied by a kind."""

    def restored(self, sites: Sites, tensors: Mapping[str, Tensor]) -> FeatureDictionary:
        """A dictionary shaped to receive saved `tensors`; override where they decide the shape."""
        return self.build(sites)

    @classmethod
    @abstractmethod
    def tiny(cls) -> "DictionaryConfig[D]":
        """The smallest useful instance: what the contract tests build and train."""


@dataclass(frozen=True, kw_only=True)
class GradientConfig(DictionaryConfig[D], ABC):
    """A kind that learns by gradient descent on an objective."""

    default_learning_rate: ClassVar[float] = 1e-3
    """Used where `FitConfig.learning_rate` is not set."""
    shards_features: ClassVar[bool] = False
    """Whether features may be divided between processes, so that sums over features and selections
    among them are computed over the process group. Subclasses do not inherit the declaration."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.shards_features = cls.__dict__.get("shards_features", False)

    @abstractmethod
    def objective(self) -> Objective:
        """The function from a `FitPass` to named loss terms."""

    def resampling(self) -> Resampling | None:
        """The resampling of dead features, or None."""
        return None


@dataclass(frozen=True, kw_only=True)
class ClosedFormConfig(DictionaryConfig[D], ABC):
    """A kind that learns from accumulated statistics, not from gradients."""

    @abstractmethod
    def learner(self, sites: Sites, *, seed: int) -> Learner:
        """A fresh learner whose `finish` returns the dictionary."""
