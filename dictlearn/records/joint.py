"""The records of `evaluate_together`: the model that runs through sets of dictionaries."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dictlearn.core.files import typed
from dictlearn.core.provenance import Provenance
from dictlearn.records.base import SavedRecords, listed, with_nan, without_nan

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Measured:
    """A metric of a running model, with the ends of its 95 % interval; `nan` where undefined."""

    value: float
    low: float = math.nan
    high: float = math.nan
    reason: str = ""
    """The reason why there is no value."""


@dataclass(frozen=True)
class SetRecord:
    """The model that runs through some dictionaries."""

    dictionaries: tuple[str, ...]
    metrics: dict[str, Measured]
    """By name: as of one dictionary, where "zero" is the ablation of all targets together."""


@dataclass(frozen=True, repr=False)
class JointRecords(SavedRecords):
    """The results of several sets of dictionaries, each in place together, on the same tokens."""

    file: ClassVar[str] = "joint.json"
    kind: ClassVar[str] = "results of dictionaries together"
    remake: ClassVar[str] = "evaluate together again"
    maker: ClassVar[str] = "evaluate_together"

    sets: dict[str, SetRecord]

    def to_pandas(self) -> "pd.DataFrame":
        """A table with one row for each set; `METRIC_low` and `METRIC_high` are its interval."""
        import pandas as pd

        rows = {
            name: {
                f"{metric}{end}": value
                for metric, m in record.metrics.items()
                for end, value in (("", m.value), ("_low", m.low), ("_high", m.high))
            }
            for name, record in self.sets.items()
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("set")

    def _in_words(self) -> str:
        return listed(self.sets)

    def _entries(self) -> dict[str, Any]:
        return {
            "sets": {
                name: {
                    "dictionaries": list(record.dictionaries),
                    "metrics": {k: without_nan(vars(m)) for k, m in record.metrics.items()},
                }
                for name, record in self.sets.items()
            }
        }

    @classmethod
    def _from_entries(
        cls, provenance: Provenance, tokens: dict[str, Any], data: dict[str, Any], folder: Path
    ) -> "JointRecords":
        return cls(provenance, tokens, {n: _from_json(e) for n, e in data["sets"].items()})


def _from_json(entry: Mapping[str, Any]) -> SetRecord:
    return SetRecord(
        tuple(typed(entry["dictionaries"], list[str])),
        {name: typed(with_nan(m), Measured) for name, m in entry["metrics"].items()},
    )
