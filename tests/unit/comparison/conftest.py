"""Synthetic records: an evaluation's results without a model."""

import math
from collections.abc import Callable

import pytest
import torch

from dictlearn.core.metric import Metric
from dictlearn.core.provenance import Provenance
from dictlearn.core.sites import Site, Sites
from dictlearn.dictionaries.registry import KINDS
from dictlearn.metrics.bits import QUANTIZED
from dictlearn.metrics.pooled import SUMS, pooled_metrics
from dictlearn.records.agreement import (
    SIMILARITY_BINS,
    AgreementRecords,
    FeatureSummary,
    PairAgreement,
)
from dictlearn.records.concepts import ConceptRecords, ConceptScore, Family
from dictlearn.records.results import DictionaryRecord, Records

HOSTILE = '<b onload="x">&</script>'
"""A dictionary's name that a page must not take for markup."""

VERSIONS = {"python": "3.11.9", "dictlearn": "0.1.0", "torch": "2.6.0"}
ORIGIN = Provenance(
    model="toy", model_hash="a" * 64, weight_processing="none", text_hash="c" * 64,
    split="held_out", versions=VERSIONS,
)  # fmt: skip
TOKENS = {
    "source": "stories", "split": "held_out", "hash": "b" * 64, "n_tokens": 1200,
    "n_sequences": 4, "context": 301, "exclude_special": True,
}  # fmt: skip

BASELINES = {kind.kind for kind in KINDS if kind.baseline}


def make_record(
    kind: str,
    *,
    l0: float = 8.0,
    spliced: float = 2.5,
    fvu: float = 0.25,
    density: tuple[float, ...] = (0.0, 0.001, 0.01, 1.0),
    zero: float = 4.0,
    seed: int | None = None,
    hook: str = "blocks.0.hook_mlp_out",
    source: str = "",
) -> DictionaryRecord:
    """A record of four sequences whose clean loss is 2 and mean-ablation loss 3."""
    means = {name: 1.0 for name in SUMS} | {
        "l0": l0, "squared_error": fvu, "cosine": 0.9, "kl": 0.1, "kl_zero": 1.0,
        "cross_entropy_clean": 2.0, "cross_entropy_spliced": spliced, "cross_entropy_zero": zero,
        "cross_entropy_mean": 3.0, "cross_entropy_resample": 5.0, "top1_agreement": 0.8,
    }  # fmt: skip
    means |= {new: means[name] for name, new in QUANTIZED.items()}
    sums = {name: torch.full((4,), 300 * m, dtype=torch.float64) for name, m in means.items()}
    densities = torch.tensor(density)
    metrics = pooled_metrics({name: s.sum() for name, s in sums.items()}, densities)
    sites = Sites(Site(source or hook, 24), Site(hook, 24))
    origin = ORIGIN if seed is None else ORIGIN.trained(seed)
    baseline = kind in BASELINES
    return DictionaryRecord(kind, sites, len(density), origin, metrics, sums, densities, baseline)


@pytest.fixture
def make() -> Callable[..., DictionaryRecord]:
    """The factory of single records."""
    return make_record


@pytest.fixture
def hostile() -> str:
    """The hostile name among `records`."""
    return HOSTILE


@pytest.fixture
def records() -> Records:
    """Three trained dictionaries, three baselines, one value missing, one hostile name."""
    mean = make_record("mean", l0=0.0, spliced=3.0, fvu=1.0, density=())
    mean.metrics["cosine"] = Metric(float("nan"), "the estimate has no direction")
    return Records(
        ORIGIN,
        TOKENS,
        {
            "codes": make_record("codebook", l0=4.0, spliced=2.8, seed=1),
            "sae": make_record("sae", l0=8.0, spliced=2.5, seed=0),
            HOSTILE: make_record("sae", l0=16.0, spliced=2.2, fvu=0.1, seed=1),
            "mean": mean,
            "random": make_record("random", l0=8.0, spliced=9.0, fvu=1.5),
            "identity": make_record("identity", l0=24.0, spliced=2.0, fvu=0.0),
        },
    )


