"""Untrained features of any number are no better than as many others."""

from statistics import fmean, stdev

import pytest
import torch
from torch.nn.functional import one_hot, softplus

from dictlearn.comparison.report.concepts import concept_verdicts
from dictlearn.comparison.statistics.precision import precision_frame
from dictlearn.core.dictionary import Traits
from dictlearn.core.provenance import Provenance
from dictlearn.core.sites import Site, Sites
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.dictionaries.codebook import CodebookConfig
from dictlearn.dictionaries.pca import PCAConfig
from dictlearn.dictionaries.random import RandomConfig
from dictlearn.dictionaries.topk_transcoder import TopKTranscoderConfig
from dictlearn.evaluation.concepts.compare_families import compare_families
from dictlearn.evaluation.concepts.detectors import DirectionDetectors, FeatureDetectors
from dictlearn.evaluation.concepts.random_features import RandomFeatures
from dictlearn.evaluation.concepts.split_halves import Half
from dictlearn.records.concepts import ConceptRecords, Family

pytestmark = pytest.mark.untyped  # long, and of types that other tests pass

N, D, N_CONCEPTS, N_SEQUENCES = 1500, 24, 20, 50
HERE = Site("here", D)


def rows_and_labels(generator, directions):
    """Rows, and concepts that each hold for the tenth that lies furthest along a direction."""
    x = torch.randn(N, D, generator=generator)
    along = x @ directions + 0.5 * torch.randn(N, N_CONCEPTS, generator=generator)
    return x, (along > along.quantile(0.9, dim=0)).T


def compared(dictionary, seed):
    """The records of a dictionary on planted concepts, beside random features and a basis."""
    generator = torch.Generator().manual_seed(100 + seed)
    directions = torch.randn(D, N_CONCEPTS, generator=generator) / D**0.5
    halves, untrained = [], None
    for _ in range(2):
        x, labels = rows_and_labels(generator, directions)
        acts = dictionary.encode_sparse(x)
        untrained = untrained or RandomFeatures.like(dictionary, acts, x, ~seed)
        features = {"d": FeatureDetectors(acts)}
        random = {"d": FeatureDetectors(untrained.encode_sparse(x))}
        basis = {HERE: {Family.BASIS: DirectionDetectors(x)}}
        sequences = torch.arange(N) // (N // N_SEQUENCES)
        halves.append(Half(labels, sequences, N_SEQUENCES, features, random, basis))
    names = [f"c{i}" for i in range(N_CONCEPTS)]
    scores = compare_families(*halves, ["d"], HERE, names)
    return ConceptRecords(Provenance(), {}, dict.fromkeys(names, "."), scores, {}, {})


def test_a_random_dictionary_of_any_width_is_at_chance_in_the_headline():
    """It wins half of the concepts: about 2 of 20 more or fewer in one draw, by chance."""
    better, differences, n_within = [], [], 0
    for width, n_draws in ((64, 20), (1024, 20), (16384, 6)):
        for seed in range(n_draws):
            dictionary = RandomConfig(n_features=width, k=8).build(Sites(HERE, HERE), seed=seed)
            frame = precision_frame(compared(dictionary, seed))
            row = frame.loc[("d", "random")]
            better.append(row.better)
            differences.append(row.difference / (row.difference_high - row.difference_low))
            n_within += row.difference_low <= 0 <= row.difference_high
    one_draw = (0.25 / N_CONCEPTS) ** 0.5
    assert stdev(better) == pytest.approx(one_draw, rel=0.3)
    assert fmean(better) == pytest.approx(0.5, abs=2 * one_draw / len(better) ** 0.5)
    assert fmean(differences) == pytest.approx(0, abs=2 * stdev(differences) / len(better) ** 0.5)
    assert n_within >= 0.9 * len(better)
    assert "not distinguishable from as many random ones" in concept_verdicts(frame)[0]


