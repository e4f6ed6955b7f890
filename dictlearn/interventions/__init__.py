"""Edits of features in a running model."""
