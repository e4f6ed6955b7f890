"""Data whose features are known."""
