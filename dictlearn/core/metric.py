"""A measured number, or why there is none."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """One number, or `nan` with the reason why there is none."""

    value: float
    reason: str = ""
