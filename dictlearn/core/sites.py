"""Hook points of a language model that a dictionary reads and writes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dictlearn.core.errors import InputError


@dataclass(frozen=True, init=False)
class Site:
    """A hook point, or several whose activations are concatenated along the width.

    `Site("blocks.0.hook_mlp_out", 128)` has one; `Site(("a", "b"), (4, 8))` has width 12, with
    the first 4 dimensions from "a". Head axes are flattened.
    """

    hooks: tuple[str, ...]
    widths: tuple[int, ...]
    """The width at each hook."""

    def __init__(self, hook: str | Sequence[str], d: int | Sequence[int]) -> None:
        hooks = (hook,) if isinstance(hook, str) else _listed(hook)
        widths = tuple(map(_width, _listed(d) or (d,)))
        if not all(isinstance(name, str) for name in hooks):
            raise InputError(f"a site needs the name of a hook, or several names, got {hook!r:.80}")
        if not hooks or len(hooks) != len(widths) or len(set(hooks)) < len(hooks):
            raise InputError(
                f"a site needs different hooks and a width for each, got {hooks} and {widths}"
            )
        if min(widths) < 1:
            raise InputError(f"a site needs a width of at least 1, got {widths} at {hooks}")
        object.__setattr__(self, "hooks", hooks)
        object.__setattr__(self, "widths", widths)

    @classmethod
    def joined(cls, sites: "Iterable[Site]") -> "Site":
        """The site of all hooks of `sites`, in their order; a repeated hook counts once.

        Raises:
            InputError: a hook is repeated with another width.
        """
        at: dict[str, int] = {}
        for part in (part for site in sites for part in site.parts):
            width = at.setdefault(part.hook, part.d)
            if width != part.d:
                raise InputError(
                    f"required one width at {part.hook!r}, got {width} and {part.d}; make all "
                    "sites from one model"
                )
        return cls(tuple(at), tuple(at.values()))

    @property
    def hook(self) -> str:
        """The name of the only hook; an `InputError` if there are several."""
        if len(self.hooks) > 1:
            raise InputError(f"required a site of one hook here, got {self} ({len(self.hooks)})")
        return self.hooks[0]

    @property
    def d(self) -> int:
        """The sum of the widths of all hooks."""
        return sum(self.widths)

    @property
    def parts(self) -> "tuple[Site, ...]":
        """One site per hook."""
        return tuple(map(Site, self.hooks, self.widths))

    def split(self, x: Float[Tensor, "*b d"]) -> tuple[Float[Tensor, "*b _"], ...]:
        """The activations of each hook, without those of the others.

        Raises:
            InputError: `x` is not as wide as the site.
        """
        if x.ndim == 0 or x.shape[-1] != self.d:
            raise InputError(
                f"required activations of width {self.d} ({self}), got shape {tuple(x.shape)}"
            )
        return x.split(self.widths, dim=-1)

    def scale(self, scales: Sequence[Float[Tensor, ""]]) -> Float[Tensor, "*scale"]:
        """The scale of each dimension, from one scale per hook; a single number for one hook."""
        if len(scales) == 1:
            return scales[0]
        return torch.cat([s.expand(d) for s, d in zip(scales, self.widths, strict=True)])

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, read back by `from_dict`."""
        if len(self.hooks) == 1:
            return {"hook": self.hooks[0], "d": self.widths[0]}
        return {"hooks": list(self.hooks), "widths": list(self.widths)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Site":
        """The site that `to_dict` wrote."""
        if "hooks" in data:
            return cls(data["hooks"], data["widths"])
        return cls(data["hook"], data["d"])

    def __str__(self) -> str:
        return " + ".join(self.hooks)


@dataclass(frozen=True)
class Sites:
    """The hook points that a dictionary reads (`source`) and writes (`target`).

    Equal for an autoencoder, different for a transcoder.
    """

    source: Site
    target: Site

    @property
    def is_autoencoder(self) -> bool:
        """Whether source and target are one site."""
        return self.source == self.target

    @property
    def hooks(self) -> tuple[str, ...]:
        """The distinct hook names, source first."""
        return tuple(dict.fromkeys((*self.source.hooks, *self.target.hooks)))

    def at_target(self) -> "Sites":
        """The sites of an autoencoder that replaces the same tensor."""
        return Sites(self.target, self.target)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, read back by `from_dict`."""
        return {"source": self.source.to_dict(), "target": self.target.to_dict()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Sites":
        """The sites that `to_dict` wrote."""
        return cls(Site.from_dict(data["source"]), Site.from_dict(data["target"]))

    def __str__(self) -> str:
        if self.is_autoencoder:
            return str(self.target)
        return f"{self.source} -> {self.target}"


def only(offered: Sequence[Sites]) -> Sites:
    """The one pair of sites offered; an `InputError` if there are several to choose from."""
    if len(offered) != 1:
        raise InputError(
            f"these activations offer {len(offered)} sites ({'; '.join(map(str, offered))}), and "
            "one is required here. Choose with fit(…, sites=…), one for each dictionary if you "
            "like, or with activations.select(sites); on the command line with --at HOOK, or "
            "--at all for a dictionary at each"
        )
    return offered[0]


def _listed(value: Any) -> tuple[Any, ...]:
    """The items of a sequence, or () of what is none."""
    try:
        return tuple(value)
    except TypeError:
        return ()


def _width(d: Any) -> int:
    """A width as an `int`: whole numbers of any library, but no float, boolean or tensor."""
    if not isinstance(d, bool | Tensor):
        try:
            return index(d)
        except TypeError:
            pass
    raise InputError(f"a site needs a whole number as its width, got {d!r:.80}")
