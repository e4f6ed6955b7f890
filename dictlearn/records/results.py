"""The records of `evaluate`: metrics of dictionaries, and all that a comparison needs.

Beside the pooled metrics, a record keeps the sums of every sequence that they were pooled from,
so that confidence intervals can be computed later, and the density of every feature.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from dictlearn.core.files import JSON_FORMAT, read_tensors, typed
from dictlearn.core.metric import Metric
from dictlearn.core.own_files import OwnFiles
from dictlearn.core.provenance import Provenance
from dictlearn.core.sites import Sites
from dictlearn.records.base import (
    FORMER_BASELINES,
    SavedRecords,
    listed,
    metric_from_json,
    metric_to_json,
)

if TYPE_CHECKING:
    import pandas as pd

RESULTS_FILE = "results.json"
SUMS_FILE = "sums.safetensors"


CLEAN_PASS, RUNNING_MODEL = "clean pass", "running model"
"""The activations that the estimates of spliced passes are made from."""


@dataclass(frozen=True)
class DictionaryRecord:
    """The results of one dictionary: its metrics, the sums behind them, and its densities."""

    kind: str
    sites: Sites
    n_features: int
    provenance: Provenance
    metrics: dict[str, Metric]
    sums: dict[str, Float[Tensor, " sequence"]]
    """Sums over the non-special tokens of a sequence, in float64 (`metrics.pooled.SUMS`)."""
    density: Float[Tensor, " feature"]
    """Fraction of non-special tokens on which each feature is active."""
    baseline: bool = False
    """Whether its kind is a baseline."""
    estimates: str = CLEAN_PASS
    """Whether spliced estimates were made in the clean pass, or in the running model itself."""

    def __repr__(self) -> str:
        shown = ("l0", "fraction_variance_unexplained")
        numbers = (f", {key} {self.metrics[key].value:.4g}" for key in shown if key in self.metrics)
        return (
            f"DictionaryRecord({self.kind}, {self.n_features} features, {self.sites}"
            f"{''.join(numbers)})"
        )

    @property
    def place(self) -> str:
        """The target, and whether estimates are of the running model: losses are comparable only
        between dictionaries of one place."""
        suffix = " (replacement model)" if self.estimates == RUNNING_MODEL else ""
        return f"{self.sites.target}{suffix}"

    @property
    def seed(self) -> int | None:
        """The seed of the training run, if it had one."""
        return self.provenance.seed


@dataclass(frozen=True, repr=False)
class Records(SavedRecords):
    """The results of several dictionaries on the same tokens of one model."""

    file: ClassVar[str] = RESULTS_FILE
    kind: ClassVar[str] = "results"
    remake: ClassVar[str] = "evaluate again"
    maker: ClassVar[str] = "evaluate"

    dictionaries: dict[str, DictionaryRecord]

    def to_pandas(self) -> "pd.DataFrame":
        """A table with one row for each dictionary and one column for each metric."""
        import pandas as pd

        rows = {
            name: {metric: m.value for metric, m in record.metrics.items()}
            for name, record in self.dictionaries.items()
        }
        frame = pd.DataFrame.from_dict(rows, orient="index")
        return frame.rename_axis("dictionary")

    def _write_tensors(self, own: OwnFiles) -> dict[str, Any]:
        own.require(RESULTS_FILE, SUMS_FILE)
        tensors: dict[str, Tensor] = {}
        for name, record in self.dictionaries.items():
            tensors |= {f"sums/{key}/{name}": value for key, value in record.sums.items()}
            tensors[f"density/{name}"] = record.density
        own.remove(RESULTS_FILE)  # or an interruption would pair old results with new sums
        own.write_tensors(SUMS_FILE, tensors, {"format": str(JSON_FORMAT)})
        return {"sums_sha256": own.sha256(SUMS_FILE)}

    def _in_words(self) -> str:
        return listed(self.dictionaries)

    def _entries(self) -> dict[str, Any]:
        return {
            "dictionaries": {
                name: {
                    "kind": record.kind,
                    "sites": record.sites.to_dict(),
                    "n_features": record.n_features,
                    "seed": record.seed,
                    "baseline": record.baseline,
                    "estimates": record.estimates,
                    "provenance": record.provenance.to_dict(),
                    "metrics": {key: metric_to_json(m) for key, m in record.metrics.items()},
                }
                for name, record in self.dictionaries.items()
            },
        }

    @classmethod
    def _from_entries(
        cls, provenance: Provenance, tokens: dict[str, Any], data: dict[str, Any], folder: Path
    ) -> "Records":
        tensors = read_tensors(folder / SUMS_FILE, data.get("sums_sha256"))
        dictionaries = {
            name: _record_from_json(name, entry, tensors)
            for name, entry in data["dictionaries"].items()
        }
        return cls(provenance, tokens, dictionaries)


def _record_from_json(
    name: str, entry: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> DictionaryRecord:
    return DictionaryRecord(
        kind=typed(entry["kind"], str),
        sites=Sites.from_dict(entry["sites"]),
        n_features=typed(entry["n_features"], int),
        provenance=Provenance.from_dict(entry["provenance"]),
        metrics={key: metric_from_json(m) for key, m in entry["metrics"].items()},
        sums={
            path[1]: tensor
            for path, tensor in ((key.split("/", 2), t) for key, t in tensors.items())
            if path[0] == "sums" and path[2] == name
        },
        density=tensors[f"density/{name}"],
        baseline=typed(entry.get("baseline", entry["kind"] in FORMER_BASELINES), bool),
        estimates=typed(entry.get("estimates", CLEAN_PASS), str),
    )
