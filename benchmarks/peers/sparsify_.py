"""sparsify: its sparse coder, with the step that its `Trainer.fit` takes around it.

`fit` takes its steps inside a forward hook of a language model, so the step stands here, made of
the library's public parts in the order in which `fit` calls them, for its defaults (loss "fvu",
no AuxK, optimizer "signum") and for its optimizer "adam".
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from schedulefree import ScheduleFreeWrapper
from sparsify import SparseCoder, SparseCoderConfig
from sparsify.sign_sgd import SignSGD
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_linear_schedule_with_warmup

from benchmarks.peers.peer import Kind, Maker, Peer, Plan, Trainee, held_by
from dictlearn.core.batches import Batch

OptimizerOf = Callable[[SparseCoder, Plan], tuple[Optimizer, LRScheduler | None]]


def _signum(coder: SparseCoder, plan: Plan) -> tuple[Optimizer, LRScheduler | None]:
    optimizer = ScheduleFreeWrapper(
        SignSGD(coder.parameters(), lr=plan.learning_rate), momentum=0.95
    )
    optimizer.train()
    return optimizer, None


@contextmanager
def _averaged(optimizer: Optimizer) -> Iterator[None]:
    """With the weights that a schedule-free optimizer saves: an average of those it visited."""
    if not isinstance(optimizer, ScheduleFreeWrapper):
        yield
        return
    optimizer.eval()
    yield
    optimizer.train()


def _adam(coder: SparseCoder, plan: Plan) -> tuple[Optimizer, LRScheduler | None]:
    optimizer = Adam(coder.parameters(), lr=plan.learning_rate)
    warmup = int(plan.warmup * plan.steps)
    return optimizer, get_linear_schedule_with_warmup(optimizer, warmup, plan.steps)


def _maker(optimizer_of: OptimizerOf, *, transcode: bool) -> Maker:
    def make(plan: Plan, first: Batch) -> Trainee:
        torch.manual_seed(plan.seed)
        config = SparseCoderConfig(num_latents=plan.n_features, k=plan.k, transcode=transcode)
        device = first.x.device
        coder = SparseCoder(plan.width, config, device=device)
        if transcode:
            coder.encoder.bias.data = -first.x.mean(dim=0) @ coder.encoder.weight.data.T
        coder.b_dec.data = first.y.mean(dim=0)
        optimizer, schedule = optimizer_of(coder, plan)
        idle = torch.zeros(plan.n_features, dtype=torch.long, device=device)
        unit_norm = config.normalize_decoder and not transcode

        def update(batch: Batch) -> None:
            if unit_norm:
                coder.set_decoder_norm_to_unit_norm()
            variance = (batch.y - batch.y.mean(0)).pow(2).sum()
            out = coder(batch.x, batch.y, dead_mask=None, total_variance=variance)
            fired = torch.zeros(plan.n_features, dtype=torch.bool, device=device)
            fired[out.latent_indices.flatten()] = True
            float(out.fvu.detach())
            out.fvu.backward()
            if unit_norm:
                coder.remove_gradient_parallel_to_decoder_directions()
            optimizer.step()
            optimizer.zero_grad()
            if schedule is not None:
                schedule.step()
            idle.add_(len(batch.x))
            idle[fired] = 0

        @torch.no_grad()
        def estimate(x: torch.Tensor) -> torch.Tensor:
            with _averaged(optimizer):
                return coder(x).sae_out

        return Trainee(update, estimate, lambda: held_by(coder, optimizer))

    return make


SPARSIFY = Peer(
    "sparsify",
    "eai-sparsify",
    {
        Kind.TOPK_SAE: _maker(_signum, transcode=False),
        Kind.TOPK_TRANSCODER: _maker(_signum, transcode=True),
    },
)
SPARSIFY_ADAM = Peer(
    "sparsify, adam",
    "eai-sparsify",
    {Kind.TOPK_SAE: _maker(_adam, transcode=False)},
    is_option=True,
)
