"""SAELens from a language model on: its training runners, its activations, its evaluation."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from sae_lens import (
    LanguageModelSAERunnerConfig,
    LanguageModelSAETrainingRunner,
    LoggingConfig,
    TopKSAE,
    TopKSAEConfig,
    TopKTrainingSAEConfig,
)
from sae_lens.evals import EvalConfig, run_evals
from sae_lens.multi_sae_training_runner import (
    MultiSAETrainingRunner,
    MultiSAETrainingRunnerConfig,
)
from sae_lens.saes.sae import SAEMetadata
from sae_lens.training.activation_scaler import ActivationScaler
from sae_lens.training.activations_store import ActivationsStore
from torch import Tensor

from benchmarks.peers.language import Setting
from benchmarks.peers.peer import Plan
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.tokens import Tokens

EXCLUDE_SPECIAL = True
"""As dictlearn does by default."""


def as_dataset(tokens: Tokens) -> Dataset:
    """The same blocks of tokens, as a pretokenized dataset."""
    return Dataset.from_dict({"input_ids": tokens.ids.tolist()})


def _shared(setting: Setting, plan: Plan, batch_size: int) -> dict[str, Any]:
    """Arguments of both runners: defaults, except for the schedule and file output."""
    return {
        "model_name": setting.name,
        "context_size": setting.train.ids.shape[1],
        "training_tokens": plan.steps * batch_size,
        "train_batch_size_tokens": batch_size,
        "lr": plan.learning_rate,
        "lr_warm_up_steps": int(plan.warmup * plan.steps),
        "lr_decay_steps": int(plan.decay * plan.steps),
        "seed": plan.seed,
        "exclude_special_tokens": EXCLUDE_SPECIAL,
        "logger": LoggingConfig(log_to_wandb=False),
        "checkpoint_path": None,
        "output_path": None,
    }


def _config(setting: Setting, plan: Plan, k: int) -> TopKTrainingSAEConfig:
    return TopKTrainingSAEConfig(d_in=setting.sites.target.d, d_sae=plan.n_features, k=k)


def train_one(setting: Setting, plan: Plan, batch_size: int, dataset: Dataset) -> Any:
    """A top-k SAE by the documented runner, harvest included."""
    torch.manual_seed(plan.seed)
    config = LanguageModelSAERunnerConfig(
        sae=_config(setting, plan, plan.k),
        hook_name=setting.hook,
        verbose=False,
        **_shared(setting, plan, batch_size),
    )
    with contextlib.redirect_stderr(io.StringIO()):
        runner = LanguageModelSAETrainingRunner(
            config, override_dataset=dataset, override_model=setting.model
        )
        return runner.run()


def train_several(
    setting: Setting, plan: Plan, ks: Sequence[int], batch_size: int, dataset: Dataset
) -> Any:
    """Top-k SAEs with these k by the runner that shares one forward pass among them."""
    torch.manual_seed(plan.seed)
    config = MultiSAETrainingRunnerConfig(
        saes={f"k{k}": _config(setting, plan, k) for k in ks},
        hook_names=setting.hook,
        **_shared(setting, plan, batch_size),
    )
    with contextlib.redirect_stderr(io.StringIO()):
        runner = MultiSAETrainingRunner(
            config, override_dataset=dataset, override_model=setting.model
        )
        return runner.run()


def stream(setting: Setting, plan: Plan, dataset: Dataset, n_rows: int, batch_size: int) -> None:
    """Read `n_rows` rows of activations from its store, in shuffled batches."""
    config = LanguageModelSAERunnerConfig(
        sae=_config(setting, plan, plan.k),
        hook_name=setting.hook,
        verbose=False,
        **_shared(setting, plan, batch_size),
    )
    store = ActivationsStore.from_config(setting.model, config, override_dataset=dataset)
    for _ in range(n_rows // batch_size):
        next(store)


@torch.no_grad()
def converted(dictionary: FeatureDictionary, setting: Setting, context: int) -> TopKSAE:
    """The same top-k SAE in this library: scores, features, atoms and bias in raw units."""
    encoder: Tensor = dictionary.W_enc
    config = TopKSAEConfig(
        d_in=setting.sites.target.d,
        d_sae=dictionary.n_features,
        k=dictionary.k,
        apply_b_dec_to_input=True,
        rescale_acts_by_decoder_norm=False,
        metadata=SAEMetadata(
            model_name=setting.name,
            hook_name=setting.hook,
            context_size=context,
            prepend_bos=False,
        ),
    )
    sae = TopKSAE(config)
    sae.W_enc.copy_(encoder / dictionary.x_scale)
    sae.b_enc.copy_(dictionary.b_enc)
    sae.W_dec.copy_(dictionary.atoms)
    sae.b_dec.copy_(dictionary.bias)
    return sae.eval()


def evaluate(
    sae: TopKSAE, setting: Setting, dataset: Dataset, n_sequences: int, batch_size: int
) -> dict[str, float]:
    """Every metric of its `run_evals` that takes tokens, on `n_sequences` sequences."""
    store = ActivationsStore.from_sae(
        setting.model, sae, dataset, streaming=False, store_batch_size_prompts=batch_size
    )
    n_batches = n_sequences // batch_size
    found, _ = run_evals(
        sae,
        store,
        setting.model,
        ActivationScaler(),
        EvalConfig(
            batch_size_prompts=batch_size,
            n_eval_reconstruction_batches=n_batches,
            compute_kl=True,
            compute_ce_loss=True,
            n_eval_sparsity_variance_batches=n_batches,
            compute_l2_norms=True,
            compute_sparsity_metrics=True,
            compute_variance_metrics=True,
            compute_featurewise_density_statistics=True,
        ),
        exclude_special_tokens=EXCLUDE_SPECIAL,
    )
    return {name: value for group in found.values() for name, value in group.items()}
