"""Generation: batched, seeded, and with a key-value cache where it changes nothing."""

import logging
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dictlearn.core.errors import InputError
from dictlearn.core.numbers import counts, finite, whole
from dictlearn.core.shortcuts import shortcuts_allowed
from dictlearn.lm.hooks import LanguageModel, placed, require_hooks
from dictlearn.lm.next_logits import NextLogits, recomputed, with_cache
from dictlearn.lm.sampling import next_tokens
from dictlearn.lm.shadows import nearly_equal
from dictlearn.lm.sites import require_deterministic
from dictlearn.progress import progress

logger = logging.getLogger(__name__)

_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
"""The types of token ids."""

_moved: ContextVar[Int[Tensor, " b"] | None] = ContextVar("moved", default=None)
"""The padding that the current pass has at the end of each row, in tokens."""


def without_padding(positions: Int[Tensor, "b pos"]) -> Int[Tensor, "b pos"]:
    """The positions of a pass as they are, but -n to -1 for the n tokens of padding that `generate`
    moves to the end of a row when it recomputes everything."""
    if (padding := _moved.get()) is None:
        return positions
    width = positions.shape[1]
    ends = width - padding.to(positions.device).unsqueeze(1)
    return positions.where(positions < ends, positions - width)


@torch.no_grad()
def generate(
    model: LanguageModel,
    ids: Int[Tensor, "b pos"],
    n_new: int,
    *,
    mask: Bool[Tensor, "b pos"] | Int[Tensor, "b pos"] | None = None,
    seed: int = 0,
    temperature: float | int = 1.0,
    top_p: float | int = 1.0,
    stop: int | Sequence[int] | Tensor | None = None,
    cached: bool = True,
) -> Int[Tensor, "b longer"]:
    """`ids`, each sequence continued by up to `n_new` tokens.

    Functions at hooks of the model (`patched`, `inside`) take part; `patched` tells them the
    positions of tokens in their sequences, also under the cache. Random numbers are drawn from
    `seed` alone, on the device of the model, and the global ones are left as they are. What a
    sequence becomes does not depend on `n_new`, nor on when others stop.

    With a key-value cache, a pass runs the new tokens only. The logits of the first two steps and
    of the last are compared with those of passes over all tokens. If they differ by more than
    rounding, all is generated again without the cache, and a line in the log says so.

    Args:
        model: a model with TransformerLens hooks, in evaluation mode.
        ids: prompts; shorter ones padded on the left, with any token.
        n_new: the most tokens to add. Fewer are added only if all sequences have stopped.
        mask: 1 at tokens of the prompts and 0 at padding, such as a tokenizer's `attention_mask`.
        seed: the same seed gives the same tokens, on the same kind of device.
        temperature: divides the logits; 0 chooses the most probable token.
        top_p: the mass of the most probable tokens among which one is drawn (nucleus sampling,
            Holtzman et al. 2020).
        stop: a token, or several. A sequence is filled with the one at which it stopped.
        cached: whether a cache may be used.

    Raises:
        InputError: an argument has a wrong shape or value, or sequences would become longer than
            the model's context.
        NonFiniteError: the model's logits are nan or infinite.
    """
    require_hooks(model)
    require_deterministic(model)
    _require_prompts(model, ids)
    n_new, seed = _required_new(model, ids, n_new), _required_seed(seed)
    temperature, top_p = _required_distribution(temperature, top_p)
    start = placed(ids, model).long()
    stops = _stops(model, stop).to(start.device)
    padding = _padding(ids, mask).to(start.device)
    plain = _told(recomputed(model, padding), padding)

    def grown(next_logits: NextLogits) -> Int[Tensor, "b longer"]:
        generator = torch.Generator(start.device).manual_seed(seed)
        draw = partial(next_tokens, temperature=temperature, top_p=top_p, generator=generator)
        return _grown(lambda ids: draw(next_logits(ids)), start, n_new, stops).to(ids.device)

    if cached and shortcuts_allowed():
        try:
            fast = with_cache(model, padding, start.shape[1] + n_new)
            compared = _Compared(fast, plain, 1 + model.cfg.n_layers)
            tokens = grown(compared)
            compared.compare_last()
            return tokens
        except _Differs as reason:
            logger.warning("generating without a key-value cache, since with it %s", reason)
    return grown(plain)


def _told(next_logits: NextLogits, padding: Int[Tensor, " b"]) -> NextLogits:
    """The same logits; in the passes, `without_padding` knows of so much padding at the end."""

    def told(ids: Int[Tensor, "b pos"]) -> Float[Tensor, "b vocabulary"]:
        before = _moved.set(padding)
        try:
            return next_logits(ids)
        finally:
            _moved.reset(before)

    return told


def _grown(
    next_tokens: Callable[[Int[Tensor, "b pos"]], Int[Tensor, " b"]],
    ids: Int[Tensor, "b pos"],
    n_new: int,
    stops: Int[Tensor, " m"],
) -> Int[Tensor, "b longer"]:
    """`ids` and the next tokens, one after another, until all sequences have stopped."""
    b, pos = ids.shape
    tokens = torch.cat([ids, ids.new_zeros(b, n_new)], dim=1)
    stopped = torch.zeros(b, dtype=torch.bool, device=ids.device)
    with progress("generate", n_new) as show:
        for step in range(n_new):
            end = pos + step
            drawn = next_tokens(tokens[:, :end])
            tokens[:, end] = drawn.where(~stopped, tokens[:, end - 1])
            stopped |= torch.isin(drawn, stops)
            show(step + 1)
            if stopped.all():
                return tokens[:, : end + 1]
    return tokens


