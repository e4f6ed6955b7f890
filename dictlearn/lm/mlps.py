"""MLPs of a language model: their sites and their weights."""

import re
from numbers import Integral

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from dictlearn.core.errors import InputError
from dictlearn.core.mlp_weights import ACTIVATION_FUNCTIONS, MLPWeights
from dictlearn.core.sites import Site, Sites
from dictlearn.lm.hooks import LanguageModel, hook_names, require_hooks
from dictlearn.lm.sites import probe

_SAME_FUNCTION = {"gelu_fast": "gelu_new", "gelu_pytorch_tanh": "gelu_new", "swish": "silu"}


def mlp_sites(model: LanguageModel, layer: int) -> Sites:
    """The sites of a transcoder of an MLP: its input and its output.

    The source is the input of the first linear map, after any normalisation, where the model has
    a hook there. (A `HookedTransformer` has none behind the scale and shift of a LayerNorm that
    was not folded on loading: its source then lies before them, and `mlp_weights` is None.)

    Raises:
        InputError: there is no such layer, or no MLP with hooks on both sides in it.
    """
    require_hooks(model)
    n_layers = model.cfg.n_layers
    if not isinstance(layer, Integral) or isinstance(layer, bool) or not 0 <= layer < n_layers:
        raise InputError(
            f"required a layer from 0 to {n_layers - 1}, got {layer!r:.80} (in Python, for several "
            "layers, call mlp_sites for each)"
        )
    found = []
    for source, target in _mlp_hooks(model, layer):
        try:
            at = probe(model, [source, target])
        except InputError:  # offered, but never computed: this MLP has no module of its own
            continue
        x, y = at[source], at[target]
        if torch.equal(x, y):  # one normalisation after the MLP, so not what the MLP reads
            continue
        sites = Sites(Site(source, x.shape[-1]), Site(target, y.shape[-1]))
        if _weights(model, layer, x, y) is not None:
            return sites
        found.append(sites)
    if not found:
        raise InputError(f"layer {layer} has no MLP with hooks before and after it; use hook_sites")
    return found[0]


def mlp_weights(model: LanguageModel, sites: Sites) -> MLPWeights | None:
    """The weights of the MLP from `sites.source` to `sites.target`, as views of the model's own.

    None where no weights give the target from the source, which is tested: other sites than those
    of `mlp_sites`, mixtures of experts, unknown activation functions.

    Raises:
        InputError: `sites` is something else, or the model does not have its hooks.
    """
    require_hooks(model)
    if not isinstance(sites, Sites):
        raise InputError(
            "mlp_weights needs Sites, as mlp_sites(model, layer) returns, got "
            f"{type(sites).__name__}: {sites!s:.80}"
        )
    layer = re.match(r"blocks\.(\d+)\.", sites.target.hooks[0])
    one_each = len(sites.source.hooks) == len(sites.target.hooks) == 1
    if layer is None or not one_each or sites.is_autoencoder:
        return None
    at = probe(model, sites.hooks)
    return _weights(model, int(layer[1]), at[sites.source.hook], at[sites.target.hook])


def _mlp_hooks(model: LanguageModel, layer: int) -> list[tuple[str, str]]:
    """Pairs of hooks that may be an MLP's input and output, the likeliest first."""
    pairs = (
        ("mlp.hook_in", "mlp.hook_out"),
        ("mlp.in.hook_in", "mlp.out.hook_out"),
        ("ln2.hook_normalized", "hook_mlp_out"),
        ("hook_resid_mid", "hook_mlp_out"),
    )
    names = set(hook_names(model))
    named = [(f"blocks.{layer}.{source}", f"blocks.{layer}.{target}") for source, target in pairs]
    return [pair for pair in named if names.issuperset(pair)]


def _weights(model: LanguageModel, layer: int, x: Tensor, y: Tensor) -> MLPWeights | None:
    """The weights of the MLP, if they give `y` from `x` up to rounding in the model's dtype."""
    tolerance = max(1e-5, 4 * torch.finfo(y.dtype).eps)
    candidates = _candidates(model, layer)
    for some in (candidates[:1], candidates[1:]):
        best = min(some, key=lambda mlp: _error(mlp, x, y), default=None)
        if best is not None and _error(best, x, y) <= tolerance:
            return best
    return None


def _candidates(model: LanguageModel, layer: int) -> list[MLPWeights]:
    """Candidates for the MLP: its weights with the config's activation function, then with others.

    Not every config is right: if a Hugging Face config names no activation function,
    TransformerLens assumes one.
    """
    mlp = getattr(model.blocks[layer], "mlp", None)
    W_in, W_out = _matrix(mlp, "W_in"), _matrix(mlp, "W_out")
    if W_in is None or W_out is None:
        return []
    named = str(model.cfg.act_fn)
    act_names = dict.fromkeys((_SAME_FUNCTION.get(named, named), *ACTIVATION_FUNCTIONS))
    return [
        MLPWeights(
            W_in=W_in,
            b_in=_bias(mlp, "b_in", W_in),
            W_out=W_out,
            b_out=_bias(mlp, "b_out", W_out),
            act_name=act_name,
            W_gate=_matrix(mlp, "W_gate"),
        )
        for act_name in act_names
        if act_name in ACTIVATION_FUNCTIONS
    ]


def _matrix(mlp: object, name: str) -> Tensor | None:
    value = getattr(mlp, name, None)
    return value.detach() if isinstance(value, Tensor) and value.ndim == 2 else None


def _bias(mlp: object, name: str, weight: Tensor) -> Tensor:
    value = getattr(mlp, name, None)
    return value.detach() if isinstance(value, Tensor) else weight.new_zeros(weight.shape[1])


def _error(
    mlp: MLPWeights, x: Float[Tensor, "b pos d_in"], y: Float[Tensor, "b pos d_out"]
) -> float:
    """The norm of the error of the weights' output, relative to that of `y`."""
    if (mlp.W_in.shape[0], mlp.W_out.shape[1]) != (x.shape[-1], y.shape[-1]):
        return torch.inf
    rows_x, rows_y = (rearrange(at, "b pos d -> (b pos) d") for at in (x, y))
    y_hat = mlp.hidden(rows_x) @ mlp.W_out + mlp.b_out
    return float((y_hat - rows_y).norm() / y.norm().clamp_min(1e-30))
