"""TokFSM: a transformer that learns a random walk on a graph, with codebooks inside.

Tamkin, Taufeeque and Goodman 2024, "Codebook Features", section 3.
"""
