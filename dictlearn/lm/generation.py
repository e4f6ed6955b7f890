"""Sampling of text, in batches, with a key-value cache."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias, overload

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dictlearn.core.errors import InputError
from dictlearn.core.shortcuts import shortcuts_allowed
from dictlearn.lm.attention import Cached, cached_attention
from dictlearn.lm.hooks import LanguageModel, placed, require_hooks
from dictlearn.lm.saving import is_native
from dictlearn.lm.shadows import nearly_equal, shadowed
from dictlearn.progress import progress as progress_bar

logger = logging.getLogger(__name__)

Step: TypeAlias = Callable[[Int[Tensor, "b pos"]], Float[Tensor, "b vocabulary"]]
"""A function of all ids so far: the logits of the next token."""


@overload
def generate(
    model: LanguageModel, ids: Int[Tensor, "b pos"], n_new: int, *, seed: int = 0,
    temperature: float = 1.0, top_p: float = 1.0, stop: int | Sequence[int] | None = None,
    cached: bool = True, progress: bool = True,
) -> Int[Tensor, "b pos_and_new"]: ...  # fmt: skip


@overload
def generate(
    model: LanguageModel, ids: Sequence[Int[Tensor, " _"]], n_new: int, *, seed: int = 0,
    temperature: float = 1.0, top_p: float = 1.0, stop: int | Sequence[int] | None = None,
    cached: bool = True, progress: bool = True,
) -> list[Int[Tensor, " _"]]: ...  # fmt: skip


@torch.no_grad()
def generate(
    model: LanguageModel,
    ids: Int[Tensor, "b pos"] | Sequence[Int[Tensor, " _"]],
    n_new: int,
    *,
    seed: int = 0,
    temperature: float = 1.0,
    top_p: float = 1.0,
    stop: int | Sequence[int] | None = None,
    cached: bool = True,
    progress: bool = True,
) -> Int[Tensor, "b pos_and_new"] | list[Int[Tensor, " _"]]:
    """`ids`, each followed by `n_new` tokens that the model predicts.

    Tokens are drawn from the predictions at a `temperature` (0 for the most probable token), among
    the most probable ones whose probabilities reach `top_p` together. The draws are determined by
    `seed` and no other random state. A sequence that draws one of the `stop` tokens is filled with
    it, and generation ends when all have. Prompts of several lengths are given as a list, and
    returned as one; those of one length form a batch.

    Functions at hooks (`patched`, `inside`) take part, and see positions as without a cache. The
    cache is used if two passes with it agree with passes over all tokens; with `cached` off, or
    where they do not, every step runs over all tokens.

    Raises:
        InputError: an argument cannot work, or the text would exceed the model's context.
    """
    require_hooks(model)
    stops = [stop] if isinstance(stop, int) else list(stop or ())
    if isinstance(ids, Tensor):
        _require(model, ids, n_new, temperature, top_p, stops)
        return _generated(model, ids, n_new, seed, temperature, top_p, stops,
                          cached=cached, show=progress)  # fmt: skip
    prompts = list(ids)
    for prompt in prompts:
        _require(model, prompt.unsqueeze(0), n_new, temperature, top_p, stops)
    found: list[Tensor] = list(prompts)
    for length in sorted({len(prompt) for prompt in prompts}):
        own = [i for i, prompt in enumerate(prompts) if len(prompt) == length]
        batch = torch.stack([prompts[i] for i in own])
        rows = _generated(model, batch, n_new, seed + length, temperature, top_p, stops,
                          cached=cached, show=progress)  # fmt: skip
        for i, row in zip(own, rows, strict=True):
            found[i] = row
    return found


def _generated(
    model: LanguageModel, ids: Tensor, n_new: int, seed: int, temperature: float, top_p: float,
    stops: list[int], *, cached: bool, show: bool,
) -> Int[Tensor, "b pos_and_new"]:  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    found, done = ids.cpu(), torch.zeros(len(ids), dtype=torch.bool)
    with _stepping(model, found, cached=cached) as step, \
            progress_bar("generating", n_new, show=show) as report:  # fmt: skip
        for i in range(n_new):
            drawn = _drawn(step(found).cpu(), temperature, top_p, generator)
            if stops:
                drawn = torch.where(done, found[:, -1], drawn)
                done |= torch.isin(drawn, torch.tensor(stops))
            found = torch.cat([found, drawn.unsqueeze(1)], dim=1)
            report(i + 1)
            if stops and done.all():
                rest = found[:, -1:].expand(-1, n_new - i - 1)
                return torch.cat([found, rest], dim=1)
    return found


def _drawn(
    logits: Float[Tensor, "b vocabulary"],
    temperature: float,
    top_p: float,
    generator: torch.Generator,
) -> Int[Tensor, " b"]:
    """A token for each row."""
    if temperature == 0:
        return logits.argmax(dim=1)
    p = (logits.double() / temperature).softmax(dim=1)
    if top_p < 1:  # Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration"
        ordered, tokens = p.sort(dim=1, descending=True)
        ordered[ordered.cumsum(dim=1) - ordered >= top_p] = 0
        p = torch.zeros_like(p).scatter(1, tokens, ordered)
    return torch.multinomial(p, 1, generator=generator)[:, 0]


@contextmanager
def _stepping(model: LanguageModel, ids: Int[Tensor, "b pos"], *, cached: bool) -> Iterator[Step]:
    """A context with a function that gives the next logits, from a cache where it agrees."""

    def recomputed(ids: Int[Tensor, "b pos"]) -> Float[Tensor, "b vocabulary"]:
        logits: Tensor = model(placed(ids, model))
        return logits[:, -1]

    if not cached or not shortcuts_allowed() or not _agrees(model, ids, recomputed):
        yield recomputed
        return
    with ExitStack() as stack:
        yield _CachedSteps(model, stack)


def _agrees(model: LanguageModel, ids: Int[Tensor, "b pos"], recomputed: Step) -> bool:
    """Whether the cache gives the logits of the prompt, and of one token more."""
    longer = torch.cat([ids, ids[:, :1]], dim=1)
    if (n_ctx := getattr(model.cfg, "n_ctx", None)) and longer.shape[1] > n_ctx:
        longer = ids
    expected = torch.stack([recomputed(ids), recomputed(longer)])
    try:
        with ExitStack() as stack:
            step = _CachedSteps(model, stack)
            found = torch.stack([step(ids), step(longer)])
        agrees = nearly_equal(found, expected, 4)
    except InputError:  # of a function at a hook
        raise
    except Exception as error:  # models fail in many ways where they have no cache
        logger.info("no cache for generation: %s", error)
        agrees = False
    if not agrees:
        logger.warning("generation recomputes every token: a cache gives other logits here")
    return agrees


class _CachedSteps:
    """Logits of the next token from passes over the tokens that are new since the last call."""

    def __init__(self, model: LanguageModel, stack: ExitStack) -> None:
        self._model = model
        self._seen = 0
        self._cache: Any
        if is_native(model):
            self._cache = Cached()
            blocks: list[nn.Module] = [block.attn for block in model.blocks]
            stack.enter_context(
                shadowed({m: cached_attention(m, model.cfg.n_heads, self._cache) for m in blocks})
            )
        else:
            from transformers import DynamicCache

            self._cache = DynamicCache()

    def __call__(self, ids: Int[Tensor, "b pos"]) -> Float[Tensor, "b vocabulary"]:
        new = placed(ids[:, self._seen :], self._model)
        if not new.shape[1]:
            raise RuntimeError("no new token")
        places = torch.arange(self._seen, ids.shape[1], device=new.device).expand(len(ids), -1)
        options = {} if is_native(self._model) else {"use_cache": True}
        logits: Tensor = self._model(
            new, position_ids=places, past_key_values=self._cache, **options
        )  # fmt: skip
        self._seen = ids.shape[1]
        return logits[:, -1]


def _require(
    model: LanguageModel, ids: object, n_new: int, temperature: float, top_p: float,
    stops: list[int],
) -> None:  # fmt: skip
    n_vocab, n_ctx = model.cfg.d_vocab, getattr(model.cfg, "n_ctx", None)
    if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.is_floating_point() or not ids.numel():
        shape = tuple(ids.shape) if isinstance(ids, Tensor) else type(ids).__name__
        raise InputError(
            "required ids of shape [b, pos] with at least one token each, or a list of ids of "
            f"shape [pos], got {shape}"
        )
    if int(ids.min()) < 0 or int(ids.max()) >= n_vocab:
        raise InputError(
            f"required ids from 0 to {n_vocab - 1}, got {int(ids.min())} to {int(ids.max())}"
        )
    if n_new < 1 or not temperature >= 0 or not 0 < top_p <= 1:
        raise InputError(
            "required n_new of at least 1, temperature of at least 0 and top_p in (0, 1], got "
            f"n_new={n_new}, temperature={temperature}, top_p={top_p}"
        )
    if not all(0 <= token < n_vocab for token in stops):
        raise InputError(f"required stop tokens from 0 to {n_vocab - 1}, got {stops}")
    if n_ctx and ids.shape[1] + n_new > n_ctx:
        raise InputError(
            f"required at most {n_ctx} tokens, the context of this model, got {ids.shape[1]} and "
            f"{n_new} new ones"
        )
