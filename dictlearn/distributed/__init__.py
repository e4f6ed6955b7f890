"""Several processes for one run: their group, and how batches and features are divided."""
