"""Complete comparisons: from the name of a model to a report."""
