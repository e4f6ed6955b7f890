"""Evaluations of dictionaries on a model and tokens; each returns records."""
