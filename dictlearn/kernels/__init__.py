"""Sparse linear algebra behind `SparseActs`: what a step costs beyond its one dense product."""
