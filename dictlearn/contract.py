"""The contract of `FeatureDictionary` as executable checks, for our kinds and for yours.

Each check has a mutant in `tests/contract/test_contract.py`: a dictionary broken on purpose,
that the check must catch.
"""

import copy
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from dictlearn.activations.tensors import TensorActivations
from dictlearn.core.batches import Batch
from dictlearn.core.config import DictionaryConfig, GradientConfig
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import ContractError
from dictlearn.core.learning import TrainableDictionary
from dictlearn.core.sites import MLPWeights, Site, Sites
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.dictionaries.files import load, save
from dictlearn.metrics.reconstruction import fraction_variance_unexplained
from dictlearn.training.config import FitConfig
from dictlearn.training.fit import fit

_N_ROWS = 2048
_FIT = FitConfig(
    steps=150, batch_size=256, learning_rate=1e-2, standardize_rows=1024, dead_after=30
)
_NEEDS_CONFIG = "it takes a config: check_dictionary(MyConfig.tiny())"


@dataclass(frozen=True)
class _Subject:
    """A dictionary under test, with rows it can read and, where it was made here, its config."""

    dictionary: FeatureDictionary
    x: Float[Tensor, "n d_in"]
    config: DictionaryConfig | None = None


def check_dictionary(
    subject: FeatureDictionary | DictionaryConfig,
    x: Float[Tensor, "n d_in"] | None = None,
) -> dict[str, str]:
    """What each check of the contract found: "passed", or "skipped" with the reason.

    A config is built, trained for a moment on synthetic rows and checked whole. A dictionary is
    checked as it is, on the rows `x` (standard normal ones unless given); how it learns is then
    left out, and whether it saves as well if it has no config.

    Raises:
        ContractError: a check failed; its message says which and how.
    """
    if isinstance(subject, DictionaryConfig):
        activations = _synthetic(seed=0)
        dictionary = fit(subject, activations, _FIT, progress=False)
        rows = activations.rows(0, 0, 64).batch(dictionary.sites).x
        case = _Subject(dictionary, rows, subject)
    else:
        d = subject.sites.source.d
        generator = torch.Generator().manual_seed(0)
        rows = torch.randn(64, d, generator=generator) if x is None else x
        case = _Subject(copy.deepcopy(subject), rows.to(subject.x_mean))
    return {check.__name__.removeprefix("_check_"): _run(check, case) for check in CHECKS}


def _run(check: "Check", case: _Subject) -> str:
    try:
        reason = check(case)
    except ContractError:
        raise
    except Exception as error:
        raise ContractError(f"{check.__name__}: raised {error!r}") from error
    return f"skipped: {reason}" if reason else "passed"


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ContractError(message)


def _close(a: Tensor, b: Tensor, what: str) -> None:
    """Equal to rounding, relative to the larger entries."""
    _require(a.shape == b.shape, f"{what}: shapes {tuple(a.shape)} and {tuple(b.shape)} differ")
    tolerance = 1e-9 if a.dtype == torch.float64 else 1e-4
    scale = 1 + float(b.detach().abs().max()) if b.numel() else 1.0
    worst = float((a - b).detach().abs().max()) if a.numel() else 0.0
    _require(worst <= tolerance * scale, f"{what}: differ by up to {worst:.3g}")


def _check_shapes(case: _Subject) -> None:
    """Leading axes (), (n,), (0,) and (b, p) come out as they went in."""
    dictionary, x = case.dictionary, case.x
    d_in, d_out, n = dictionary.sites.source.d, dictionary.sites.target.d, dictionary.n_features
    _require(dictionary.atoms.shape == (n, d_out), f"atoms: required {(n, d_out)}, got "
             f"{tuple(dictionary.atoms.shape)}")  # fmt: skip
    _require(dictionary.bias.shape == (d_out,), f"bias: required {(d_out,)}, got "
             f"{tuple(dictionary.bias.shape)}")  # fmt: skip
    for rows in (x[0], x[:5], x[:0], x[:6].view(2, 3, d_in)):
        acts, lead = dictionary.encode(rows), rows.shape[:-1]
        for name, got, width in (
            ("encode", acts, n),
            ("decode", dictionary.decode(acts), d_out),
            ("forward", dictionary(rows), d_out),
        ):
            _require(
                got.shape == (*lead, width),
                f"{name}: required shape {(*lead, width)}, got {tuple(got.shape)}",
            )
    for rows in (x[:5], x[:0]):
        sparse = dictionary.encode_sparse(rows)
        _require(dictionary.decode(sparse).shape == (len(rows), d_out), "decode of SparseActs")


