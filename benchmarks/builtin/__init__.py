"""How the shipped language model `builtin:stories` and its corpus were made."""
