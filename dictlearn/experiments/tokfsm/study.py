"""`dictlearn bench tokfsm`: Table 1 of Codebook Features, and what its codes stand for."""
