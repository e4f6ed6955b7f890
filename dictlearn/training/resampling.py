"""Rows on which dead features are re-initialized."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from dictlearn.core.batches import Batch
from dictlearn.core.kinds import Resampling
from dictlearn.core.learning import TrainableDictionary


@torch.no_grad()
def rows_to_reseed(
    dictionary: TrainableDictionary,
    resampling: Resampling,
    batches: Iterator[Batch],
    m: int,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "m d_in"], Float[Tensor, "m d_out"]]:
    """`m` standardized rows and their residuals, drawn according to `resampling`.

    Out of `resampling.n_rows` rows (or as many as `batches` has), each is drawn with probability
    proportional to its squared error to the power `resampling.loss_power`; without replacement
    while there are enough rows with any error.
    """
    zs: list[Tensor] = []
    residuals: list[Tensor] = []
    n_rows = 0
    for batch in batches:
        fit_pass = dictionary.fit_pass(batch)
        zs.append(fit_pass.z)
        residuals.append(fit_pass.residual)
        n_rows += len(fit_pass.z)
        if n_rows >= resampling.n_rows:
            break
    z, residual = torch.cat(zs)[: resampling.n_rows], torch.cat(residuals)[: resampling.n_rows]
    chosen = draw_rows(residual, resampling.loss_power, m, generator)
    return z[chosen], residual[chosen]


def draw_rows(
    residual: Float[Tensor, "n d_out"], loss_power: float, m: int, generator: torch.Generator
) -> Tensor:
    """`m` row numbers, with probability proportional to squared error ** `loss_power`."""
    weights = residual.double().pow(2).sum(dim=1).pow(loss_power).cpu()
    if not weights.sum() > 0:
        weights = torch.ones_like(weights)
    enough = int((weights > 0).sum()) >= m
    # A race of exponential clocks draws without replacement, and has no limit on the number of
    # rows (torch.multinomial stops at 2 ** 24).
    if enough:
        clocks = -torch.rand(len(weights), generator=generator, dtype=torch.float64).log() / weights
        return clocks.topk(m, largest=False).indices.to(residual.device)
    cumulative = weights.cumsum(0)
    points = torch.rand(m, generator=generator, dtype=torch.float64) * cumulative[-1]
    return torch.searchsorted(cumulative, points, right=True).to(residual.device)
