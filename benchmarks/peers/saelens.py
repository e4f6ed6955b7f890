"""SAELens: its training SAEs, through the step of its `SAETrainer`."""

from collections.abc import Callable
from typing import Any

import torch
from sae_lens import (
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    GatedTrainingSAE,
    GatedTrainingSAEConfig,
    JumpReLUTrainingSAE,
    JumpReLUTrainingSAEConfig,
    StandardTrainingSAE,
    StandardTrainingSAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
)
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer

from benchmarks.peers.peer import Kind, Maker, Peer, Plan, Trainee, aim_at_l0_, held_by
from dictlearn.core.batches import Batch


def _trainee(sae: Any, plan: Plan, first: Batch) -> Trainee:
    batch_size, device = len(first.x), str(first.x.device)
    config = SAETrainerConfig(
        total_training_samples=plan.steps * batch_size,
        train_batch_size_samples=batch_size,
        lr=plan.learning_rate,
        lr_end=plan.learning_rate / 10,  # required; the constant schedule does not use it
        lr_warm_up_steps=int(plan.warmup * plan.steps),
        lr_decay_steps=int(plan.decay * plan.steps),
        logger=LoggingConfig(log_to_wandb=False),
        device=device,
    )
    trainer = SAETrainer(config, sae, data_provider=iter(()))

    def update(batch: Batch) -> None:
        trainer.maybe_reset_sparsity()
        trainer.step(batch.x)
        trainer.n_training_steps += 1

    return Trainee(
        update,
        torch.no_grad()(sae),
        lambda: held_by(sae, trainer.optimizer),
    )


def _maker(build: Callable[[Plan], Any]) -> Maker:
    def make(plan: Plan, first: Batch) -> Trainee:
        torch.manual_seed(plan.seed)
        return _trainee(build(plan), plan, first)

    return make


def _standard(plan: Plan, first: Batch) -> Trainee:
    torch.manual_seed(plan.seed)
    config = StandardTrainingSAEConfig(d_in=plan.width, d_sae=plan.n_features)
    sae = StandardTrainingSAE(config).to(first.x.device)
    aim_at_l0_(sae.b_enc.data, (first.x[:64] - sae.b_dec) @ sae.W_enc.detach(), plan.k)
    return _trainee(sae, plan, first)


@torch.no_grad()
def _jumprelu(plan: Plan, first: Batch) -> Trainee:
    torch.manual_seed(plan.seed)
    config = JumpReLUTrainingSAEConfig(d_in=plan.width, d_sae=plan.n_features)
    sae = JumpReLUTrainingSAE(config)
    scores = (first.x[:64] - sae.b_dec) @ sae.W_enc + sae.b_enc
    aim_at_l0_(sae.b_enc, scores - sae.threshold, plan.k)
    return _trainee(sae, plan, first)


@torch.no_grad()
def _gated(plan: Plan, first: Batch) -> Trainee:
    torch.manual_seed(plan.seed)
    sae = GatedTrainingSAE(GatedTrainingSAEConfig(d_in=plan.width, d_sae=plan.n_features))
    aim_at_l0_(sae.b_gate, (first.x[:64] - sae.b_dec) @ sae.W_enc + sae.b_gate, plan.k)
    return _trainee(sae, plan, first)


def _topk(sparse: bool) -> Maker:
    return _maker(
        lambda p: TopKTrainingSAE(
            TopKTrainingSAEConfig(
                d_in=p.width, d_sae=p.n_features, k=p.k, use_sparse_activations=sparse
            )
        )
    )


SAELENS = Peer(
    "SAELens",
    "sae-lens",
    {
        Kind.TOPK_SAE: _topk(sparse=False),
        Kind.BATCHTOPK_SAE: _maker(
            lambda p: BatchTopKTrainingSAE(
                BatchTopKTrainingSAEConfig(d_in=p.width, d_sae=p.n_features, k=p.k)
            )
        ),
        Kind.RELU_SAE: _standard,
        Kind.JUMPRELU_SAE: _jumprelu,
        Kind.GATED_SAE: _gated,
    },
)
SAELENS_SPARSE = Peer(
    "SAELens, use_sparse_activations",
    "sae-lens",
    {Kind.TOPK_SAE: _topk(sparse=True)},
    is_option=True,
)
