"""dictlearn from a language model on, as its README shows it."""

from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.peers.language import TEXT, Setting
from benchmarks.peers.peer import Plan
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.dictionaries.topk_sae import TopKSAEConfig
from dictlearn.harvesting import harvest
from dictlearn.text.tokens import load_tokens
from dictlearn.training.config import FitConfig
from dictlearn.training.fit import fit


def train(
    setting: Setting, plan: Plan, ks: tuple[int, ...], batch_size: int
) -> dict[int, FeatureDictionary]:
    """Top-k SAEs by their k, from one call of `fit`, harvest included.

    As many rows are harvested as the steps will read, or all there are: then steps begin anew.
    """
    needed = min(plan.steps * batch_size, setting.n_tokens)
    tokens = load_tokens(TEXT, setting.model, split="train", n_tokens=needed)
    run = FitConfig(
        steps=plan.steps,
        batch_size=batch_size,
        learning_rate=plan.learning_rate,
        seed=plan.seed,
        warmup_fraction=plan.warmup,
        decay_fraction=plan.decay,
    )
    with TemporaryDirectory() as folder:
        activations = harvest(
            setting.model, tokens, setting.sites, Path(folder) / "activations", progress=False
        )
        configs = {f"k{k}": TopKSAEConfig(n_features=plan.n_features, k=k) for k in ks}
        dictionaries = fit(configs, activations, run, progress=False)
    return {k: dictionaries[f"k{k}"] for k in ks}


def store(setting: Setting, folder: Path) -> None:
    """Harvest the training tokens into `folder`."""
    harvest(setting.model, setting.train, setting.sites, folder, overwrite=True, progress=False)


def stream(setting: Setting, n_rows: int, batch_size: int) -> None:
    """Read `n_rows` rows of activations live, in shuffled batches."""
    live = harvest(setting.model, setting.train, setting.sites)
    for step in range(n_rows // batch_size):
        live.rows(0, step, batch_size)
