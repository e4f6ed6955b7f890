"""A measured number, or the reason for its absence."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """One number, or `nan` with a reason."""

    value: float
    reason: str = ""
