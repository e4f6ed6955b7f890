"""Planted data, where the truth is known: what is chosen, and what may be believed of it."""

import math
from dataclasses import asdict, replace

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import CorruptFileError, InputError, ProvenanceError
from dictlearn.core.provenance import Provenance
from dictlearn.core.sites import Site
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.core.tokens import Tokens
from dictlearn.dictionaries.neurons import NeuronsConfig
from dictlearn.evaluation.concepts.compare_families import compare_families, without_interval
from dictlearn.evaluation.concepts.detectors import DirectionDetectors, FeatureDetectors, choose
from dictlearn.evaluation.concepts.evaluate_concepts import evaluate_concepts
from dictlearn.evaluation.concepts.split_halves import Half
from dictlearn.lm.forward import activations_at
from dictlearn.lm.mlps import mlp_sites, mlp_weights
from dictlearn.lm.sites import hook_sites
from dictlearn.records.concepts import ConceptRecords, Family
from dictlearn.text.concepts import Concept

N_SEQUENCES, LENGTH = 60, 25
Y = Site("y", 4)
BASE, HIT, FALSE = 0.06, 0.3, 0.01
PRECISION = BASE * HIT / (BASE * HIT + (1 - BASE) * FALSE)  # of the planted feature: 0.66


def neurons_of(model, layer):
    sites = mlp_sites(model, layer)
    return NeuronsConfig(mlp=mlp_weights(model, sites)).build(sites)


def half(generator, n_useless):
    """One feature that finds the concept with known precision, among many of pure noise."""
    n = N_SEQUENCES * LENGTH
    labels = torch.rand(n, generator=generator) < BASE
    chance = torch.where(labels, HIT, FALSE)
    features = (torch.rand(n, 40, generator=generator) < 0.05).float()
    features[:, 17] = (torch.rand(n, generator=generator) < chance).float()
    noise = DirectionDetectors(torch.randn(n, n_useless, generator=generator))
    acts = FeatureDetectors(SparseActs.from_dense(features))
    sequences = torch.arange(n) // LENGTH
    others = FeatureDetectors(SparseActs.from_dense(features[:, :16]))
    baselines = {Y: {Family.NEURONS: noise}}
    return Half(labels.unsqueeze(0), sequences, N_SEQUENCES, {"d": acts}, {"d": others}, baselines)


def planted(seed, n_useless):
    """The scores of the feature and of the best of many useless candidates."""
    generator = torch.Generator().manual_seed(seed)
    halves = [half(generator, n_useless) for _ in range(2)]
    return compare_families(*halves, ["d"], Y, ["planted"])


def test_the_planted_feature_is_found_and_its_precision_known():
    covered = 0
    for seed in range(20):
        feature, *_ = planted(seed, 5)
        assert (feature.family, feature.candidate, feature.sign) == (Family.FEATURES, 17, 1)
        assert feature.threshold == 1.0
        assert feature.recall == pytest.approx(HIT, abs=0.15)
        assert feature.base_rate == pytest.approx(BASE, abs=0.03)
        assert feature.average_precision == pytest.approx(
            feature.recall * feature.precision + (1 - feature.recall) * feature.base_rate
        ), "of binary scores, with two thresholds"
        covered += feature.precision_low <= PRECISION <= feature.precision_high
    assert covered >= 16


def test_the_naive_number_is_optimistic_and_the_held_out_ones_are_not():
    """Useless candidates have the precision of the base rate; the best of 600 only seems better."""
    found = [planted(seed, 300)[2] for seed in range(20)]
    naive = [rival.naive_average_precision / rival.base_rate for rival in found]
    assert min(naive) > 1.3
    for measure in ("average_precision", "precision"):
        values = [asdict(rival)[measure] / rival.base_rate for rival in found]
        assert sum(values) / 20 == pytest.approx(1, abs=0.12), measure
    for rival in found:
        assert rival.advantage_low > 0.05
        feature = HIT * PRECISION + (1 - HIT) * BASE
        assert rival.advantage == pytest.approx(feature - BASE, abs=0.15)