def score(concept, family, average, advantage=(math.nan,) * 3, dictionary="d", precision=0.5):
    return ConceptScore(
        concept, dictionary, Family(family), 0, 1, math.nan, 50, 0.1, average, average, average,
        *advantage, 0.9 * average, *(precision,) * 3, 0.4, 0.4, 0.4,
    )  # fmt: skip


SCORES = [
    score("comma", "features", 0.9),
    score("comma", "random", 0.6, (0.3, 0.2, 0.4)),
    score("comma", "neurons", 0.5, (0.4, 0.2, 0.6)),
    score("comma", "pca", 0.2, (0.7, 0.6, 0.8)),
    score("she", "features", 0.6, precision=math.nan),
    score("she", "random", 0.4, (0.2, -0.1, 0.3)),
    score("she", "neurons", 0.5, (0.1, -0.1, 0.3)),
    score("comma", "features", 0.3, dictionary="<other>"),
    score("comma", "random", 0.4, (-0.1, -0.2, 0.1), dictionary="<other>"),
    score("comma", "neurons", 0.5, (-0.2, -0.3, -0.1), dictionary="<other>"),
]
PATTERNS = {"comma": "<,>", "she": r"\b[Ss]he\b"}
CONCEPTS = ConceptRecords(
    Provenance(), {}, PATTERNS, SCORES, {"day": "3 & 4 matches"}, {"she": "3 sequences"}
)


@pytest.fixture
def make_score() -> Callable[..., ConceptScore]:
    """The factory of single scores of concepts."""
    return score


@pytest.fixture
def concepts() -> ConceptRecords:
    """Two dictionaries, two concepts, three other families, one concept left out."""
    return CONCEPTS


HERE = Sites(Site("here", 4), Site("here", 4))


def similarity_counts(similarity):
    found = [0] * SIMILARITY_BINS
    found[min(int((similarity + 1) / 2 * SIMILARITY_BINS), SIMILARITY_BINS - 1)] = 7
    return found


def pair(first, second, mmcs):
    if math.isnan(mmcs):
        return PairAgreement(first=first, second=second, reasons={"mmcs": "<other> targets"})
    return PairAgreement(
        first=first, second=second, mmcs=mmcs, cosine_counts=similarity_counts(mmcs), matched=0.5,
        matched_share=0.25, reasons={"correlation": "needs a model and tokens"},
    )  # fmt: skip


def summary(kind, seed=None, **fields):
    return FeatureSummary(
        kind=kind, sites=HERE, n_features=7, n_compared=7, seed=seed,
        neurons_per_feature=[1.0, 2.0, 3.0], baseline=kind in BASELINES, **fields,
    )  # fmt: skip


def agreement_of(kinds, values):
    dictionaries = {
        name: summary(kind, reasons={"ultralow": "too few rows"}) for name, kind in kinds.items()
    }
    pairs = [pair(a, b, values.get((a, b), 0.5)) for a in kinds for b in kinds if a != b]
    return AgreementRecords(Provenance(), {}, {"ultralow": 1e-5}, dictionaries, pairs)


@pytest.fixture
def make_summary() -> Callable[..., FeatureSummary]:
    """The factory of summaries of a dictionary's features."""
    return summary


@pytest.fixture
def make_agreement() -> Callable[..., AgreementRecords]:
    """The factory of records of agreement."""
    return agreement_of


@pytest.fixture
def agreement(hostile) -> AgreementRecords:
    """Three trained dictionaries, a baseline, one pair without values, one hostile name."""
    kinds = {"random": "random", "sae": "sae", hostile: "topk", "sae-2": "sae"}
    values = {("sae", "sae-2"): 0.9, ("sae-2", "sae"): 0.8, ("random", hostile): math.nan}
    return agreement_of(kinds, values)
