"""Which few features make a model choose a pronoun, beside neurons and random features."""
