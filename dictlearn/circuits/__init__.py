"""Circuits: what earlier features, tokens and errors contribute to a feature or a logit."""
