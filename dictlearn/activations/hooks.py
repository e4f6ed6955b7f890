"""The hooks behind several sites, and rows checked against them."""

from collections.abc import Sequence

from dictlearn.core.batches import Rows
from dictlearn.core.errors import InputError
from dictlearn.core.sites import Sites


def hook_widths(sites: Sequence[Sites]) -> dict[str, int]:
    """The width at each distinct hook, in the order of `sites`, sources first.

    Raises:
        InputError: there are no sites, or one hook has two widths.

    >>> from dictlearn.core.sites import Site
    >>> hook_widths([Sites(Site("mlp.in", 4), Site("mlp.out", 8))])
    {'mlp.in': 4, 'mlp.out': 8}
    """
    if not sites:
        raise InputError("required at least one pair of sites, got none")
    widths: dict[str, int] = {}
    for pair in sites:
        for site in (*pair.source.parts, *pair.target.parts):
            if widths.setdefault(site.hook, site.d) != site.d:
                raise InputError(
                    f"required one width per hook, got {widths[site.hook]} and {site.d} at "
                    f"{site.hook!r}"
                )
    return widths


def require_hooks(rows: Rows, widths: dict[str, int]) -> None:
    """Check that `rows` holds, at every hook, equally many rows of its width.

    Raises:
        InputError: a hook is absent, or a tensor has another shape.
    """
    absent = widths.keys() - rows.at.keys()
    if absent:
        raise InputError(
            f"required rows at {', '.join(widths)}, got none at {', '.join(sorted(absent))}"
        )
    for hook, d in widths.items():
        required, got = (len(rows), d), tuple(rows.at[hook].shape)
        if got != required:
            raise InputError(f"required rows of shape {required} at hook {hook!r}, got {got}")
