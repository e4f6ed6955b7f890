"""The directions that features read, where no prompt says at which point."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError

_PROBES = 8
"""Random points, and as many opposite ones, where the slope of a score is looked for."""
_FAR = 1e4
"""The distance, in standardized units, at which activation functions have their final slope."""
_ROWS = 256
"""Features at once: each has a row of its own."""


@torch.no_grad()
def encoder_directions(
    dictionary: FeatureDictionary, features: Int[Tensor, " m"]
) -> Float[Tensor, "m d_in"]:
    """The gradient of each feature's score with respect to the source, in raw units.

    It is the row of the encoder where scores are affine, as in all linear kinds and codebooks. A
    neuron behind an activation function has its final slope, far out along its own direction: its
    input weights. A feature whose score has no slope at any of 16 points reads nothing.

    Raises:
        InputError: the slope of a feature depends on the point, as in a gated MLP, or `features`
            does not fit.
    """
    parts = [_directions(dictionary, part) for part in features.split(_ROWS)]
    return torch.cat(parts) if parts else dictionary.x_mean.new_zeros(0, dictionary.sites.source.d)


def _directions(
    dictionary: FeatureDictionary, features: Int[Tensor, " m"]
) -> Float[Tensor, "m d_in"]:
    mean, scale = dictionary.x_mean, dictionary.x_scale
    generator, best = torch.Generator().manual_seed(0), mean.new_zeros(len(features), len(mean))
    for _ in range(_PROBES):
        z = torch.randn(len(mean), generator=generator, dtype=torch.float64).to(mean)
        for point in (z, -z):
            found = _slopes(dictionary, mean + scale * point.expand_as(best), features) * scale
            best = torch.where(found.norm(dim=1, keepdim=True) > best.norm(dim=1, keepdim=True),
                               found, best)  # fmt: skip
    along = best / best.norm(dim=1, keepdim=True).clamp_min(torch.finfo(best.dtype).tiny)
    ends = [_slopes(dictionary, mean + scale * far * along, features) for far in (_FAR, -_FAR)]
    up = ends[0].norm(dim=1) >= ends[1].norm(dim=1)
    slopes = torch.where(up.unsqueeze(1), ends[0], ends[1])
    along = torch.where(up.unsqueeze(1), along, -along)
    farther = _slopes(dictionary, mean + scale * 2 * _FAR * along, features)
    bends = (farther - slopes).norm(dim=1) > 1e-3 * slopes.norm(dim=1)
    if bool(bends.any()):
        raise InputError(
            f"required features whose scores have one direction, got {int(bends.sum())} of kind "
            f"{dictionary.kind!r} that depend on the input in more than one way, such as feature "
            f"{int(features[bends][0])}: without a prompt they read nothing definite; use "
            "attribute on a prompt, or another kind"
        )
    return slopes


def _slopes(
    dictionary: FeatureDictionary, x: Float[Tensor, "m d_in"], features: Int[Tensor, " m"]
) -> Float[Tensor, "m d_in"]:
    """The gradient of the score of each row's feature at that row."""
    rows = x.detach().requires_grad_()
    with torch.enable_grad():
        total = dictionary.scores(rows, features).diagonal().sum()
    if not total.requires_grad:
        return torch.zeros_like(x)
    return torch.autograd.grad(total, rows)[0]
