"""Checks of what a dictionary computes: coefficients, estimates, gradients, units."""

import copy
from collections.abc import Callable

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from dictlearn.contract.subject import Subject, close, require
from dictlearn.core.sparse_acts import SparseActs


def _check_shapes(case: Subject) -> None:
    """Leading axes (), (n,), (0,) and (b, p) are preserved."""
    dictionary, x = case.dictionary, case.x
    d_in, d_out, n = dictionary.sites.source.d, dictionary.sites.target.d, dictionary.n_features
    require(dictionary.atoms.shape == (n, d_out), f"atoms: required {(n, d_out)}, got "
             f"{tuple(dictionary.atoms.shape)}")  # fmt: skip
    require(dictionary.bias.shape == (d_out,), f"bias: required {(d_out,)}, got "
             f"{tuple(dictionary.bias.shape)}")  # fmt: skip
    for rows in (x[0], x[:5], x[:0], x[:6].view(2, 3, d_in)):
        acts, lead = dictionary.encode(rows), rows.shape[:-1]
        for name, got, width in (
            ("encode", acts, n),
            ("decode", dictionary.decode(acts), d_out),
            ("forward", dictionary(rows), d_out),
        ):
            require(
                got.shape == (*lead, width),
                f"{name}: required shape {(*lead, width)}, got {tuple(got.shape)}",
            )
    for rows in (x[:5], x[:0]):
        sparse = dictionary.encode_sparse(rows)
        require(dictionary.decode(sparse).shape == (len(rows), d_out), "decode of SparseActs")


def _check_forward_is_decode_of_encode(case: Subject) -> None:
    """The estimate comes from the published coefficients (and skip), and from nothing else."""
    dictionary, x = case.dictionary, case.x
    expected = dictionary.decode(dictionary.encode(x))
    skip = dictionary.skip(x)
    expected = expected if skip is None else expected + skip
    close(dictionary(x), expected, "forward against decode(encode(x)) + skip(x)")


def _check_decode_is_affine(case: Subject) -> None:
    """Decode is `acts @ atoms + bias` for any coefficients, dense or sparse (float64)."""
    dictionary = copy.deepcopy(case.dictionary).double()
    generator = torch.Generator().manual_seed(1)
    acts = torch.randn(7, dictionary.n_features, generator=generator, dtype=torch.float64)
    acts = acts.to(dictionary.x_mean.device)
    expected = acts @ dictionary.atoms + dictionary.bias
    close(dictionary.decode(acts), expected, "decode against acts @ atoms + bias")
    sparse = dictionary.decode(SparseActs.from_dense(acts))
    close(sparse, expected, "decode of SparseActs against acts @ atoms + bias")


def _check_sparse_equals_dense(case: Subject) -> None:
    """`encode_sparse` equals `encode` (float64: rounding moves no score over a bound)."""
    dictionary, x = copy.deepcopy(case.dictionary).double(), case.x.double()
    sparse = dictionary.encode_sparse(x)
    close(sparse.to_dense(), dictionary.encode(x), "encode_sparse against encode")


def _check_sparse_gradients_equal_dense(case: Subject) -> str | None:
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
        close(
            sparse.get(name, nothing), dense.get(name, nothing),
            f"the gradient of {name} through encode_sparse against that through encode",
        )  # fmt: skip
    smooth = not dictionary.traits.binary
    require(
        not smooth or bool((dense.get("x", torch.zeros(1)) != 0).any()),
        "encode carries no gradient to its rows",
    )
    return None


def _check_scores_decide(case: Subject) -> str | None:
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
    require(scores.shape == (len(x), n_features), f"scores: got shape {tuple(scores.shape)}")
    close(dictionary.scores(x, features[1::2]), scores[:, 1::2], "scores of some features alone")
    require(scores.requires_grad, "scores carry no gradient to the rows")
    (gradient,) = torch.autograd.grad(scores.sum(), x)
    require(bool((gradient != 0).any()), "the gradient of scores is zero everywhere")
    active = dictionary.encode(x) != 0
    sizes = (scores if traits.nonnegative else scores.abs()).detach()
    in_groups = "n (group code) -> (n group) code"
    grouped = [rearrange(t, in_groups, group=traits.n_groups) for t in (sizes, active)]
    require(
        _separates(*grouped) or _separates(sizes.T, active.T),
        "scores: an inactive feature has a larger score than an active one",
    )
    return None


