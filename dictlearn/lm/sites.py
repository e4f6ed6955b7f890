"""Sites of a language model: widths found by a forward pass over two tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from dictlearn.core.errors import InputError, nearest
from dictlearn.core.sites import ACTIVATION_FUNCTIONS, MLPWeights, Site, Sites
from dictlearn.core.tokens import Tokens
from dictlearn.lm.forward import reading
from dictlearn.lm.hooks import LanguageModel, hook_names, require_hooks

_SAME_FUNCTION = {"gelu_fast": "gelu_new", "gelu_pytorch_tanh": "gelu_new", "swish": "silu"}


def hook_sites(model: LanguageModel, hook: str | Sequence[str]) -> Sites:
    """The sites of an autoencoder at `hook`, or at several joined hooks; head axes are flattened.

    Raises:
        InputError: the hook does not exist, never fires, or has no vector for every token (an
            attention pattern, for instance).
    """
    hooks = (hook,) if isinstance(hook, str) else tuple(hook)
    at = _probe(model, hooks)
    site = Site(hooks, [at[name].shape[-1] for name in hooks])
    return Sites(site, site)


def mlp_sites(model: LanguageModel, layer: int) -> Sites:
    """The sites of a transcoder of an MLP: its input and its output.

    The source is the input of the first linear map, after any normalisation. `Sites.mlp` holds
    the weights between the two, as views of the model's own; it is None where they do not give
    the target from the source (mixtures of experts, unknown activation functions), which is tested.

    A `HookedTransformer` has no hook behind the scale and shift of a LayerNorm that was not
    folded on loading. Its source then lies before them, and `Sites.mlp` is None.

    Raises:
        InputError: there is no such layer, or no MLP with hooks on both sides in it.
    """
    n_layers = model.cfg.n_layers
    if not 0 <= layer < n_layers:
        raise InputError(f"required a layer from 0 to {n_layers - 1}, got {layer}")
    fallback = None
    for source, target in _mlp_hooks(model, layer):
        try:
            at = _probe(model, [source, target])
        except InputError:  # offered, but never computed: this MLP has no module of its own
            continue
        x, y = at[source], at[target]
        if torch.equal(x, y):  # one normalisation after the MLP, so not what the MLP reads
            continue
        sites = Sites(Site(source, x.shape[-1]), Site(target, y.shape[-1]))
        weights = _mlp_weights(model, layer, x, y)
        if weights is not None:
            return replace(sites, mlp=weights)
        fallback = fallback or sites
    if fallback is None:
        raise InputError(f"layer {layer} has no MLP with hooks before and after it; use hook_sites")
    return fallback


def require_sites(model: LanguageModel, users: Mapping[str, Sites]) -> None:
    """Check on two tokens that `model` has the hooks and widths of all sites, by who uses them.

    Raises:
        InputError: a hook does not exist (the nearest names are suggested), never fires, or has
            another width.
    """
    require_deterministic(model)
    names = hook_names(model)
    wanted = [
        (user, part) for user, at in users.items() for part in (*at.source.parts, *at.target.parts)
    ]
    for user, part in wanted:
        if part.hook not in names:
            raise InputError(
                f"{user} sits at {part.hook!r}, which this model does not have; "
                f"{nearest(part.hook, names)}"
            )
    found = _probe(model, list(dict.fromkeys(part.hook for _, part in wanted)))
    for user, part in wanted:
        width = found[part.hook].shape[-1]
        if part.d != width:
            raise InputError(
                f"{user} was made for width {part.d} at {part.hook!r}, and this model has width "
                f"{width} there; use the model it belongs to, or make the sites from this one"
            )


def require_readable(model: LanguageModel, tokens: Tokens) -> None:
    """Check that `model` can read `tokens`.

    Raises:
        InputError: one of them is something else, there are no tokens, one is not in the
            vocabulary, or a sequence is longer than the model's context.
    """
    require_hooks(model)
    if not isinstance(tokens, Tokens):
        raise InputError(
            f"required Tokens, as load_tokens(source, model) returns, got {type(tokens).__name__}"
        )
    if not tokens.ids.numel():
        raise InputError(f"required at least 1 token, got ids of shape {tuple(tokens.ids.shape)}")
    least, most = int(tokens.ids.min()), int(tokens.ids.max())
    if least < 0 or most >= model.cfg.d_vocab:
        raise InputError(
            f"required token ids from 0 to {model.cfg.d_vocab - 1}, the vocabulary of this model, "
            f"got {least} to {most}; make the tokens with this model's tokenizer"
        )
    n_ctx = getattr(model.cfg, "n_ctx", None)
    if n_ctx and tokens.ids.shape[1] > n_ctx:
        raise InputError(
            f"required sequences of at most {n_ctx} tokens, the context of this model, got "
            f"{tokens.ids.shape[1]}; pass context={n_ctx} to load_tokens"
        )


def require_deterministic(model: LanguageModel) -> None:
    """Check that two passes of `model` over the same tokens give the same.

    Raises:
        InputError: it is in training mode and has dropout.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) and module.training and module.p > 0:
            raise InputError(
                f"required a model in evaluation mode, got one with dropout at work ({name}, "
                f"p = {module.p}); call model.eval()"
            )


def _probe(model: LanguageModel, hooks: Sequence[str]) -> dict[str, Tensor]:
    """Activations of two short sequences.

    Two lengths are run: an attention pattern can pass for [b, pos, ...] at one, not at both.
    """
    ids = torch.arange(4).reshape(2, 2) % model.cfg.d_vocab
    with reading(model, hooks) as read:
        read(ids[:, :1])
        return read(ids)


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


def _mlp_weights(model: LanguageModel, layer: int, x: Tensor, y: Tensor) -> MLPWeights | None:
    """The weights of the MLP, if they give `y` from `x` up to rounding in the model's dtype."""
    tolerance = max(1e-5, 4 * torch.finfo(y.dtype).eps)
    candidates = _mlp_candidates(model, layer)
    for some in (candidates[:1], candidates[1:]):
        best = min(some, key=lambda mlp: _error(mlp, x, y), default=None)
        if best is not None and _error(best, x, y) <= tolerance:
            return best
    return None


def _mlp_candidates(model: LanguageModel, layer: int) -> list[MLPWeights]:
    """Candidates for the MLP: its weights with the config's activation function, then with others.

    Not every config is right: if a Hugging Face config names no activation function,
    TransformerLens assumes one.
    """
    mlp = model.blocks[layer].mlp
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
