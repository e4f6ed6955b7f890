"""The studies of `dictlearn bench`: each a function that returns what is compared, and how.

`dictlearn bench NAME --model FOLDER` and the like pass other values for the parameters. A file of
your own with such functions is run the same way (`dictlearn bench NAME --studies FILE.py`).
"""

from dictlearn.core.errors import ConfigError
from dictlearn.core.kinds import DictionaryConfig
from dictlearn.demo import BASELINES, DemoSize, demo_study
from dictlearn.dictionaries.codebook import CodebookConfig
from dictlearn.dictionaries.pca import PCAConfig
from dictlearn.dictionaries.sae import SAEConfig
from dictlearn.dictionaries.topk_sae import TopKSAEConfig
from dictlearn.dictionaries.topk_transcoder import TopKTranscoderConfig
from dictlearn.dictionaries.transcoder import TranscoderConfig
from dictlearn.experiments.circuit.study import CircuitStudy
from dictlearn.experiments.greater_than.study import GreaterThanStudy
from dictlearn.experiments.multi_hop.study import MultiHopStudy
from dictlearn.experiments.steering.study import SteeringStudy
from dictlearn.experiments.tokfsm.study import TokFSMStudy
from dictlearn.studies.study import MLP, Hook, RateSearch, Study
from dictlearn.training.config import FitConfig

BUILTIN = "builtin:stories"
_L0 = (5, 10, 25)
"""Active features of kinds that fix their number."""
_SAE_COEFFICIENTS = (0.03, 0.016, 0.009, 0.005)
_TRANSCODER_COEFFICIENTS = (0.045, 0.02, 0.009, 0.004)
_RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)


def demo(layer: int = 0, seed: int = 0) -> Study:
    """Four families and their baselines on one MLP, one sparsity each; minutes."""
    return demo_study(layer=layer, seed=seed)


