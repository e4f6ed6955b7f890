"""Dictionaries in their places together: how well the model runs through all of them."""
