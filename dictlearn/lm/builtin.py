"""The models that come with the package."""

from types import MappingProxyType

BUILTIN_MODELS = MappingProxyType(
    {"builtin:stories": "a small GPT trained on short children's stories; needs no network"}
)
"""The models that come with the package, each with a line about it."""
