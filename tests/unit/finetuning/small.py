"""A small model and fresh blocks, built the same in every process."""

from pathlib import Path

import torch

from dictlearn.dictionaries.codebook import CodebookConfig
from dictlearn.dictionaries.jumprelu_sae import JumpReLUSAEConfig
from dictlearn.dictionaries.topk_transcoder import TopKTranscoderConfig
from dictlearn.finetuning.config import FinetuneConfig
from dictlearn.finetuning.finetune import finetune
from dictlearn.finetuning.finetuned import Finetuned
from dictlearn.lm.mlps import mlp_sites
from dictlearn.lm.native import NativeModelConfig, new_model

Z, MLP = "blocks.0.attn.hook_z", "blocks.1.mlp.hook_out"
SHAPE = NativeModelConfig(n_layers=2, d_model=16, n_heads=2, d_mlp=32, n_ctx=16, d_vocab=11)


class Counting:
    """Sequences that count up from a random number, modulo 11, and sometimes skip one."""

    def sample(self, n, seed):
        g = torch.Generator().manual_seed(seed)
        steps = 1 + (torch.rand(n, 12, generator=g) < 0.2).long()
        return (torch.randint(11, (n, 1), generator=g) + steps.cumsum(1)) % 11


def built(dtype=torch.float64, seed=0):
    return new_model(SHAPE, seed=seed, dtype=dtype)


CONFIGS = {
    Z: CodebookConfig(n_codes=24, k=2, n_groups=2, replace_after_steps=4),
    "tc": TopKTranscoderConfig(n_features=24, k=3),
    "jump": JumpReLUSAEConfig(n_features=24),
}
RUN = FinetuneConfig(
    steps=12, batch_size=8, learning_rate=1e-2, model_learning_rate=1e-3, dtype="float64",
    log_every=3, checkpoint_every=5, standardize_rows=192, dead_after=3, k_start=4,
)  # fmt: skip


def run(out: Path | None, config: FinetuneConfig = RUN, model=None, blocks=None) -> Finetuned:
    """The same run in whatever process; its log and checkpoints go to `out`."""
    model = built() if model is None else model
    sites = {"tc": mlp_sites(model, 0), "jump": mlp_sites(model, 1).at_target()}
    return finetune(
        model, CONFIGS, blocks or Counting(), config, sites=sites, out=out, progress=False
    )


def tensors(found: Finetuned) -> dict[str, torch.Tensor]:
    """All that was learned."""
    all_ = {f"model/{name}": p.detach() for name, p in found.model.named_parameters()}
    for name, d in found.dictionaries.items():
        all_ |= {f"{name}/{key}": t for key, t in d.state_dict().items()}
    return all_


def work(out: Path) -> None:
    """What each of several processes does: the run, and its result in a file of its rank."""
    from safetensors.torch import save_file

    from dictlearn.distributed.launching import join

    found = run(out / "run")
    learned = {name: t.contiguous() for name, t in tensors(found).items()}
    save_file(learned, out / f"{join().rank}.safetensors")
