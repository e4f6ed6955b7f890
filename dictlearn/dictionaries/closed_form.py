"""Learners with a closed-form solution, which share the training loop of gradient learners."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from dictlearn.core.batches import Batch
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.learning import Learner
from dictlearn.core.massive import massive


class MomentsLearner(Learner):
    """Accumulates the mean and the second moments of the target; solves at the end."""

    dictionary: "MomentsDictionary"

    def __init__(self, dictionary: "MomentsDictionary") -> None:
        self.dictionary = dictionary
        d = dictionary.sites.target.d
        self._sums = {
            "n": torch.zeros((), dtype=torch.float64),
            "y": torch.zeros(d, dtype=torch.float64),
            "yy": torch.zeros(d, d, dtype=torch.float64),
        }

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Add one batch to the sums."""
        y = batch.y.to("cpu", torch.float64)
        self._sums["n"] += len(y)
        self._sums["y"] += y.sum(dim=0)
        self._sums["yy"] += y.T @ y
        return {}

    def finish(self) -> FeatureDictionary:
        """The dictionary solved from the mean and covariance of the target."""
        if self._sums["n"] > 0:
            mean = self._sums["y"] / self._sums["n"]
            covariance = self._sums["yy"] / self._sums["n"] - torch.outer(mean, mean)
            self.dictionary.solve_(mean, covariance)
        return self.dictionary

    def state(self) -> dict[str, Tensor]:
        """The sums so far."""
        return dict(self._sums)

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from saved sums."""
        self._sums = {name: state[name].clone() for name in self._sums}


class RowsLearner(Learner):
    """Keeps the first rows of the (shuffled) stream; fits on them at the end."""

    dictionary: "RowsDictionary"

    def __init__(self, dictionary: "RowsDictionary", max_rows: int) -> None:
        self.dictionary = dictionary
        self._max_rows = max_rows
        self._rows = torch.empty(0, dictionary.sites.target.d)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Keep the rows of one batch, up to the limit."""
        missing = self._max_rows - len(self._rows)
        if missing > 0:
            rows = batch.y[:missing].to("cpu", self.dictionary.x_mean.dtype)
            self._rows = torch.cat([self._rows, rows])
        return {}

    def finish(self) -> FeatureDictionary:
        """The dictionary fitted to the rows kept."""
        if len(self._rows) > 0:
            rows, site = self._rows.double(), self.dictionary.sites.target
            within = rows[~massive(rows, site)]
            mean = within.mean(dim=0)
            variances = [part.pow(2).mean() for part in site.split(within - mean)]
            scale = site.scale([v.sqrt() if v > 0 else torch.ones_like(v) for v in variances])
            self.dictionary.standardize_(mean, scale, mean, scale)
            self.dictionary.solve_(((rows - mean) / scale).to(self._rows.dtype))
        return self.dictionary

    def state(self) -> dict[str, Tensor]:
        """The rows so far."""
        return {"rows": self._rows}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from saved rows."""
        self._rows = state["rows"].clone()


class MomentsDictionary(FeatureDictionary, ABC):
    """An autoencoder solved from the mean and covariance of its site."""

    @abstractmethod
    def solve_(self, mean: Float[Tensor, " d"], covariance: Float[Tensor, "d d"]) -> None:
        """Set every parameter, from float64 moments in raw units."""


class RowsDictionary(FeatureDictionary, ABC):
    """An autoencoder fitted to a sample of rows."""

    @abstractmethod
    def solve_(self, z: Float[Tensor, "n d"]) -> None:
        """Set every parameter, from standardized rows."""
