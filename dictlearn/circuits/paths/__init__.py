"""Paths from a target back to features, heads and tokens, one hop at a time."""