class _Differs(Exception):  # noqa: N818 - a signal, not an error
    """Ends generation with a cache that fails or gives other logits than recomputation."""


class _Compared:
    """The logits with a cache, compared with recomputed ones in the first two steps."""

    def __init__(self, fast: NextLogits, plain: NextLogits, n_steps: int) -> None:
        self._fast, self._plain, self._n_steps = fast, plain, n_steps
        self._n_calls = 0
        self._last: tuple[Tensor, Tensor] | None = None

    def __call__(self, ids: Int[Tensor, "b pos"]) -> Float[Tensor, "b vocabulary"]:
        self._n_calls += 1
        if self._n_calls > 2:
            logits = self._fast(ids)
            self._last = (ids, logits)
            return logits
        try:
            logits = self._fast(ids)
        except Exception as error:  # models without a usable cache fail in any way
            raise _Differs(f"the model fails ({type(error).__name__}: {error!s:.200})") from error
        self._compare(ids, logits)
        return logits

    def compare_last(self) -> None:
        """Compare the logits of the last step, which rest on all that the cache holds."""
        if self._last is not None:
            self._compare(*self._last)

    def _compare(self, ids: Tensor, logits: Tensor) -> None:
        # Transposed, so that the measure is what varies between tokens of the vocabulary: prompts
        # may all be alike.
        if not nearly_equal(logits.T, self._plain(ids).T, self._n_steps):
            raise _Differs(f"other logits follow {ids.shape[1]} tokens")


def _require_prompts(model: LanguageModel, ids: object) -> None:
    if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.dtype not in _WHOLE:
        given = f"{list(ids.shape)} of {ids.dtype}" if isinstance(ids, Tensor) else f"{ids!r:.80}"
        raise InputError(
            f"required token ids of shape [b, pos], got {given}; ids[None] makes one sequence a "
            "batch, and a tokenizer pads several (padding_side='left'; give its attention_mask as "
            "mask)"
        )
    if not ids.numel():
        raise InputError(
            f"required prompts of at least 1 token, got ids of shape {list(ids.shape)}; give the "
            "token with which texts begin"
        )
    least, most, n_vocab = int(ids.min()), int(ids.max()), model.cfg.d_vocab
    if least < 0 or most >= n_vocab:
        raise InputError(
            f"required token ids from 0 to {n_vocab - 1}, the vocabulary of this model, got "
            f"{least} to {most}; use this model's tokenizer"
        )


def _required_new(model: LanguageModel, ids: Int[Tensor, "b pos"], given: object) -> int:
    """The most tokens to add, which the model's context holds."""
    n_new, n_ctx, pos = whole(given), getattr(model.cfg, "n_ctx", None), ids.shape[1]
    if n_new is None or n_new < 1:
        raise InputError(f"required a number of new tokens n_new of at least 1, got {given!r:.80}")
    if n_ctx and pos + n_new > n_ctx:
        raise InputError(
            f"required at most {n_ctx} tokens a sequence, the context of this model, got prompts "
            f"of {pos} and {n_new} new ones; shorten the prompts, or set n_new to {n_ctx - pos} or "
            "less"
        )
    return n_new


def _required_seed(given: object) -> int:
    """The seed, of 64 bits."""
    seed = whole(given)
    if seed is None or not -(1 << 63) <= seed < 1 << 64:
        raise InputError(f"required a whole number of 64 bits as seed, got {given!r:.80}")
    return seed


def _required_distribution(temperature: object, top_p: object) -> tuple[float, float]:
    """The temperature, and the mass of the nucleus."""
    divisor, mass = finite(temperature), finite(top_p)
    if divisor is None or divisor < 0:
        raise InputError(
            f"required a temperature of at least 0, got {temperature!r:.80}; 0 chooses the most "
            "probable token"
        )
    if mass is None or not 0 < mass <= 1:
        raise InputError(
            f"required a top_p above 0 and at most 1, got {top_p!r:.80}; 1 draws from all tokens, "
            "and temperature=0 chooses the most probable one"
        )
    return divisor, mass


def _padding(ids: Int[Tensor, "b pos"], mask: object) -> Int[Tensor, " b"]:
    """The number of tokens of padding of each sequence."""
    if mask is None:
        return torch.zeros(len(ids), dtype=torch.long)
    if not isinstance(mask, Tensor) or mask.shape != ids.shape:
        given = list(mask.shape) if isinstance(mask, Tensor) else f"{mask!r:.80}"
        raise InputError(
            f"required a mask of the shape of the ids, {list(ids.shape)}, got {given}; give the "
            "tokenizer's attention_mask"
        )
    kept = mask.bool()
    if not (kept[:, -1].all() and (kept[:, :-1] <= kept[:, 1:]).all()):
        raise InputError(
            "required padding on the left of the prompts and a token at the end of each, got a "
            "mask with zeros elsewhere; tokenize with padding_side='left'"
        )
    return (~kept).sum(dim=1)


def _stops(model: LanguageModel, stop: object) -> Int[Tensor, " m"]:
    """The tokens at which sequences stop."""
    stops, n_vocab = counts([] if stop is None else stop), model.cfg.d_vocab
    if stops is None or max(stops, default=0) >= n_vocab:
        raise InputError(
            f"required stop tokens from 0 to {n_vocab - 1}, the vocabulary of this model, got "
            f"{stop!r:.80}; model.tokenizer.eos_token_id ends a text"
        )
    return torch.tensor(stops, dtype=torch.long)
