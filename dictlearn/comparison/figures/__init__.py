"""Figures of records and of training logs, and their image files."""
