"""The main job: four families and their baselines on one MLP of the built-in model."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from dictlearn.comparison.report import REPORT_FILE, write_report
from dictlearn.core.batches import Activations
from dictlearn.core.config import DictionaryConfig
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.records import Records
from dictlearn.dictionaries.codebook import CodebookConfig
from dictlearn.dictionaries.identity import IdentityConfig
from dictlearn.dictionaries.mean import MeanConfig
from dictlearn.dictionaries.neurons import NeuronsConfig
from dictlearn.dictionaries.pca import PCAConfig
from dictlearn.dictionaries.random import RandomConfig
from dictlearn.dictionaries.sae import SAEConfig
from dictlearn.dictionaries.topk_sae import TopKSAEConfig
from dictlearn.dictionaries.transcoder import TranscoderConfig
from dictlearn.evaluation.evaluate import evaluate
from dictlearn.harvesting import harvest
from dictlearn.lm.loading import load_model
from dictlearn.lm.sites import mlp_sites
from dictlearn.text.tokens import load_tokens
from dictlearn.training.config import FitConfig
from dictlearn.training.fit import fit
from dictlearn.training.progress import LOG_FILE


@dataclass(frozen=True)
class DemoSize:
    """How much the demo does; the default takes minutes on two cores."""

    train_tokens: int = 500_000
    held_out_tokens: int = 40_000
    steps: int = 2000
    batch_size: int = 1024
    n_features: int = 1024


def learned_kinds(n_features: int) -> dict[str, DictionaryConfig]:
    """One dictionary per family, of equal size, near 32 active features (8 codes)."""
    return {
        "codebook": CodebookConfig(n_codes=n_features, k=8),
        "sae": SAEConfig(n_features=n_features, l1_coefficient=1.25e-2),
        "topk_sae": TopKSAEConfig(n_features=n_features, k=32),
        "transcoder": TranscoderConfig(n_features=n_features, l1_coefficient=2.1e-2),
    }


BASELINES: dict[str, DictionaryConfig] = {
    "neurons": NeuronsConfig(),
    "pca_k32": PCAConfig(k=32),
    "identity": IdentityConfig(),
    "mean": MeanConfig(),
}


def run_demo(
    out: str | Path = "runs/demo", *, layer: int = 0, seed: int = 0, size: DemoSize | None = None
) -> Records:
    """The records of the demo, written to `out` with its report.

    Harvests what one MLP reads and writes, trains a codebook, an L1 autoencoder, a top-k
    autoencoder and a transcoder over the same batches, fits the baselines, and evaluates all on
    the same held-out tokens. For every L0 that a trained dictionary reaches, rounded up, there
    is a random dictionary of as many active features.
    """
    size = size or DemoSize()
    out = Path(out)
    model = load_model("builtin:stories")
    text = "builtin:stories"
    train = load_tokens(text, model, split="train", n_tokens=size.train_tokens)
    held_out = load_tokens(text, model, split="held_out", n_tokens=size.held_out_tokens)
    sites = mlp_sites(model, layer)
    activations = harvest(model, train, sites, out / "activations", overwrite=True)
    fit_config = FitConfig(
        steps=size.steps, batch_size=size.batch_size, learning_rate=3e-3, seed=seed
    )
    learned = fit(
        learned_kinds(size.n_features) | BASELINES,
        activations,
        fit_config,
        out=out / "dictionaries",
        overwrite=True,
    )
    randoms = fit(
        _random_at_equal_l0(learned, harvest(model, held_out, sites), size.n_features),
        activations,
        FitConfig(steps=8, batch_size=size.batch_size, seed=seed),
        out=out / "random",
        overwrite=True,
    )
    records = evaluate(learned | randoms, model, held_out)
    records.save(out)
    write_report(
        records,
        out / REPORT_FILE,
        title="Four families on one MLP",
        training_log=out / "dictionaries" / LOG_FILE,
    )
    return records


@torch.no_grad()
def _random_at_equal_l0(
    dictionaries: dict[str, FeatureDictionary], activations: Activations, n_features: int
) -> dict[str, DictionaryConfig]:
    """A random dictionary for each L0 that the learned ones have on all rows, rounded up."""
    rows = activations.rows(0, 0, activations.n_rows)
    found = set()
    for name in learned_kinds(n_features):
        dictionary = dictionaries[name]
        acts = dictionary.encode_sparse(rows.batch(dictionary.sites).x)
        found.add(math.ceil(float(acts.l0().float().mean())))
    return {f"random_k{k}": RandomConfig(n_features=n_features, k=k) for k in sorted(found)}