def _separates(sizes: Float[Tensor, "n m"], active: Bool[Tensor, "n m"]) -> bool:
    """Whether in every row each active entry is at least as large as each inactive one."""
    least = sizes.where(active, torch.inf).amin(dim=1)
    most = sizes.where(~active, -torch.inf).amax(dim=1)
    return bool((least >= most - 1e-9).all())


def _check_reading_is_the_tangent(case: Subject) -> str | None:
    """`reading` gives each active coefficient, or its score, and its slope in the row (float64)."""
    dictionary = copy.deepcopy(case.dictionary).double()
    if dictionary.n_features == 0:
        return "it has no features"
    x = case.x[:4].double().clone().requires_grad_(True)
    every = torch.arange(dictionary.n_features, device=x.device)
    values = dictionary.scores(x, every) if dictionary.traits.binary else dictionary.encode(x)
    rows, features = dictionary.encode(x).nonzero(as_tuple=True)
    reading = dictionary.reading(x[rows].detach(), features)
    close(reading(x[rows]), values[rows, features], "reading against the coefficient or score")
    slopes = [torch.autograd.grad(values[at], x, retain_graph=True)[0][at[0]]
              for at in zip(rows.tolist(), features.tolist(), strict=True)]  # fmt: skip
    if slopes:
        close(reading.readers, torch.stack(slopes), "readers against the gradient of encode")
    return None


def _check_rows_are_independent(case: Subject) -> None:
    """The coefficients of a row do not depend on other rows (float64: ties do not flip)."""
    dictionary, x = copy.deepcopy(case.dictionary).double(), case.x.double()
    for mode in (True, False):
        dictionary.train(mode)
        together = dictionary.encode(x)
        close(dictionary.encode(x.flip(0)).flip(0), together, "encode of reversed rows")
        close(dictionary.encode(x[:3]), together[:3], "encode of the first rows alone")


def _check_encode_changes_nothing(case: Subject) -> None:
    """No parameter, buffer or attribute moves, and training mode encodes as evaluation does."""
    dictionary, results = copy.deepcopy(case.dictionary), []
    for mode in (True, False):
        dictionary.train(mode)
        tensors = {k: v.clone() for k, v in dictionary.state_dict().items()}
        attributes = dict(vars(dictionary))
        results += [dictionary.encode(case.x), dictionary.encode(case.x)]
        changed = [k for k, v in dictionary.state_dict().items() if not torch.equal(v, tensors[k])]
        require(not changed, f"encode changed {changed} (training mode: {mode})")
        left = [k for k, v in vars(dictionary).items() if attributes.get(k) is not v]
        require(not left, f"encode left state behind in {left}")
    for again in results[1:]:
        require(torch.equal(again, results[0]), "encode gave different results for one input")


def _check_traits_hold(case: Subject) -> None:
    """The coefficients satisfy `traits`."""
    traits, acts = case.dictionary.traits, case.dictionary.encode(case.x)
    require(not traits.nonnegative or bool((acts >= 0).all()), "traits.nonnegative: got < 0")
    require(
        not traits.binary or bool(((acts == 0) | (acts == 1)).all()), "traits.binary: got others"
    )
    require(acts.shape[1] % traits.n_groups == 0, f"traits.n_groups is {traits.n_groups}")
    in_groups = rearrange(acts != 0, "n (group code) -> n group code", group=traits.n_groups)
    most = int(in_groups.sum(dim=2).max())
    if traits.max_active is not None:
        share = traits.max_active // traits.n_groups
        require(most <= share, f"traits.max_active is {share} in a group: got {most}")


def _check_units_are_raw(case: Subject) -> None:
    """A change of units leaves coefficients unchanged and transforms the estimate."""
    plain = copy.deepcopy(case.dictionary).double()
    moved = copy.deepcopy(plain)
    x = case.x.double()
    x_shift, y_shift = torch.full_like(plain.x_mean, 3.0), torch.full_like(plain.y_mean, -2.0)
    moved.standardize_(
        5 * plain.x_mean + x_shift, 5 * plain.x_scale, 7 * plain.y_mean + y_shift, 7 * plain.y_scale
    )
    close(moved.encode(5 * x + x_shift), plain.encode(x), "encode in other units")
    close(moved(5 * x + x_shift), 7 * plain(x) + y_shift, "forward in other units")


ENCODING = (
    _check_shapes,
    _check_forward_is_decode_of_encode,
    _check_decode_is_affine,
    _check_sparse_equals_dense,
    _check_sparse_gradients_equal_dense,
    _check_scores_decide,
    _check_reading_is_the_tangent,
    _check_rows_are_independent,
    _check_encode_changes_nothing,
    _check_traits_hold,
    _check_units_are_raw,
)
