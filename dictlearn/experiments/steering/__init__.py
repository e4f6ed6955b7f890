"""Topic steering: texts pushed towards a topic, by features of several families.

Tamkin, Taufeeque and Goodman 2024, "Codebook Features", section 5.
"""
