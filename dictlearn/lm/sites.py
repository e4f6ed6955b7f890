"""Sites of a language model: widths found by a forward pass over two tokens."""

import logging
from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor, nn

from dictlearn.core.errors import InputError, nearest
from dictlearn.core.sites import Site, Sites
from dictlearn.core.tokens import Tokens
from dictlearn.lm.forward import reading
from dictlearn.lm.hooks import LanguageModel, hook_names, is_same_hook, require_hooks

logger = logging.getLogger(__name__)


def hook_sites(model: LanguageModel, hook: str | Sequence[str]) -> Sites:
    """The sites of an autoencoder at `hook`, or at several joined hooks; head axes are flattened.

    Raises:
        InputError: the hook does not exist, never fires, or has no vector for every token (an
            attention pattern, for instance), or two names are of one hook.
    """
    require_hooks(model)
    hooks = (hook,) if isinstance(hook, str) else tuple(hook) if isinstance(hook, Sequence) else ()
    if not hooks or not all(isinstance(name, str) for name in hooks):
        raise InputError(
            "hook_sites needs the name of a hook, such as 'blocks.0.hook_mlp_out', or a list of "
            f"names, got {hook!r:.80}"
        )
    require_different(model, hooks)
    at = probe(model, hooks)
    site = Site(hooks, [at[name].shape[-1] for name in hooks])
    return Sites(site, site)


def is_same_site(model: LanguageModel, site: Site, other: Site) -> bool:
    """Whether two sites are at the same hooks of `model`, in the same order, by whatever names."""
    return len(site.hooks) == len(other.hooks) and all(
        is_same_hook(model, *names) for names in zip(site.hooks, other.hooks, strict=True)
    )


def require_different(model: LanguageModel, hooks: Sequence[str]) -> None:
    """Raise an `InputError` if two names are of one hook: a site would have it twice."""
    for name, other in combinations(hooks, 2):
        if is_same_hook(model, name, other):
            raise InputError(
                f"required different hooks, got {name!r} and {other!r}, which are names of one "
                "hook of this model; keep one of them"
            )


def require_sites(model: LanguageModel, users: Mapping[str, Sites]) -> None:
    """Check on two tokens that `model` has the hooks and widths of all sites, by who uses them.

    Raises:
        InputError: a hook does not exist (the nearest names are suggested), never fires, has
            another width, or has two names in one site.
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
    for at in users.values():
        for site in (at.source, at.target):
            require_different(model, site.hooks)
    found = probe(model, list(dict.fromkeys(part.hook for _, part in wanted)))
    for user, part in wanted:
        width = found[part.hook].shape[-1]
        if part.d != width:
            raise InputError(
                f"{user} was made for width {part.d} at {part.hook!r}, and this model has width "
                f"{width} there; use the model it belongs to (in Python, or make the sites from "
                "this one)"
            )


def require_readable(model: LanguageModel, tokens: Tokens) -> None:
    """Check that `model` can read `tokens`; a line in the log if it will be slow.

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
    parameter = next(iter(model.parameters()))
    if parameter.device.type == "cpu" and not _is_multiplied(parameter.dtype):
        logger.warning(
            "the model computes in %s, for which this CPU has no instructions: it takes several "
            "times as long as float32; load it in float32 (its fingerprint is the same)",
            str(parameter.dtype).removeprefix("torch."),
        )


def _is_multiplied(dtype: torch.dtype) -> bool:
    """Whether the CPU has instructions for this precision, as far as torch can tell."""
    capabilities = getattr(torch.cpu, "get_capabilities", None)  # not in the oldest versions
    names = {torch.bfloat16: ("avx512_bf16", "amx_bf16", "bf16"),
             torch.float16: ("avx512_fp16", "amx_fp16", "fp16")}  # fmt: skip
    if capabilities is None or dtype not in names:
        return True
    has = capabilities()
    return any(has.get(name, False) for name in names[dtype])


def require_deterministic(model: LanguageModel) -> None:
    """Raise an `InputError` if two passes would differ: with dropout, in training mode."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) and module.training and module.p > 0:
            raise InputError(
                f"required a model in evaluation mode, got one with dropout at work ({name}, "
                f"p = {module.p}); call model.eval()"
            )


def probe(model: LanguageModel, hooks: Sequence[str]) -> dict[str, Tensor]:
    """Activations of two short sequences at each of `hooks`.

    Two lengths are run: an attention pattern can pass for [b, pos, ...] at one, not at both.
    """
    ids = torch.arange(4).reshape(2, 2) % model.cfg.d_vocab
    with reading(model, hooks) as read:
        read(ids[:, :1])
        return read(ids)
