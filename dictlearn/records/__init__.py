"""Results of evaluations as data, saved and loaded without a model or a dictionary."""
