"""dictionary_learning: `update` of its trainers, which its `trainSAE` calls once a step."""

from typing import Any

import torch
from dictionary_learning.trainers import BatchTopKTrainer, GatedSAETrainer, JumpReluTrainer
from dictionary_learning.trainers.standard import StandardTrainer
from dictionary_learning.trainers.top_k import TopKTrainer

from benchmarks.peers.peer import Kind, Peer, Plan, Trainee, aim_at_l0_, held_by
from dictlearn.core.batches import Batch


def _common(plan: Plan) -> dict[str, Any]:
    warmup = int(plan.warmup * plan.steps)
    return {
        "steps": plan.steps,
        "activation_dim": plan.width,
        "dict_size": plan.n_features,
        "layer": 0,
        "lm_name": "",
        "lr": plan.learning_rate,
        "warmup_steps": warmup,
        "decay_start": max(int((1 - plan.decay) * plan.steps), warmup + 1),
        "seed": plan.seed,
        "device": "cpu",
    }


def _trainee(trainer: Any) -> Trainee:
    step = 0

    def update(batch: Batch) -> None:
        nonlocal step
        trainer.update(step, batch.x)
        step += 1

    return Trainee(
        update,
        torch.no_grad()(lambda x: trainer.ae(x)),
        lambda: held_by(trainer.ae, trainer.optimizer),
    )


def _topk(plan: Plan, first: Batch) -> Trainee:
    return _trainee(TopKTrainer(k=plan.k, **_common(plan)))


def _batch_topk(plan: Plan, first: Batch) -> Trainee:
    return _trainee(BatchTopKTrainer(k=plan.k, **_common(plan)))


def _standard(plan: Plan, first: Batch) -> Trainee:
    trainer = StandardTrainer(sparsity_warmup_steps=None, **_common(plan))
    encoder = trainer.ae.encoder
    scores = (first.x[:64] - trainer.ae.bias) @ encoder.weight.T + encoder.bias
    aim_at_l0_(encoder.bias.data, scores.detach(), plan.k)
    return _trainee(trainer)


@torch.no_grad()
def _jumprelu(plan: Plan, first: Batch) -> Trainee:
    trainer = JumpReluTrainer(sparsity_warmup_steps=None, **_common(plan))
    ae = trainer.ae
    aim_at_l0_(ae.b_enc, first.x[:64] @ ae.W_enc + ae.b_enc - ae.threshold, plan.k)
    return _trainee(trainer)


@torch.no_grad()
def _gated(plan: Plan, first: Batch) -> Trainee:
    trainer = GatedSAETrainer(sparsity_warmup_steps=None, **_common(plan))
    ae = trainer.ae
    scores = ae.encoder(first.x[:64] - ae.decoder_bias) + ae.gate_bias
    aim_at_l0_(ae.gate_bias, scores, plan.k)
    return _trainee(trainer)


DICTIONARY_LEARNING = Peer(
    "dictionary_learning",
    "dictionary-learning",
    {
        Kind.TOPK_SAE: _topk,
        Kind.BATCHTOPK_SAE: _batch_topk,
        Kind.RELU_SAE: _standard,
        Kind.JUMPRELU_SAE: _jumprelu,
        Kind.GATED_SAE: _gated,
    },
)
