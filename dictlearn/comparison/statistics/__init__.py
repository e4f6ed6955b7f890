"""Intervals, tests and interpolation, computed from records."""
