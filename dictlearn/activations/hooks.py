"""The hooks behind several sites, and rows checked against them."""

from collections.abc import Sequence

from dictlearn.core.batches import Rows
from dictlearn.core.errors import InputError
from dictlearn.core.sites import Site, Sites


def hook_widths(sites: Sequence[Sites]) -> dict[str, int]:
    """The width at each distinct hook, in the order of `sites`, sources first.

    Raises:
        InputError: there are no sites, or one hook has two widths.

    >>> hook_widths([Sites(Site("mlp.in", 4), Site("mlp.out", 8))])
    {'mlp.in': 4, 'mlp.out': 8}
    """
    if not sites:
        raise InputError("required at least one pair of sites, got none")
    joined = Site.joined([site for pair in sites for site in (pair.source, pair.target)])
    return dict(zip(joined.hooks, joined.widths, strict=True))


def require_hooks(rows: Rows, widths: dict[str, int]) -> None:
    """Raise an `InputError` unless `rows` has, at every hook, equally many rows of its width."""
    absent = widths.keys() - rows.at.keys()
    if absent:
        raise InputError(
            f"required rows at {', '.join(widths)}, got none at {', '.join(sorted(absent))}"
        )
    for hook, d in widths.items():
        required, got = (len(rows), d), tuple(rows.at[hook].shape)
        if got != required:
            raise InputError(f"required rows of shape {required} at hook {hook!r}, got {got}")