def families(
    model: str = BUILTIN,
    layer: int = 0,
    n_features: int = 512,
    steps: int = 6000,
    n_seeds: int = 3,
    train_tokens: int = 500_000,
    held_out_tokens: int = 20_000,
    l1_scale: float = 1.0,
) -> Study:
    """Five families, several sparsities, three seeds, each family at its own learning rate: which
    explains most at equal cost?

    Learning rates are chosen on validation tokens, after `steps` and after a quarter and half of
    them. `l1_scale` multiplies L1 coefficients, which suit an MLP that writes 128 dimensions: the
    loss is a mean over dimensions, so for others give 128 / width.

    Raises:
        ConfigError: `steps` has no quarter.
    """
    if steps < 4:
        raise ConfigError(
            "the study families trains for a quarter and half of its steps, too: required steps "
            f"(--steps) of 4 or more, got {steps}"
        )
    return Study(
        name="families",
        question="Which family explains an MLP best at equal sparsity?",
        model=model,
        learned=five_families(n_features, l1_scale),
        baselines=BASELINES | {f"pca_k{k}": PCAConfig(k=k) for k in _L0},
        fit=FitConfig(steps=steps, batch_size=512),
        places=(MLP(layer),),
        search=RateSearch(learning_rates=_RATES, shorter=(steps // 4, steps // 2)),
        seeds=tuple(range(n_seeds)),
        train_tokens=train_tokens,
        held_out_tokens=held_out_tokens,
        bits=True,
        inspected=("codebook_k10", "sae_2", "topk_sae_k25", "transcoder_2", "topk_transcoder_k25"),
    )


def five_families(n_features: int, l1_scale: float) -> dict[str, DictionaryConfig]:
    """Each family from few to many active features; L1 coefficients are numbered, largest first."""
    configs: dict[str, DictionaryConfig] = {}
    configs |= {f"codebook_k{k}": CodebookConfig(n_codes=n_features, k=k) for k in _L0}
    configs |= {
        f"sae_{i}": SAEConfig(n_features=n_features, l1_coefficient=l1_scale * own)
        for i, own in enumerate(_SAE_COEFFICIENTS)
    }
    configs |= {f"topk_sae_k{k}": TopKSAEConfig(n_features=n_features, k=k) for k in _L0}
    configs |= {
        f"transcoder_{i}": TranscoderConfig(n_features=n_features, l1_coefficient=l1_scale * own)
        for i, own in enumerate(_TRANSCODER_COEFFICIENTS)
    }
    configs |= {
        f"topk_transcoder_k{k}": TopKTranscoderConfig(n_features=n_features, k=k) for k in _L0
    }
    return configs


def sizes(model: str = BUILTIN, layer: int = 0, steps: int = 1000, n_seeds: int = 2) -> Study:
    """Dictionaries of 256 to 4,096 features at k = 16: what does size buy, and do small ones nest
    in large ones?"""
    widths = (256, 512, 1024, 2048, 4096)
    configs: dict[str, DictionaryConfig] = {}
    configs |= {f"topk_sae_{n}": TopKSAEConfig(n_features=n, k=16) for n in widths}
    configs |= {f"topk_transcoder_{n}": TopKTranscoderConfig(n_features=n, k=16) for n in widths}
    configs |= {f"codebook_{n}": CodebookConfig(n_codes=n, k=8) for n in widths}
    return Study(
        name="sizes",
        question="What does a larger dictionary buy?",
        model=model,
        learned=configs,
        baselines=BASELINES,
        fit=FitConfig(steps=steps, batch_size=1024, learning_rate=3e-3),
        places=(MLP(layer),),
        seeds=tuple(range(n_seeds)),
        held_out_tokens=20_000,
        inspected=tuple(f"topk_sae_{n}" for n in widths),
        n_cards=2,
    )


def seeds(model: str = BUILTIN, layer: int = 0, steps: int = 2000, n_seeds: int = 5) -> Study:
    """One dictionary per family, five seeds: how much of a difference is luck?"""
    size = DemoSize()
    learned = demo_study(size=size).learned
    return Study(
        name="seeds",
        question="How far do results and features depend on the seed?",
        model=model,
        learned=learned,
        baselines=BASELINES,
        fit=FitConfig(steps=steps, batch_size=1024, learning_rate=3e-3),
        places=(MLP(layer),),
        seeds=tuple(range(n_seeds)),
        held_out_tokens=20_000,
        inspected=tuple(learned),
        n_cards=2,
    )


def sites(model: str = BUILTIN, layers: int = 2, steps: int = 1000) -> Study:
    """Top-k dictionaries at the MLP and the residual stream of every layer."""
    ks = (8, 16, 32)
    return Study(
        name="sites",
        question="Where in the model are features sparse?",
        model=model,
        learned={f"topk_sae_k{k}": TopKSAEConfig(n_features=1024, k=k) for k in ks},
        baselines={},
        fit=FitConfig(steps=steps, batch_size=1024, learning_rate=3e-3),
        places=tuple(
            place
            for layer in range(layers)
            for place in (MLP(layer), Hook(f"blocks.{layer}.hook_resid_post"))
        ),
        held_out_tokens=20_000,
    )


def tokfsm(size: str = "small", n_seeds: int = 3) -> TokFSMStudy:
    """Codebooks inside a model of a finite-state machine: what do they cost, and what do they show?

    `--size paper` is the published recipe, for a GPU.
    """
    return TokFSMStudy(size=size, n_seeds=n_seeds)


def steering(model: str = BUILTIN, n_seeds: int = 3, steps: int = 500) -> SteeringStudy:
    """Which features steer a model to a topic, and at what cost? Codes of every head, SAE features,
    and directions without training.
    """
    return SteeringStudy(model=model, n_seeds=n_seeds, steps=steps)


def circuit(model: str = BUILTIN, n_seeds: int = 3, steps: int = 1000) -> CircuitStudy:
    """Which few features make a model choose a pronoun? Circuits through transcoders, and what
    interventions make of them.
    """
    return CircuitStudy(model=model, n_seeds=n_seeds, steps=steps)


def greater_than(
    model: str = "", text: str = "", n_seeds: int = 3, steps: int = 1500
) -> GreaterThanStudy:
    """Which few features of an MLP know which years come later? Beside neurons and random features.

    By default on a small model that is trained in the study; `--model` needs one that writes years
    as 17 and one token more, as GPT-2 does, and `--text` a text on which its transcoders learn.
    """
    return GreaterThanStudy(model=model, text=text, n_seeds=n_seeds, steps=steps)


def multi_hop(n_features: int = 8, steps: int = 1000, n_seeds: int = 3) -> MultiHopStudy:
    """Do transcoders show the two hops of a circuit that is known? By layer, and across layers."""
    return MultiHopStudy(n_features=n_features, steps=steps, n_seeds=n_seeds)


_FUNCTIONS = (
    demo, families, sizes, seeds, sites, tokfsm, steering, circuit, greater_than, multi_hop,
)  # fmt: skip
STUDIES = {f.__name__.replace("_", "-"): f for f in _FUNCTIONS}
"""The studies listed by `dictlearn bench`."""
