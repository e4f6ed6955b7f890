"""A pass in which everything that is not linear is held, and gradients through it.

Queries, keys and the scales of normalisations are constants, so attention patterns and norms are
linear maps. The stream is cut where dictionaries write: what they write is a constant, too. What a
pass computes is then an affine function of those constants, the embeddings and the biases of the
model, apart from MLPs that no dictionary replaces: these stay as they are, with their input and
output at hand. The outputs of attention heads can be cut as well; then tokens are apart.
"""

import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Int
from torch import Tensor, nn

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError
from dictlearn.lm.forward import readers
from dictlearn.lm.frozen_tensors import FrozenPass
from dictlearn.lm.hooks import (
    HookFunction,
    LanguageModel,
    hook_names,
    hook_points,
    hooked,
    placed,
)
from dictlearn.lm.in_place import require_order, shared_target
from dictlearn.lm.mlps import mlp_sites
from dictlearn.lm.patching import Patch, patched
from dictlearn.lm.shortcuts import head_of

_HELD = re.compile(r"\.hook_scale$|\.attn\.hook_[qk]$")
_HEADS = re.compile(r"^blocks\.(\d+)\.attn\.hook_[vz]$")
EMBEDDING, POSITIONS = "hook_embed", "hook_pos_embed"
_IS_BIAS = re.compile(r"(^|\.)(bias|b|b_[A-Za-z]+)$")


@contextmanager
def frozen_pass(
    model: LanguageModel,
    ids: Int[Tensor, " pos"],
    dictionaries: Mapping[str, FeatureDictionary],
    *,
    cut_heads: bool = False,
    scores_of: int | None = None,
) -> Iterator[FrozenPass]:
    """A frozen pass of `model` over `ids`, cut at the targets of `dictionaries`.

    An autoencoder reads its target before the cut; at a hook where another dictionary writes, what
    is read is what that one wrote. With `cut_heads`, the outputs of attention heads are constants
    as well, before dictionaries there read. What bypasses the features of a dictionary with several
    targets is a constant, a part of its error. Biases of the model require gradients until the end.
    Of the layer `scores_of`, queries, keys and attention scores are kept as well.

    Raises:
        InputError: a dictionary does not fit the model or reads what comes after its target, two
            replace one target, the unembedding of the model is not one affine map, or the layer
            `scores_of` has no queries, keys and scores.
    """
    require_order(model, dictionaries)
    if shared := shared_target(model, dictionaries):
        raise InputError(
            f"{shared[1]!r} and {shared[2]!r} both replace {shared[0]!r}: required one of them"
        )
    head = head_of(model)
    if head is None:
        raise InputError("required a model whose unembedding is one affine map, with weights")
    run = FrozenPass(placed(ids[None], model)[0], head)
    mlps = mlp_hooks(model)
    patches = _patches(model, run, dictionaries, mlps, attention_hooks(model) if cut_heads else {})
    held = firing(model, [name for name in hook_names(model) if _HELD.search(name)])
    holds: list[tuple[str, HookFunction]] = [(hook, _hold(run, hook)) for hook in held]
    if scores_of is not None:
        holds = _with_scores(model, run, scores_of, dict(holds))
    flags = {parameter: parameter.requires_grad for parameter in model.parameters()}
    inner = {p for layer, (source, _) in mlps.items()
             for p in _parameters_behind(model.blocks[layer], source)}  # fmt: skip
    for parameter in flags:
        parameter.requires_grad_(False)
    try:
        run.biases = {
            name: parameter.requires_grad_()
            for name, parameter in model.named_parameters()
            if _IS_BIAS.search(name) and parameter not in inner
        }
        with (
            torch.enable_grad(), warnings.catch_warnings(),
            patched(model, patches), hooked(model, holds),
        ):  # fmt: skip
            warnings.filterwarnings("ignore", "A forward hook edited")
            run.final = head.read(model, run.ids[None])[0]
        yield run
    finally:
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)


def _patches(
    model: LanguageModel,
    run: FrozenPass,
    dictionaries: Mapping[str, FeatureDictionary],
    mlps: Mapping[int, tuple[str, str]],
    attention: Mapping[int, tuple[str, str]],
) -> dict[str, list[Patch]]:
    """The functions at every hook: outputs of MLPs are read and heads cut, then dictionaries write,
    then others read, and inputs of MLPs and value vectors come last."""
    points = hook_points(model)
    first: dict[int, str] = {}
    found: dict[str, list[Patch]] = defaultdict(list)

    def add(hook: str, patch: Patch) -> None:
        found[first.setdefault(id(points[hook]), hook)].append(patch)

    for layer, (_, output) in mlps.items():
        run.mlps[layer] = []
        add(output, _keep_output(run, layer))
    for layer, (_, output) in attention.items():
        add(output, _cut_heads(run, layer))
    for hook in firing(model, [EMBEDDING, POSITIONS]):
        add(hook, _leaf(run, hook))
    for name, dictionary in dictionaries.items():
        for hook in dictionary.sites.target.hooks:
            add(hook, _cut(run, name, dictionary, hook))
    for name, dictionary in dictionaries.items():
        for hook in dictionary.sites.source.hooks:
            if hook not in dictionary.sites.target.hooks:
                add(hook, _read(run, name, hook))
    for layer, (source, _) in mlps.items():
        add(source, _tap_input(run, layer))
    for layer, (source, _) in attention.items():
        add(source, _tap_values(run, layer))
    return dict(found)


