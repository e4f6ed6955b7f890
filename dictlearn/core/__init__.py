"""Types and interfaces of all modules: sites, dictionaries, sparse coefficients, batches."""
