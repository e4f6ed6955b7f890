"""Corpora as fixed-length blocks of tokens, split by document and hashed."""
