"""Sparse linear algebra behind `SparseActs`: everything in a step beyond its one dense product."""
