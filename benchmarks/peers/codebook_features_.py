"""codebook-features: its codebook layer, taught by squared error and by its own optimizer.

The library trains codebooks inside a language model, on the model's own loss; here the model is
frozen and the loss is the squared error, as for everyone. The layer normalises its input (with
parameters that its trainer counts among the model's, which stay), and averages its codes.
"""

import torch
from codebook_features.models import (
    BaseSnapFunction,
    CodebookLayer,
    EuclideanSnapFunction,
    InnerProductSnapFunction,
)

from benchmarks.peers.peer import Kind, Peer, Plan, Trainee, held_by
from dictlearn.core.batches import Batch


def _trainee(plan: Plan, snap: type[BaseSnapFunction], k: int) -> Trainee:
    torch.manual_seed(plan.seed)
    layer = CodebookLayer(plan.width, plan.n_features, "x", snap_fn=snap, kcodes=k)
    codes = list(layer.codebook.parameters())
    optimizer = torch.optim.AdamW(codes, plan.learning_rate)
    rise, fall = max(plan.warmup * plan.steps, 1), max(plan.decay * plan.steps, 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / rise, (plan.steps - step) / fall)
    )

    def update(batch: Batch) -> None:
        estimate = layer(batch.x.unsqueeze(0)).squeeze(0)
        (batch.y - estimate).pow(2).sum(dim=1).mean().backward()
        torch.nn.utils.clip_grad_norm_(codes, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()

    @torch.no_grad()
    def estimate(x: torch.Tensor) -> torch.Tensor:
        return layer(x.unsqueeze(0)).squeeze(0)

    return Trainee(update, estimate, lambda: held_by(layer, optimizer))


def _codes(plan: Plan, first: Batch) -> Trainee:
    return _trainee(plan, InnerProductSnapFunction, plan.k)


def _one_code(plan: Plan, first: Batch) -> Trainee:
    return _trainee(plan, EuclideanSnapFunction, 1)


CODEBOOK_FEATURES = Peer(
    "codebook-features",
    "codebook-features",
    {Kind.CODEBOOK: _codes, Kind.ONE_CODE: _one_code},
)