def mlp_hooks(model: LanguageModel) -> dict[int, tuple[str, str]]:
    """The hooks before and after the MLP of each layer that has one."""
    found = {}
    for layer in range(model.cfg.n_layers):
        try:
            sites = mlp_sites(model, layer)
        except InputError:
            continue
        found[layer] = (sites.source.hook, sites.target.hook)
    return found


def attention_hooks(model: LanguageModel) -> dict[int, tuple[str, str]]:
    """The hooks of value vectors and of heads' outputs of each layer that has both."""
    names = [name for name in hook_names(model) if _HEADS.search(name)]
    fired = firing(model, names)
    found = {}
    for layer in range(model.cfg.n_layers):
        value, output = (f"blocks.{layer}.attn.hook_{end}" for end in "vz")
        if value in fired and output in fired:
            found[layer] = (value, output)
    return found


def _parameters_behind(block: nn.Module, source: str) -> Iterator[nn.Parameter]:
    """The parameters of an MLP from its input on: also a norm's, if that lies before its gain."""
    yield from block.mlp.parameters()  # type: ignore[union-attr]
    if source.endswith(".hook_normalized"):
        yield from block.get_submodule(source.split(".")[-2]).parameters()


def firing(model: LanguageModel, hooks: Sequence[str]) -> list[str]:
    """Those of `hooks` that fire, one name of each."""
    points = hook_points(model)
    named = {id(points[hook]): hook for hook in hooks if hook in points}
    at: dict[str, Tensor] = {}
    with torch.no_grad(), hooked(model, readers(at, list(named.values()), stop=False)):
        model(placed(torch.arange(2)[None] % model.cfg.d_vocab, model))
    return list(at)


def _hold(run: FrozenPass, name: str) -> Callable[[Tensor, object], Tensor]:
    def hold(activation: Tensor, hook: object) -> Tensor:
        return run.held.setdefault(name, activation.detach())

    return hold


def _with_scores(
    model: LanguageModel, run: FrozenPass, layer: int, holds: dict[str, HookFunction]
) -> list[tuple[str, HookFunction]]:
    """The functions at hooks that also keep queries, keys and scores of a layer."""
    q, k, scores = (f"blocks.{layer}.attn.hook_{end}" for end in ("q", "k", "attn_scores"))
    if q not in holds or k not in holds or scores not in firing(model, [scores]):
        raise InputError(
            f"required a layer whose attention has queries, keys and scores at hooks, got {layer} "
            f"of a model with {model.cfg.n_layers} layers"
        )

    def operand(name: str) -> HookFunction:
        def hold(activation: Tensor, hook: object) -> Tensor:
            leaf = _hold(run, name)(activation, hook).clone().requires_grad_()
            run.operands.append((activation, leaf))
            return leaf

        return hold

    def keep(activation: Tensor, hook: object) -> None:
        run.scores = activation[0]

    return [*(holds | {q: operand(q), k: operand(k)}).items(), (scores, keep)]


def _leaf(run: FrozenPass, hook: str) -> Patch:
    def leaf(y: Tensor, positions: Tensor) -> Tensor:
        run.leaves[hook] = y[0].detach().clone().requires_grad_()
        return run.leaves[hook][None]

    return leaf


def _read(run: FrozenPass, name: str, hook: str) -> Patch:
    def read(x: Tensor, positions: Tensor) -> None:
        run.sources[name, hook] = x[0]

    return read


def _cut(run: FrozenPass, name: str, dictionary: FeatureDictionary, hook: str) -> Patch:
    sites = dictionary.sites

    def cut(y: Tensor, positions: Tensor) -> Tensor:
        if hook in sites.source.hooks:
            run.sources[name, hook] = y[0]
        bypass = None
        if len(sites.target.hooks) == 1:
            x = torch.cat([run.sources[name, source] for source in sites.source.hooks], dim=1)
            bypass = dictionary.skip(x)
        rest = y[0].detach() if bypass is None else y[0].detach() - bypass.detach()
        leaf = run.leaves[hook] = rest.clone().requires_grad_()
        return (leaf if bypass is None else leaf + bypass)[None]

    return cut


def _tap_input(run: FrozenPass, layer: int) -> Patch:
    def tap(x: Tensor, positions: Tensor) -> Tensor:
        own = x.view_as(x)  # the gradient in it is that through the MLP alone
        run.mlps[layer].insert(0, own)
        return own

    return tap


def _keep_output(run: FrozenPass, layer: int) -> Patch:
    def keep(y: Tensor, positions: Tensor) -> Tensor:
        own = y.view_as(y)
        run.mlps[layer].append(own)
        return own

    return keep


def _tap_values(run: FrozenPass, layer: int) -> Patch:
    def tap(v: Tensor, positions: Tensor) -> Tensor:
        run.values[layer] = v[0]
        return run.values[layer][None]

    return tap


def _cut_heads(run: FrozenPass, layer: int) -> Patch:
    def cut(z: Tensor, positions: Tensor) -> Tensor:
        before, after = z[0], z[0].detach().clone().requires_grad_()
        run.heads[layer] = before, after
        return after[None]

    return cut
