"""Dictionaries that training starts from, in place of fresh ones."""

import logging
from collections.abc import Mapping
from copy import deepcopy
from hashlib import sha256

import torch
from safetensors.torch import save

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError, nearest
from dictlearn.core.kinds import DictionaryConfig
from dictlearn.core.learning import TrainableDictionary
from dictlearn.core.sites import Sites

_logger = logging.getLogger(__name__)
_ROUNDING = 1e-3
"""Relative change of atoms that is no more than a conversion between formats leaves."""


def starts(
    configs: Mapping[str, DictionaryConfig],
    sites: Mapping[str, Sites],
    init: FeatureDictionary | Mapping[str, FeatureDictionary],
) -> dict[str, TrainableDictionary]:
    """The dictionaries that training starts from, by name.

    Raises:
        InputError: one is not of the kind, or not of the shapes, that its config describes, or
            violates a constraint.
    """
    if not isinstance(init, Mapping):
        raise InputError(
            "required init as a dictionary for one config, and as a dict of dictionaries by name "
            f"for several, got {type(init).__name__} for {len(configs)} configs"
        )
    found: dict[str, TrainableDictionary] = {}
    for name, dictionary in init.items():
        if name not in configs:
            raise InputError(f"init is given for {name!r}, which no config has; "
                             f"{nearest(name, configs)}")  # fmt: skip
        if not isinstance(dictionary, TrainableDictionary):
            raise InputError(
                f"required a dictionary that learns by gradient descent as init of {name!r}, got "
                f"{type(dictionary).__name__}"
            )
        config = configs[name]
        wanted, got = (
            {key: tuple(t.shape) for key, t in d.state_dict().items()}
            for d in (config.build(sites[name]), dictionary)
        )
        if dictionary.kind != config.kind or wanted != got:
            differing = [
                f"{key} {got.get(key)} instead of {wanted.get(key)}"
                for key in sorted({*wanted, *got})
                if wanted.get(key) != got.get(key)
            ]
            raise InputError(
                f"required init of {name!r} of the kind {config.kind!r} and the shapes of its "
                f"config, got {dictionary.kind!r} with {', '.join(differing) or 'equal shapes'}; "
                "its own config is in `.config`"
            )
        if dictionary.sites != sites[name]:
            _logger.warning(
                "init of %r was made at %s, and is trained further at %s; it keeps its mean and "
                "scale", name, dictionary.sites, sites[name],
            )  # fmt: skip
        found[name] = _constrained(name, dictionary)
    return found


@torch.no_grad()
def _constrained(name: str, dictionary: TrainableDictionary) -> TrainableDictionary:
    """A copy that satisfies the constraints of training."""
    start = deepcopy(dictionary)
    start.constrain_()
    before = start.atoms.clone()
    start.project_()
    change = (start.atoms - before).norm() / before.norm().clamp_min(1e-12)
    if change > _ROUNDING:
        raise InputError(
            f"required init of {name!r} with atoms as training constrains them (of unit norm, in "
            f"standardized units), got a {dictionary.kind!r} whose atoms that would change by "
            f"{float(change):.2g} of their norm, and with them the features chosen"
        )
    return start


def weights_hash(dictionary: FeatureDictionary) -> str:
    """The SHA-256 of the weights."""
    state = {name: t.detach().cpu().contiguous() for name, t in dictionary.state_dict().items()}
    return sha256(save(state)).hexdigest()
