"""vector-quantize-pytorch: a forward pass in training mode is the whole step.

Its codebooks learn by moving averages inside that pass: no gradient and no optimizer.
"""

import torch
from vector_quantize_pytorch import ResidualVQ, VectorQuantize

from benchmarks.peers.peer import Kind, Peer, Plan, Trainee, held_by
from dictlearn.core.batches import Batch


def _trainee(quantizer: torch.nn.Module) -> Trainee:
    def update(batch: Batch) -> None:
        quantizer(batch.x.unsqueeze(0))

    @torch.no_grad()
    def estimate(x: torch.Tensor) -> torch.Tensor:
        quantizer.eval()
        quantized = quantizer(x.unsqueeze(0))[0].squeeze(0)
        quantizer.train()
        return quantized

    return Trainee(update, estimate, lambda: held_by(quantizer, None))


def _one_code(plan: Plan, first: Batch) -> Trainee:
    torch.manual_seed(plan.seed)
    return _trainee(VectorQuantize(dim=plan.width, codebook_size=plan.n_features))


def _residual(plan: Plan, first: Batch) -> Trainee:
    torch.manual_seed(plan.seed)
    return _trainee(
        ResidualVQ(dim=plan.width, codebook_size=plan.n_features, num_quantizers=plan.k)
    )


VECTOR_QUANTIZE = Peer(
    "vector-quantize-pytorch",
    "vector-quantize-pytorch",
    {Kind.ONE_CODE: _one_code, Kind.RESIDUAL_CODEBOOK: _residual},
)
