"""How much of the model's activations, and of its predictions, dictionaries keep."""
