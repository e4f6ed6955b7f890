"""Scripts that made the shipped language model `builtin:stories` and its corpus."""
