"""The contract every other room speaks: sites, dictionaries, sparse coefficients, records."""
