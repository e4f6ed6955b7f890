"""How far dictionaries learned the same features, by atoms and by activations."""