def _check_forward_is_decode_of_encode(case: _Subject) -> None:
    """The estimate comes from the published coefficients (and skip), and from nothing else."""
    dictionary, x = case.dictionary, case.x
    expected = dictionary.decode(dictionary.encode(x))
    skip = dictionary.skip(x)
    expected = expected if skip is None else expected + skip
    _close(dictionary(x), expected, "forward against decode(encode(x)) + skip(x)")


def _check_decode_is_affine(case: _Subject) -> None:
    """In float64, decode is `acts @ atoms + bias` for any coefficients, dense or sparse."""
    dictionary = copy.deepcopy(case.dictionary).double()
    generator = torch.Generator().manual_seed(1)
    acts = torch.randn(7, dictionary.n_features, generator=generator, dtype=torch.float64)
    acts = acts.to(dictionary.x_mean.device)
    expected = acts @ dictionary.atoms + dictionary.bias
    _close(dictionary.decode(acts), expected, "decode against acts @ atoms + bias")
    sparse = dictionary.decode(SparseActs.from_dense(acts))
    _close(sparse, expected, "decode of SparseActs against acts @ atoms + bias")


def _check_sparse_equals_dense(case: _Subject) -> None:
    """`encode_sparse` holds what `encode` holds (float64: rounding moves no score over a bound)."""
    dictionary, x = copy.deepcopy(case.dictionary).double(), case.x.double()
    sparse = dictionary.encode_sparse(x)
    _close(sparse.to_dense(), dictionary.encode(x), "encode_sparse against encode")


def _check_sparse_gradients_equal_dense(case: _Subject) -> str | None:
    """`encode_sparse` carries the gradients of `encode` to rows and parameters (float64).

    Where coefficients are not 0 or 1, both have one in the rows; where they are, only what is
    written has a gradient, and only in the atoms.
    """
    dictionary = copy.deepcopy(case.dictionary).double().requires_grad_(True)
    if dictionary.n_features == 0:
        return "it has no features"
    x = case.x.double().clone().requires_grad_(True)
    sought = {"x": x, **dict(dictionary.named_parameters())}
    generator = torch.Generator().manual_seed(2)
    weights = torch.randn(dictionary.sites.target.d, generator=generator, dtype=torch.float64)
    weights = weights.to(x.device)

    def gradients(encode: Callable[[Tensor], Tensor | SparseActs]) -> dict[str, Tensor]:
        estimate = dictionary.decode(encode(x))
        if not estimate.requires_grad:
            return {}
        found = torch.autograd.grad(
            (estimate @ weights).sum(), list(sought.values()), allow_unused=True
        )
        return {name: g for name, g in zip(sought, found, strict=True) if g is not None}

    dense, sparse = gradients(dictionary.encode), gradients(dictionary.encode_sparse)
    for name, tensor in sought.items():
        nothing = torch.zeros_like(tensor)
        _close(
            sparse.get(name, nothing), dense.get(name, nothing),
            f"the gradient of {name} through encode_sparse against that through encode",
        )  # fmt: skip
    smooth = not dictionary.traits.binary
    _require(
        not smooth or bool((dense.get("x", torch.zeros(1)) != 0).any()),
        "encode carries no gradient to its rows",
    )
    return None


