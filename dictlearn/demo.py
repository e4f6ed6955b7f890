"""The demo: four kinds of dictionary and baselines on one MLP of the built-in model."""

from dataclasses import dataclass

from dictlearn.core.kinds import DictionaryConfig
from dictlearn.dictionaries.codebook import CodebookConfig
from dictlearn.dictionaries.identity import IdentityConfig
from dictlearn.dictionaries.mean import MeanConfig
from dictlearn.dictionaries.neurons import NeuronsConfig
from dictlearn.dictionaries.pca import PCAConfig
from dictlearn.dictionaries.sae import SAEConfig
from dictlearn.dictionaries.topk_sae import TopKSAEConfig
from dictlearn.dictionaries.transcoder import TranscoderConfig
from dictlearn.studies.study import MLP, Study
from dictlearn.training.config import FitConfig


@dataclass(frozen=True)
class DemoSize:
    """Sizes of the demo; the default takes minutes on two cores."""

    train_tokens: int = 500_000
    held_out_tokens: int = 40_000
    steps: int = 2000
    batch_size: int = 1024
    n_features: int = 1024
    n_cards: int = 6
    concept_tokens: int = 20_000


def learned_kinds(n_features: int) -> dict[str, DictionaryConfig]:
    """One dictionary per kind, of equal size, with about 32 active features (8 codes)."""
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


def demo_study(*, layer: int = 0, seed: int = 0, size: DemoSize | None = None) -> Study:
    """A study of a codebook, an L1 SAE, a top-k SAE and a transcoder on one MLP.

    For the L0 of each, rounded up, there is a random dictionary with as many active features.
    """
    size = size or DemoSize()
    learned = learned_kinds(size.n_features)
    return Study(
        name="demo",
        question="Four families on one MLP",
        learned=learned,
        baselines=BASELINES,
        randoms_with=size.n_features,
        fit=FitConfig(steps=size.steps, batch_size=size.batch_size, learning_rate=3e-3),
        places=(MLP(layer),),
        seeds=(seed,),
        train_tokens=size.train_tokens,
        held_out_tokens=size.held_out_tokens,
        bits=True,
        inspected=tuple(learned),
        n_cards=size.n_cards,
        concept_tokens=size.concept_tokens,
    )
