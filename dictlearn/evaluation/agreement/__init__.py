"""Agreement of dictionaries on features, by atoms and by activations."""