def test_both_signs_are_candidates():
    generator = torch.Generator().manual_seed(0)
    labels = torch.rand(1, 400, generator=generator) < 0.2
    columns = torch.randn(400, 3, generator=generator)
    columns[:, 1] = -labels[0].float()
    negative = SparseActs.from_dense(torch.stack([columns[:, 1], columns[:, 0].relu()], dim=1))
    for candidates, column in ((DirectionDetectors(columns), 1), (FeatureDetectors(negative), 0)):
        choice = choose(candidates, labels)[0]
        assert choice.average_precision == pytest.approx(1)
        assert candidates.signed(choice.candidate) == (column, -1)
        assert torch.equal(candidates.scores(choice.candidate), labels[0].float())
        assert choice.threshold == 1.0


def test_candidates_are_the_same_however_many_are_ranked_at_once(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    labels = torch.rand(2, 50, generator=generator) < 0.3
    candidates = DirectionDetectors(torch.randn(50, 20, generator=generator))
    at_once = choose(candidates, labels)
    monkeypatch.setattr("dictlearn.evaluation.concepts.detectors._SCORES_AT_ONCE", 150)
    assert choose(candidates, labels) == at_once


def test_matches_in_three_sequences_give_no_interval():
    choosing, scoring = (half(torch.Generator().manual_seed(seed), 5) for seed in range(2))
    for n in (3, 4):
        few = scoring.labels & (scoring.sequences < n)
        few[0, ::LENGTH] = scoring.sequences[::LENGTH] < n  # one in each
        limited = replace(scoring, labels=few)
        scores = compare_families(choosing, limited, ["d"], Y, ["planted"])
        unsure = without_interval(limited, ["planted"])
        assert all(math.isfinite(s.average_precision) for s in scores)
        assert [math.isnan(s.average_precision_low) for s in scores] == [n == 3] * 3
        assert [math.isnan(s.advantage_high) for s in scores[1:]] == [n == 3] * 2
        said = {"planted": "3 sequences with a match, at least 4 are required"}
        assert unsure == (said if n == 3 else {})


# On a model


class Lookup(FeatureDictionary):
    """Feature i is active where the row is the embedding of token i."""

    def __init__(self, sites, embeddings):
        super().__init__(sites, len(embeddings))
        self.register_buffer("_atoms", embeddings)

    def _encode(self, z):
        return (torch.cdist(z, self._atoms) < 1e-4).to(z)


@pytest.fixture(scope="module")
def model(native):
    """Forty words, of which the first is special."""
    words = {"<eos>": 0, **{f"w{i}": i for i in range(1, 40)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<eos>"))
    model = native()
    model.tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")
    return model


@pytest.fixture(scope="module")
def tokens():
    ids = torch.randint(1, 40, (60, 12), generator=torch.Generator().manual_seed(2))
    ids[:, 0] = 0
    return Tokens(ids, ids != 0, source="random", split="held_out", hash="abc")


CONCEPTS = [Concept("seven", r"w7\b"), Concept("ones", r"w1\d"), Concept("none", r"zebra")]


@pytest.fixture(scope="module")
def records(model, tokens):
    sites = hook_sites(model, "hook_embed")
    embedded = activations_at(model, torch.arange(40).reshape(4, 10), ["hook_embed"])
    lookup = Lookup(sites, embedded["hook_embed"].flatten(0, 1))
    neurons = neurons_of(model, 1)
    found = {"lookup": lookup, "neurons": neurons}
    return evaluate_concepts(found, model, tokens, CONCEPTS, min_matches=3, progress=False)


def find(records, concept, dictionary, family):
    wanted = (concept, dictionary, family)
    return next(s for s in records.scores if (s.concept, s.dictionary, s.family) == wanted)


def test_a_planted_detector_has_precision_one_at_recall_one(records):
    score = asdict(find(records, "seven", "lookup", "features"))
    assert score["candidate"] == 7
    for column in ("recall", "precision", "naive_average_precision", "average_precision"):
        assert score[column] == 1.0, column
    for column in ("recall", "precision", "average_precision"):
        assert 0.3 < score[f"{column}_low"] < score[f"{column}_high"] == 1.0, column


def test_one_of_ten_words_is_found_with_a_tenth_of_the_recall(records):
    score = find(records, "ones", "lookup", "features")
    assert score.precision == 1.0
    assert 0.02 < score.recall < 0.25
    assert 10 <= score.candidate < 20


def test_neurons_against_themselves_agree(records):
    """The same neurons, as features of one sign each and as rivals with both."""
    for concept in ("seven", "ones"):
        own = find(records, concept, "neurons", "features")
        rival = find(records, concept, "neurons", "neurons")
        assert (rival.candidate, rival.sign) == (own.candidate, own.sign)
        assert rival.naive_average_precision == pytest.approx(own.naive_average_precision, rel=0.1)
        assert rival.advantage == own.average_precision - rival.average_precision
        assert rival.advantage_low <= rival.advantage <= rival.advantage_high


def test_what_is_left_out_is_listed_with_the_reason(records):
    assert records.left_out.keys() == {"none", "lookup: neurons"}
    assert "0 and 0 matches" in records.left_out["none"]
    assert "hook_embed" in records.left_out["lookup: neurons"]
    assert records.patterns == {c.name: c.pattern for c in CONCEPTS[:2]}
    assert [(s.dictionary, s.family) for s in records.scores if s.concept == "ones"] == [
        ("lookup", "features"), ("lookup", "random"), ("lookup", "basis"), ("lookup", "pca"),
        ("neurons", "features"), ("neurons", "random"), ("neurons", "neurons"),
        ("neurons", "basis"), ("neurons", "pca"),
    ]  # fmt: skip


def test_records_survive_their_file(records, tmp_path):
    path = records.save(tmp_path)
    again = ConceptRecords.load(tmp_path)
    assert again.to_pandas().equals(records.to_pandas())
    assert (again.provenance, again.tokens) == (records.provenance, records.tokens)
    assert (again.patterns, again.left_out) == (records.patterns, records.left_out)
    assert "<table" in again._repr_html_()
    path.write_text(path.read_text().replace('"recall"', '"call"'))
    with pytest.raises(CorruptFileError, match="was altered or damaged"):
        ConceptRecords.load(tmp_path)
    path.write_text('{"format": 9}')
    with pytest.raises(CorruptFileError, match="format 2, got 9"):
        ConceptRecords.load(tmp_path)


def test_features_that_never_meet_a_concept_have_no_precision():
    generator = torch.Generator().manual_seed(0)
    halves = [half(generator, 5) for _ in range(2)]
    silent = FeatureDetectors(SparseActs.from_dense(torch.zeros(N_SEQUENCES * LENGTH, 3)))
    halves = [replace(h, features={"d": silent}, random={"d": silent}) for h in halves]
    feature, untrained, _ = compare_families(*halves, ["d"], Y, ["planted"])
    assert (feature.recall, feature.recall_low) == (0, 0)
    assert 0.03 < feature.recall_high < 0.2, "3.7 over some 40 effective sequences"
    undefined = (feature.precision, feature.precision_low, feature.threshold)
    assert all(math.isnan(value) for value in undefined)
    assert feature.average_precision == pytest.approx(feature.base_rate)
    assert untrained.advantage == 0


def test_the_seed_decides_the_halves(records, model, tokens):
    dictionaries = {"neurons": neurons_of(model, 1)}
    frames = [
        evaluate_concepts(dictionaries, model, tokens, CONCEPTS[:2], min_matches=3, seed=seed,
                          progress=False).to_pandas()
        for seed in (0, 1)
    ]  # fmt: skip
    of_both = records.to_pandas().query("dictionary == 'neurons'").reset_index(drop=True)
    assert frames[0].equals(of_both), "company changes nothing"
    assert not frames[0].equals(frames[1])


def test_what_cannot_be_evaluated_is_refused(model, tokens):
    neurons = neurons_of(model, 1)
    with pytest.raises(InputError, match="a dictionary, or several"):
        evaluate_concepts({}, model, tokens, CONCEPTS)
    with pytest.raises(InputError, match="at least 100 matches"):
        evaluate_concepts({"n": neurons}, model, tokens, CONCEPTS[:1], min_matches=100)
    few = Tokens(tokens.ids[:3], tokens.ordinary[:3], "random", "held_out", "abc")
    with pytest.raises(InputError, match="halves"):
        evaluate_concepts({"n": neurons}, model, few, CONCEPTS)
    neurons.provenance = Provenance(model="other", model_hash="0" * 64)
    with pytest.raises(ProvenanceError, match="other"):
        evaluate_concepts({"n": neurons}, model, tokens, CONCEPTS)
