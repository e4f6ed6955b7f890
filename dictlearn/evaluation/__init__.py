"""Dictionaries, a model and tokens become records."""
