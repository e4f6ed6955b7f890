"""Activations of a model over many tokens, batch by batch, and what dictionaries make of them."""
