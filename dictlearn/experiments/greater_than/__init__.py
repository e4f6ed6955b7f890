"""Which years come later: features and neurons of an MLP, kept a few at a time."""
