"""Weights between features, tokens and heads that no prompt enters.

With attention patterns, the scales of norms and the choice of features held, a contribution is a
coefficient times a number that depends on weights alone, divided by scales of norms (Dunefsky et
al. 2024, section 3, "input-invariant"; Elhage et al. 2021, "virtual weights"): this number.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dictlearn.circuits.encoders import encoder_directions
from dictlearn.circuits.unit_pass import UnitPass, unit_pass
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError
from dictlearn.lm.forward import activations_at
from dictlearn.lm.frozen import EMBEDDING
from dictlearn.lm.hooks import LanguageModel, require_hook, require_hooks
from dictlearn.lm.identity import require_same_model
from dictlearn.lm.sites import require_sites

Heads = Sequence[tuple[int, int]]
"""Attention heads as (layer, head), in the order in which information passes them."""
_TOKENS = 4096
"""Tokens that are embedded at once."""


def pullback(
    model: LanguageModel,
    dictionary: FeatureDictionary,
    features: Int[Tensor, " m"] | Sequence[int] | None = None,
    at: str | FeatureDictionary = EMBEDDING,
    *,
    heads: Heads = (),
    allow_other_model: bool = False,
) -> Float[Tensor, "m d"]:
    """The directions at an earlier hook that features of `dictionary` read, one per row.

    The product of a row with a vector written there at a token, divided by the scales of all norms
    on the way, is its contribution to the feature's score at the same token; the scale of a norm is
    the number it divides by on a prompt. Gains are part of the direction, and so is centring where
    the norm centres. With `heads`, it is the contribution at the last head's destination through
    this chain of heads alone, for patterns of 1: multiply by each head's pattern. The direction is
    the final slope of the score (`encoder_directions`), in the units of the score, which are those
    of the coefficient for linear kinds; multiply by the slope of a coefficient for others.

    The way leads along the residual stream only. What passes through other heads or MLPs, replaced
    or not, is not part of it.

    Args:
        model: the language model.
        dictionary: the one whose features read.
        features: of `dictionary`; all by default.
        at: a hook, or a dictionary that writes: all hooks of its target side by side. Hooks after
            the source of `dictionary`, or of the first head, have zeros.
        heads: attention heads as (layer, head), in order of layers.
        allow_other_model: also take dictionaries of another model.

    Raises:
        InputError: something does not fit the model, nothing written at `at` reaches the features
            on this way, or a feature reads no one direction.
        ProvenanceError: a dictionary was trained on another model, and `allow_other_model` is off.
    """
    chosen = _chosen(dictionary, features)
    used = {"the dictionary that reads": dictionary}
    if isinstance(at, FeatureDictionary):
        used["the dictionary that writes"] = at
    _require_fit(model, used, allow_other_model=allow_other_model)
    hooks = at.sites.target.hooks if isinstance(at, FeatureDictionary) else (at,)
    for hook in hooks:
        require_hook(model, hook)
    source = dictionary.sites.source
    run = unit_pass(model, source.hooks, hooks)
    _require_heads(model, run, heads)
    readers = source.split(encoder_directions(dictionary, chosen))
    seeds = [(run.sources[hook], part) for hook, part in zip(source.hooks, readers, strict=True)]
    for layer, head in reversed(heads):
        seeds = [(run.values[layer], _through(run, seeds, layer, head, model.cfg.n_heads))]
    found = run.back(seeds, [run.leaves[hook] for hook in hooks])
    if all(part is None for part in found):
        raise InputError(
            f"required a way from {' + '.join(hooks)} to {source}"
            f"{f' through heads {list(heads)}' if heads else ''}, got a hook that does not come "
            "before it in the residual stream; exchange the two, or choose earlier hooks"
        )
    filled = [
        readers[0].new_zeros(len(chosen), run.leaves[hook].shape[2]) if part is None else part
        for hook, part in zip(hooks, found, strict=True)
    ]
    return torch.cat([part.to(readers[0].dtype) for part in filled], dim=1)


def virtual_weights(
    model: LanguageModel,
    upstream: FeatureDictionary,
    downstream: FeatureDictionary,
    *,
    features: Int[Tensor, " m"] | Sequence[int] | None = None,
    heads: Heads = (),
    allow_other_model: bool = False,
) -> Float[Tensor, "m n_up"]:
    """The score of each feature of `downstream` per unit of each feature of `upstream`.

    Times the coefficient upstream, divided by the scales of the norms on the way, and times the
    patterns of `heads`, it is the edge of a prompt's graph on this way. A feature that writes at
    several hooks (a cross-layer transcoder's) counts with all those from which the way leads to the
    reader; the others add nothing. See `pullback` for the way, units and errors.
    """
    back = pullback(
        model, downstream, features, upstream, heads=heads, allow_other_model=allow_other_model
    )
    return back @ upstream.atoms.detach().to(back).T


def de_embedding(
    model: LanguageModel,
    dictionary: FeatureDictionary,
    features: Int[Tensor, " m"] | Sequence[int] | None = None,
    *,
    heads: Heads = (),
    allow_other_model: bool = False,
) -> Float[Tensor, "m vocab"]:
    """The score of each feature per token, from the token's embedding alone.

    Directly, at the token itself, or through `heads`, at later ones (Dunefsky et al. 2024,
    "de-embeddings"). Divided by the scales of the norms on the way, and times the patterns of
    `heads`, it is the edge from the token's embedding. See `pullback` for way, units and errors.
    """
    back = pullback(model, dictionary, features, heads=heads, allow_other_model=allow_other_model)
    ids = torch.arange(model.cfg.d_vocab)
    return torch.cat([
        back @ activations_at(model, part[:, None], [EMBEDDING])[EMBEDDING][:, 0].to(back).T
        for part in ids.split(_TOKENS)
    ], dim=1)  # fmt: skip


def _through(
    run: UnitPass, seeds: list[tuple[Tensor, Tensor]], layer: int, head: int, n_heads: int
) -> Float[Tensor, "m d_v"]:
    """The directions of value vectors that are read through a head, with a pattern of 1."""
    (found,) = run.back(seeds, [run.heads[layer]])
    if found is None:
        raise InputError(
            f"required heads that write before what reads them, got head {layer}.{head}, whose "
            "output does not come before it in the residual stream; choose an earlier layer"
        )
    d_head = found.shape[1] // n_heads
    n_values = run.values[layer].shape[2] // d_head
    read = found.new_zeros(len(found), n_values, d_head)
    read[:, head * n_values // n_heads] = found.unflatten(1, (n_heads, d_head))[:, head]
    return read.flatten(1)


def _chosen(
    dictionary: FeatureDictionary, features: Int[Tensor, " m"] | Sequence[int] | None
) -> Int[Tensor, " m"]:
    """The features as a vector of indices; all where None are given."""
    device, n = dictionary.x_mean.device, dictionary.n_features
    if features is None:
        return torch.arange(n, device=device)
    chosen = torch.as_tensor(features, device=device)
    whole = not (chosen.is_floating_point() or chosen.dtype == torch.bool) or not chosen.numel()
    if chosen.ndim != 1 or not whole or not bool(((chosen >= 0) & (chosen < n)).all()):
        raise InputError(f"required a list of features from 0 to {n - 1}, got {features!r:.80}")
    return chosen.long()


def _require_fit(
    model: LanguageModel, used: dict[str, FeatureDictionary], *, allow_other_model: bool
) -> None:
    require_hooks(model)
    if not allow_other_model:
        require_same_model(model, used)
    require_sites(model, {name: dictionary.sites for name, dictionary in used.items()})


def _require_heads(model: LanguageModel, run: UnitPass, heads: Heads) -> None:
    layers = [layer for layer, _ in heads]
    if layers != sorted(set(layers)) or not all(
        layer in run.heads and 0 <= head < model.cfg.n_heads for layer, head in heads
    ):
        raise InputError(
            f"required heads as (layer, head) in increasing order of layers, of {len(run.heads)} "
            f"layers with {model.cfg.n_heads} heads, got {list(heads)}"
        )
