"""The prompts of the pronoun's circuit."""

from collections.abc import Mapping

SHE, HE = " She", " He"
NAMES: Mapping[str, str] = {
    "Lily": SHE, "Tom": HE, "Sara": SHE, "Ben": HE, "Mia": SHE, "Max": HE, "Lucy": SHE, "Tim": HE,
}  # fmt: skip
"""The names of the prompts, and the pronoun that each calls for."""
PROMPT = "One day, {} went to the park."
COUNTS = (1, 2, 4, 8, 16)
"""Numbers of nodes taken away together."""