def _check_scores_decide(case: _Subject) -> str | None:
    """`scores` are larger where features are active, and differentiable in the rows (float64).

    Larger within a row (and group), as where features compete or share a threshold; or within a
    feature over rows, as where each has a threshold of its own.
    """
    dictionary = copy.deepcopy(case.dictionary).double()
    traits, n_features = dictionary.traits, dictionary.n_features
    if n_features == 0:
        return "it has no features"
    x = case.x.double().clone().requires_grad_(True)
    features = torch.arange(n_features, device=x.device)
    scores = dictionary.scores(x, features)
    _require(scores.shape == (len(x), n_features), f"scores: got shape {tuple(scores.shape)}")
    _close(dictionary.scores(x, features[1::2]), scores[:, 1::2], "scores of some features alone")
    _require(scores.requires_grad, "scores carry no gradient to the rows")
    (gradient,) = torch.autograd.grad(scores.sum(), x)
    _require(bool((gradient != 0).any()), "the gradient of scores is zero everywhere")
    active = dictionary.encode(x) != 0
    sizes = (scores if traits.nonnegative else scores.abs()).detach()
    in_groups = "n (group code) -> (n group) code"
    grouped = [rearrange(t, in_groups, group=traits.n_groups) for t in (sizes, active)]
    _require(
        _separates(*grouped) or _separates(sizes.T, active.T),
        "scores: an inactive feature has a larger score than an active one",
    )
    return None


def _separates(sizes: Float[Tensor, "n m"], active: Bool[Tensor, "n m"]) -> bool:
    """Whether in every row each active entry is at least as large as each inactive one."""
    least = sizes.where(active, torch.inf).amin(dim=1)
    most = sizes.where(~active, -torch.inf).amax(dim=1)
    return bool((least >= most - 1e-9).all())


def _check_rows_are_independent(case: _Subject) -> None:
    """What a row becomes does not depend on its neighbours (float64: ties do not flip)."""
    dictionary, x = copy.deepcopy(case.dictionary).double(), case.x.double()
    for mode in (True, False):
        dictionary.train(mode)
        together = dictionary.encode(x)
        _close(dictionary.encode(x.flip(0)).flip(0), together, "encode of reversed rows")
        _close(dictionary.encode(x[:3]), together[:3], "encode of the first rows alone")


def _check_encode_changes_nothing(case: _Subject) -> None:
    """No parameter, buffer or attribute moves, and training mode encodes as evaluation does."""
    dictionary, results = copy.deepcopy(case.dictionary), []
    for mode in (True, False):
        dictionary.train(mode)
        tensors = {k: v.clone() for k, v in dictionary.state_dict().items()}
        attributes = dict(vars(dictionary))
        results += [dictionary.encode(case.x), dictionary.encode(case.x)]
        changed = [k for k, v in dictionary.state_dict().items() if not torch.equal(v, tensors[k])]
        _require(not changed, f"encode changed {changed} (training mode: {mode})")
        left = [k for k, v in vars(dictionary).items() if attributes.get(k) is not v]
        _require(not left, f"encode left state behind in {left}")
    for again in results[1:]:
        _require(torch.equal(again, results[0]), "encode gave different results for one input")


def _check_traits_hold(case: _Subject) -> None:
    """The coefficients are what `traits` promise."""
    traits, acts = case.dictionary.traits, case.dictionary.encode(case.x)
    _require(not traits.nonnegative or bool((acts >= 0).all()), "traits.nonnegative: got < 0")
    _require(
        not traits.binary or bool(((acts == 0) | (acts == 1)).all()), "traits.binary: got others"
    )
    _require(acts.shape[1] % traits.n_groups == 0, f"traits.n_groups is {traits.n_groups}")
    in_groups = rearrange(acts != 0, "n (group code) -> n group code", group=traits.n_groups)
    most = int(in_groups.sum(dim=2).max())
    if traits.max_active is not None:
        share = traits.max_active // traits.n_groups
        _require(most <= share, f"traits.max_active is {share} in a group: got {most}")


def _check_units_are_raw(case: _Subject) -> None:
    """In other units of source and target, coefficients stay and the estimate follows."""
    plain = copy.deepcopy(case.dictionary).double()
    moved = copy.deepcopy(plain)
    x = case.x.double()
    x_shift, y_shift = torch.full_like(plain.x_mean, 3.0), torch.full_like(plain.y_mean, -2.0)
    moved.standardize_(
        5 * plain.x_mean + x_shift, 5 * plain.x_scale, 7 * plain.y_mean + y_shift, 7 * plain.y_scale
    )
    _close(moved.encode(5 * x + x_shift), plain.encode(x), "encode in other units")
    _close(moved(5 * x + x_shift), 7 * plain(x) + y_shift, "forward in other units")


