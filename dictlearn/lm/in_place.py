"""Dictionaries in their places in a running model: what they read arrives where they write."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError
from dictlearn.core.sites import Site, Sites
from dictlearn.lm.forward import firing_order
from dictlearn.lm.hooks import LanguageModel, hook_points, is_same_hook
from dictlearn.lm.patching import Patch
from dictlearn.lm.sites import require_sites

Replace: TypeAlias = Callable[
    [Float[Tensor, "b pos d_in"], Float[Tensor, "b pos d_out"], Int[Tensor, "b pos"]],
    Float[Tensor, "b pos d_out"],
]
"""A function of source, target and positions of the tokens of a pass: the new target."""


class InPlace:
    """The functions at hooks by which a target is replaced, given the source in that very pass.

    A target of several hooks is replaced hook by hook, as the pass reaches them, and `replace` is
    called at each: with zeros in place of sources and targets that are still to come. Its last call
    in a pass sees everything.
    """

    def __init__(self, sites: Sites, replace: Replace) -> None:
        self._sites, self._replace = sites, replace
        self._read: dict[str, Tensor] = {}
        self._pass: Tensor | None = None

    def writers(self) -> dict[str, Patch]:
        """The function at each target hook."""
        return {hook: self._writer(hook) for hook in self._sites.target.hooks}

    def readers(self) -> dict[str, Patch]:
        """The function at each source hook that is no target as well."""
        hooks = [h for h in self._sites.source.hooks if h not in self._sites.target.hooks]
        return {hook: self._reader(hook) for hook in hooks}

    def _reader(self, hook: str) -> Patch:
        def read(x: Tensor, positions: Tensor) -> None:
            self._begin(positions)
            self._read[hook] = x

        return read

    def _writer(self, hook: str) -> Patch:
        target, source = self._sites.target, self._sites.source
        number = target.hooks.index(hook)

        def write(y: Tensor, positions: Tensor) -> Tensor:
            self._begin(positions)
            self._read[hook] = y
            whole = self._joined(target, y)
            x = whole if self._sites.is_autoencoder else self._joined(source, y)
            if all(name in self._read for name in target.hooks):
                self._read.clear()
            return target.split(self._replace(x, whole, positions))[number]

        return write

    def _begin(self, positions: Int[Tensor, "b pos"]) -> None:
        """Forget an earlier pass, which may have ended before its last hook."""
        if positions is not self._pass:
            self._read.clear()
            self._pass = positions

    def _joined(self, site: Site, like: Tensor) -> Tensor:
        """The activations read at the hooks of a site, zeros where none was."""
        parts = [
            self._read[part.hook] if part.hook in self._read
            else like.new_zeros(*like.shape[:2], part.d)
            for part in site.parts
        ]  # fmt: skip
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def functions_of(placed: Iterable[InPlace], model: LanguageModel) -> dict[str, list[Patch]]:
    """The functions of all, by hook: whoever reads at a hook where another writes sees the result.

    They are for checked sites (`require_order`). Several names of one hook become one.
    """
    placed, points = list(placed), hook_points(model)
    name_of: dict[int, str] = {}
    functions: dict[str, list[Patch]] = defaultdict(list)
    for own in (*(p.writers() for p in placed), *(p.readers() for p in placed)):
        for hook, function in own.items():
            functions[name_of.setdefault(id(points[hook]), hook)].append(function)
    return dict(functions)


def require_order(model: LanguageModel, dictionaries: Mapping[str, FeatureDictionary]) -> None:
    """Check that estimates can be made in the pass that they change.

    Raises:
        InputError: `model` does not have the hooks of a dictionary with their widths, or computes a
            target before something that its estimate depends on.
    """
    require_sites(model, {name: d.sites for name, d in dictionaries.items()})
    for name, dictionary in dictionaries.items():
        for source, target in product(dictionary.sites.source.hooks, dictionary.sites.target.hooks):
            if source != target and is_same_hook(model, source, target):
                raise InputError(
                    f"{name!r} reads {source!r} and writes {target!r}, which are two names of one "
                    "hook of this model; required one name, of an autoencoder"
                )
    hooks = dict.fromkeys(hook for d in dictionaries.values() for hook in d.sites.hooks)
    order = firing_order(model, torch.arange(2)[None] % model.cfg.d_vocab, list(hooks))
    for name, dictionary in dictionaries.items():
        if late := too_late(dictionary, order):
            raise InputError(
                f"{name!r} cannot run inside the model: its estimate at {late[1]!r} depends on "
                f"{late[0]!r}, which comes later in a pass; required a target after its sources"
            )


def too_late(dictionary: FeatureDictionary, order: Sequence[str]) -> tuple[str, str] | None:
    """A source that fires only after a target that depends on it, and that target; None if none."""
    for target in dictionary.sites.target.hooks:
        for source in dictionary.sources_of(target):
            if order.index(source) > order.index(target):
                return source, target
    return None


def shared_target(
    model: LanguageModel, dictionaries: Mapping[str, FeatureDictionary]
) -> tuple[str, str, str] | None:
    """A hook that two dictionaries replace, by whatever names, and their names; None if none."""
    points, owner = hook_points(model), dict[int, str]()
    for name, dictionary in dictionaries.items():
        for hook in dictionary.sites.target.hooks:
            other = owner.setdefault(id(points[hook]), name)
            if other != name:
                return hook, other, name
    return None