def test_features_along_the_concepts_are_better_than_random_ones():
    generator = torch.Generator().manual_seed(100)
    directions = torch.randn(D, N_CONCEPTS, generator=generator) / D**0.5
    learned = RandomFeatures(Sites(HERE, HERE), N_CONCEPTS, k=4, traits=Traits(True), seed=0)
    learned._atoms.copy_(directions.T)
    frame = precision_frame(compared(learned, 0))
    assert frame.loc[("d", "random")].difference_low > 0.2
    assert "better than as many random ones" in concept_verdicts(frame)[0]


@pytest.mark.parametrize(
    ("config", "n_groups"),
    [
        (RandomConfig(n_features=40, k=5), 1),
        (PCAConfig(k=3), 1),
        (CodebookConfig(n_codes=10, k=2, n_groups=3), 3),
        (TopKTranscoderConfig(n_features=32, k=4), 1),
    ],
)
def test_width_groups_signs_and_l0_are_those_of_the_dictionary(config, n_groups):
    source = Site("mlp.in", D) if isinstance(config, TopKTranscoderConfig) else HERE
    dictionary = config.build(Sites(source, HERE), seed=0)
    x = torch.randn(400, D, generator=torch.Generator().manual_seed(1)) + 2
    acts = dictionary.encode_sparse(x)
    made = RandomFeatures.like(dictionary, acts, x, 7)
    found = made.encode_sparse(x)
    assert made.n_features == dictionary.n_features
    assert made.sites.source == source
    l0, own = found.l0().double().mean().item(), acts.l0().double().mean().item()
    assert own - 0.01 <= l0 < own + n_groups
    assert (made.traits.binary, made.traits.nonnegative) == (
        dictionary.traits.binary,
        dictionary.traits.nonnegative,
    )
    assert bool((found.values < 0).any()) == (not dictionary.traits.nonnegative)
    if dictionary.traits.binary:
        assert found.values.unique().tolist() == [1.0]
        of_groups = found.to_dense().unflatten(1, (n_groups, -1)).sum(dim=2)
        assert of_groups.unique().tolist() == [config.k]


@pytest.mark.parametrize("active", [0.3, 0.75, 1.0])
def test_the_l0_is_matched_where_fewer_projections_are_positive(active):
    generator = torch.Generator().manual_seed(0)
    dictionary = RandomConfig(n_features=40, k=5).build(Sites(HERE, HERE), seed=0)
    acts = SparseActs.from_dense((torch.rand(400, 40, generator=generator) < active).float())
    x = torch.randn(400, D, generator=generator)
    found = RandomFeatures.like(dictionary, acts, x, 7).encode_sparse(x)
    assert 0 <= found.l0().double().mean() - acts.l0().double().mean() < 1
    assert (found.values > 0).all()


def test_the_largest_projections_are_kept_of_standardized_rows():
    """Hooks of other scales count alike, and the mean does not."""
    joined = Site(("a", "b"), (8, 8))
    x = torch.randn(600, 16, generator=torch.Generator().manual_seed(0))
    dictionary = RandomConfig(n_features=64, k=3).build(Sites(joined, joined), seed=0)
    acts = dictionary.encode_sparse(x)
    plain = RandomFeatures.like(dictionary, acts, x, 7)
    moved = x * torch.tensor([100.0, 0.01]).repeat_interleave(8) + 5
    other = RandomFeatures.like(dictionary, acts, moved, 7)
    torch.testing.assert_close(other.encode(moved), plain.encode(x), atol=1e-3, rtol=1e-3)
    projections = plain._standardized(x) @ plain._atoms.T
    largest = softplus(projections.topk(3, dim=1).values)
    torch.testing.assert_close(plain.encode(x).topk(3, dim=1).values, largest)


def test_a_dictionary_that_is_never_active_has_one_active_random_feature():
    dictionary = RandomConfig(n_features=6, k=1).build(Sites(HERE, HERE), seed=0)
    none = SparseActs.from_dense(torch.zeros(20, 6))
    x = torch.randn(20, D, generator=torch.Generator().manual_seed(0))
    made = RandomFeatures.like(dictionary, none, x, 0)
    assert made.k == 1
    assert torch.equal(made.encode(x) != 0, one_hot(made.encode(x).argmax(dim=1), 6).bool())