def _check_save_and_load(case: _Subject) -> str | None:
    """A fresh object from config and file gives the same bits."""
    config = case.dictionary.config
    if config is None:
        return "the dictionary has no config to be built from"
    with tempfile.TemporaryDirectory() as folder:
        path = save(case.dictionary, Path(folder) / "dictionary")
        loaded = load(path, kinds=[type(config)])
    _require(torch.equal(loaded(case.x), case.dictionary(case.x)), "forward after save and load")
    _require(loaded.sites == case.dictionary.sites, "sites after save and load")
    _require(loaded.config == config, "config after save and load")
    _require(loaded.provenance == case.dictionary.provenance, "provenance after save and load")
    return None


def _check_gradients(case: _Subject) -> str | None:
    """Every parameter gets a finite gradient, and one that is not all zero."""
    if case.config is None:
        return _NEEDS_CONFIG
    if not isinstance(case.config, GradientConfig):
        return "it does not learn by gradients"
    dictionary = copy.deepcopy(case.dictionary).requires_grad_(True)
    assert isinstance(dictionary, TrainableDictionary)
    batch: Batch = _synthetic(seed=0).rows(0, 0, 512).batch(dictionary.sites)
    losses = case.config.objective()(dictionary.fit_pass(batch))
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in dictionary.named_parameters():
        gradient = parameter.grad
        _require(gradient is not None, f"{name} got no gradient")
        assert gradient is not None
        _require(bool(gradient.isfinite().all()), f"the gradient of {name} is not finite")
        _require(bool((gradient != 0).any()), f"the gradient of {name} is zero everywhere")
    return None


def _check_seeds(case: _Subject) -> str | None:
    """Two fits from one seed agree to the bit; from two seeds they differ."""
    config = case.config
    if config is None:
        return _NEEDS_CONFIG

    def weights(seed: int) -> dict[str, Tensor]:
        short = replace(_FIT, steps=20, batch_size=64, standardize_rows=64, seed=seed)
        return fit(config, _synthetic(seed=0), short, progress=False).state_dict()

    once, again, other = weights(3), weights(3), weights(4)
    differing = [name for name in once if not torch.equal(once[name], again[name])]
    _require(not differing, f"two fits from one seed differ in {differing}")
    if isinstance(config, GradientConfig):
        same = all(torch.equal(once[name], other[name]) for name in once)
        _require(not same, "two fits from different seeds are equal: the seed is ignored")
    return None


def _check_learning(case: _Subject) -> str | None:
    """On rows not trained on, it beats predicting the mean (a fixed baseline: is no worse)."""
    if case.config is None:
        return _NEEDS_CONFIG
    batch = _synthetic(seed=1).rows(0, 0, 1024).batch(case.dictionary.sites)
    with torch.no_grad():
        fvu = float(fraction_variance_unexplained(batch.y, case.dictionary(batch.x)))
    limit = 0.95 if isinstance(case.config, GradientConfig) else 1.01
    _require(fvu < limit, f"on held-out rows FVU is {fvu:.3f}; the mean has 1, required < {limit}")
    return None


Check = Callable[[_Subject], str | None]
CHECKS: Sequence[Check] = (
    _check_shapes,
    _check_forward_is_decode_of_encode,
    _check_decode_is_affine,
    _check_sparse_equals_dense,
    _check_sparse_gradients_equal_dense,
    _check_scores_decide,
    _check_rows_are_independent,
    _check_encode_changes_nothing,
    _check_traits_hold,
    _check_units_are_raw,
    _check_save_and_load,
    _check_gradients,
    _check_seeds,
    _check_learning,
)


def _synthetic(seed: int) -> TensorActivations:
    """Rows of a small ReLU MLP: input 12 wide, output 8 wide, both off-centre and scaled."""
    weights = torch.Generator().manual_seed(99)
    mlp = MLPWeights(
        W_in=torch.randn(12, 24, generator=weights),
        b_in=torch.randn(24, generator=weights) - 2.0,
        W_out=torch.randn(24, 8, generator=weights),
        b_out=torch.randn(8, generator=weights),
        act_name="relu",
    )
    rows = torch.Generator().manual_seed(seed)
    x = torch.randn(_N_ROWS, 12, generator=rows)
    y = mlp.hidden(x) @ mlp.W_out + mlp.b_out
    return TensorActivations(x, y, sites=Sites(Site("x", 12), Site("y", 8), mlp))
