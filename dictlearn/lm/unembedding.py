"""Direct effects of residual-stream directions on the logits, past the final normalisation."""

import re
import warnings
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dictlearn.core.errors import InputError
from dictlearn.lm.forward import readers, rows_read
from dictlearn.lm.hooks import LanguageModel, hook_names, hooked, is_same_hook, placed
from dictlearn.lm.patching import Patch, patched, splice
from dictlearn.lm.shortcuts import head_of

_STREAM = re.compile(r"blocks\.\d+\.hook_resid_(pre|mid|post)")
_OUTPUT = re.compile(r"blocks\.\d+\.hook_(attn|mlp)_out")


@dataclass(frozen=True)
class LogitMap:
    """The linear part of the final normalisation, and the unembedding behind it."""

    gain: Float[Tensor, " d"]
    """The gain of each dimension in the normalisation, apart from the common scale."""
    centers: bool
    """Whether it takes off the mean over dimensions first (LayerNorm does, RMSNorm does not)."""
    unembedding: Float[Tensor, "d vocab"]

    @torch.no_grad()
    def weights(self, directions: Float[Tensor, "k d"]) -> Float[Tensor, "k vocab"]:
        """The logit weights of each direction: `gain * direction @ W_U`, less their mean.

        Direct effects only (nostalgebraist 2020, "the logit lens"): nothing that a later layer
        makes of the direction counts. They are in logits per unit of the direction where the
        stream has unit scale; the true scale differs by token, and is the same for all
        logits of one. A constant added to all logits changes no prediction: hence less the mean.

        >>> LogitMap(torch.ones(2), False, torch.eye(2)).weights(torch.tensor([[3.0, 1.0]]))
        tensor([[ 1., -1.]])
        """
        v = directions.to(self.gain)
        if self.centers:
            v = v - v.mean(dim=1, keepdim=True)
        logits = (v * self.gain).to(self.unembedding) @ self.unembedding
        return logits.float() - logits.float().mean(dim=1, keepdim=True)


@torch.no_grad()
def logit_map(model: LanguageModel) -> LogitMap:
    """The map from directions in the residual stream of `model` to its logits.

    The gain is read off by trial, as models differ in how they store it (Gemma keeps it less 1).

    Raises:
        InputError: the unembedding is no matrix that can be seen, or the final normalisation is
            neither LayerNorm nor RMSNorm.
    """
    head = head_of(model)
    if head is None:
        raise InputError("the model has no unembedding matrix that can be seen")
    weight = head.weight.detach()
    norm = getattr(model, "ln_final", None)
    d = weight.shape[0]
    if norm is None:
        return LogitMap(weight.new_ones(d).float(), False, weight)

    def normalised(rows: Tensor) -> Tensor:
        return norm(rows.to(weight).unsqueeze(0))[0].float()

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(d, generator=generator).to(weight.device)
    probe = 1.0 + torch.arange(d, device=weight.device) % 2  # 1, 2, 1, 2, … then centred
    probe = probe - probe.mean()
    probe = probe / probe.square().mean().sqrt()
    plus, minus, at_x, shifted = normalised(torch.stack([probe, -probe, x, x + 1]))
    gain = (plus - minus) / (2 * probe)
    tolerance = max(1e-3, 8 * torch.finfo(weight.dtype).eps)
    centers = bool((at_x - shifted).norm() <= tolerance * at_x.norm())
    expected = gain * (x - x.mean() if centers else x)
    found = at_x - (plus + minus) / 2  # without the normalisation's bias
    if 1 - torch.cosine_similarity(found, expected, dim=0) > tolerance:
        raise InputError("the final normalisation is neither LayerNorm nor RMSNorm")
    return LogitMap(gain, centers, weight)


@torch.no_grad()
def why_not_in_stream(model: LanguageModel, hook: str, d: int) -> str:
    """The reason why the activation at `hook`, of width `d`, is not in the residual stream, or "".

    It is tried out: what is added at the hook must arrive as it is, no more and no less, at one
    of the hooks of the stream (`hook_resid_pre`, `_mid` or `_post` of a block). What is added at a
    hook of the stream itself must arrive at a later one while the outputs of attention and MLPs are
    held: many a `hook_resid_mid` is only read by a norm, and writing to it leaves the stream alone.
    """
    d_model = model.cfg.d_model
    if d != d_model:
        return f"{hook!r} has width {d}, the residual stream has width {d_model}"
    stream = [name for name in hook_names(model) if _STREAM.fullmatch(name)]
    ids = placed(torch.arange(4).reshape(2, 2) % model.cfg.d_vocab, model)
    outputs = [name for name in hook_names(model) if _OUTPUT.fullmatch(name)]
    before = _run(model, ids, {}, [hook, *stream, *outputs])
    y = before[hook].float()
    size = max(float(value.float().norm(dim=-1).mean()) for value in before.values())
    generator = torch.Generator().manual_seed(0)
    added = torch.randn(y.shape, generator=generator).to(y)
    added *= size / added.norm(dim=-1, keepdim=True)
    everywhere = torch.ones_like(ids, dtype=torch.bool)
    patch = {hook: splice(y + added, everywhere)}
    tolerance = max(1e-3, 8 * torch.finfo(before[hook].dtype).eps) * added.norm()
    fired = list(before)  # in the order of the pass
    own = [name for name in stream if is_same_hook(model, name, hook)]
    others = [name for name in fired if name in stream and name not in own]
    if own and any(name in fired[fired.index(hook) :] for name in others):
        patch |= {name: splice(before[name], everywhere) for name in outputs if name in before}
    elif own:
        return ""  # the last of the stream
    after = _run(model, ids, patch, others)
    for name in others:
        change = after[name].float() - before[name].float()
        if (change - added.to(change)).norm() <= tolerance:
            return ""
    return f"the activation at {hook!r} is not added to the residual stream unchanged"


def _run(
    model: LanguageModel, ids: Tensor, patches: dict[str, Patch], hooks: list[str]
) -> dict[str, Tensor]:
    """The activations in a full pass with these functions; hooks that never fire are absent."""
    at: dict[str, Tensor] = {}
    with (
        warnings.catch_warnings(),
        patched(model, patches),
        hooked(model, readers(at, hooks, stop=False)),
    ):
        warnings.filterwarnings("ignore", "A forward hook edited")  # irrelevant in a trial
        model(ids)
    return rows_read(at, at, ids)
