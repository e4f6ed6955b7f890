"""Studies of models that run through their dictionaries."""
