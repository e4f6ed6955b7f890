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
from dictlearn.evaluation.concepts.detectors import DirectionDetectors, FeatureDetectors, choose
from dictlearn.evaluation.concepts.evaluate_concepts import evaluate_concepts
from dictlearn.evaluation.concepts.matched_recall import compare_families
from dictlearn.evaluation.concepts.split_halves import Half
from dictlearn.lm.forward import activations_at
from dictlearn.lm.mlps import mlp_sites, mlp_weights
from dictlearn.lm.sites import hook_sites
from dictlearn.metrics.intervals import bootstrap_weights
from dictlearn.records.concepts import ConceptRecords
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
    return Half(labels.unsqueeze(0), sequences, N_SEQUENCES, {"d": acts}, {Y: {"noise": noise}})


def planted(seed, n_useless):
    """The scores of the feature and of the best of many useless candidates."""
    generator = torch.Generator().manual_seed(seed)
    halves = [half(generator, n_useless) for _ in range(2)]
    weights = bootstrap_weights(N_SEQUENCES, 300, seed)
    return compare_families(*halves, ["d"], Y, ["planted"], weights)


def test_the_planted_feature_is_found_and_its_precision_known():
    covered = 0
    for seed in range(20):
        feature, _ = planted(seed, 5)
        assert (feature.family, feature.candidate, feature.sign) == ("features", 17, 1)
        assert feature.threshold == 1.0
        assert feature.recall == pytest.approx(HIT, abs=0.15)
        covered += feature.precision_low <= PRECISION <= feature.precision_high
    assert covered >= 16


def test_the_naive_precision_is_optimistic_and_the_held_out_one_is_not():
    """Useless candidates have the precision of the base rate; the best of 600 only seems better."""
    found = [planted(seed, 300)[1] for seed in range(20)]
    assert min(rival.naive_precision for rival in found) > 1.3 * BASE
    covered = sum(rival.precision_low <= BASE <= rival.precision_high for rival in found)
    assert covered >= 16
    mean = sum(rival.precision for rival in found) / len(found)
    assert mean == pytest.approx(BASE, rel=0.1)
    for rival in found:
        assert rival.advantage_low > 0.2
        assert rival.advantage == pytest.approx(PRECISION - BASE, abs=0.25)


def test_both_signs_are_candidates():
    generator = torch.Generator().manual_seed(0)
    labels = torch.rand(1, 400, generator=generator) < 0.2
    columns = torch.randn(400, 3, generator=generator)
    columns[:, 1] = -labels[0].float()
    negative = SparseActs.from_dense(torch.stack([columns[:, 1], columns[:, 0].relu()], dim=1))
    for candidates, column in ((DirectionDetectors(columns), 1), (FeatureDetectors(negative), 0)):
        choice = choose(candidates, labels, [[1.0]])[0]
        for best in (choice.f1, choice.average_precision, choice.precision[1.0]):
            assert best.value == pytest.approx(1)
            assert candidates.signed(best.candidate) == (column, -1)
        assert torch.equal(candidates.scores(choice.f1.candidate), labels[0].float())
        assert choice.f1.threshold == 1.0


def test_candidates_are_the_same_however_many_are_ranked_at_once(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    labels = torch.rand(2, 50, generator=generator) < 0.3
    candidates = DirectionDetectors(torch.randn(50, 20, generator=generator))
    at_once = choose(candidates, labels, [[0.5], [0.2, 0.4]])
    monkeypatch.setattr("dictlearn.evaluation.concepts.detectors._SCORES_AT_ONCE", 150)
    assert choose(candidates, labels, [[0.5], [0.2, 0.4]]) == at_once


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
    return evaluate_concepts(
        found, model, tokens, CONCEPTS, min_matches=3, n_resamples=50, progress=False
    )


def find(records, concept, dictionary, family):
    wanted = (concept, dictionary, family)
    return next(s for s in records.scores if (s.concept, s.dictionary, s.family) == wanted)


def test_a_planted_detector_has_precision_one_at_recall_one(records):
    score = asdict(find(records, "seven", "lookup", "features"))
    assert score["candidate"] == 7
    for column in ("recall", "precision", "precision_low", "precision_high", "naive_precision",
                   "average_precision", "f1"):  # fmt: skip
        assert score[column] == 1.0, column


def test_one_of_ten_words_is_found_with_a_tenth_of_the_recall(records):
    score = find(records, "ones", "lookup", "features")
    assert score.precision == 1.0
    assert 0.02 < score.recall < 0.25
    assert 10 <= score.candidate < 20


def test_neurons_against_themselves_agree(records):
    """The same neurons, as features and as rivals: the best is at most as good at its recall."""
    for concept in ("seven", "ones"):
        own = find(records, concept, "neurons", "features")
        rival = find(records, concept, "neurons", "neurons")
        assert rival.naive_precision >= own.naive_precision - 1e-9
        assert rival.naive_recall == own.naive_recall
        assert rival.recall == own.recall
        if (rival.candidate, rival.sign) == (own.candidate, own.sign):
            assert rival.precision == pytest.approx(own.precision)


def test_what_is_left_out_is_listed_with_the_reason(records):
    assert records.left_out.keys() == {"none", "lookup: neurons"}
    assert "0 and 0 matches" in records.left_out["none"]
    assert "hook_embed" in records.left_out["lookup: neurons"]
    assert records.patterns == {c.name: c.pattern for c in CONCEPTS[:2]}
    assert [(s.dictionary, s.family) for s in records.scores if s.concept == "ones"] == [
        ("lookup", "features"), ("lookup", "basis"), ("lookup", "pca"), ("neurons", "features"),
        ("neurons", "neurons"), ("neurons", "basis"), ("neurons", "pca"),
    ]  # fmt: skip


def test_records_survive_their_file(records, tmp_path):
    path = records.save(tmp_path)
    again = ConceptRecords.load(tmp_path)
    assert again.to_pandas().equals(records.to_pandas())
    assert (again.provenance, again.tokens) == (records.provenance, records.tokens)
    assert (again.patterns, again.left_out) == (records.patterns, records.left_out)
    assert "<table" in again._repr_html_()
    path.write_text(path.read_text().replace('"f1"', '"f2"'))
    with pytest.raises(CorruptFileError, match="was altered or damaged"):
        ConceptRecords.load(tmp_path)
    path.write_text('{"format": 9}')
    with pytest.raises(CorruptFileError, match="format 2, got 9"):
        ConceptRecords.load(tmp_path)


def test_features_that_never_meet_a_concept_have_no_precision():
    generator = torch.Generator().manual_seed(0)
    halves = [half(generator, 5) for _ in range(2)]
    silent = FeatureDetectors(SparseActs.from_dense(torch.zeros(N_SEQUENCES * LENGTH, 3)))
    halves = [replace(h, features={"d": silent}) for h in halves]
    weights = bootstrap_weights(N_SEQUENCES, 20)
    feature, rival = compare_families(*halves, ["d"], Y, ["planted"], weights)
    assert feature.recall == feature.f1 == feature.naive_recall == rival.recall == 0
    undefined = (feature.precision, feature.threshold, feature.naive_precision, rival.precision,
                 rival.advantage, rival.advantage_low, rival.naive_precision)  # fmt: skip
    assert all(math.isnan(value) for value in undefined)
    assert feature.average_precision == pytest.approx(halves[1].labels.double().mean().item())


def test_the_seed_decides_the_halves(records, model, tokens):
    dictionaries = {"neurons": neurons_of(model, 1)}
    frames = [
        evaluate_concepts(dictionaries, model, tokens, CONCEPTS[:2], min_matches=3, seed=seed,
                          n_resamples=50, progress=False).to_pandas()
        for seed in (0, 1)
    ]  # fmt: skip
    of_both = records.to_pandas().query("dictionary == 'neurons'").reset_index(drop=True)
    assert frames[0].equals(of_both), "company changes nothing"
    assert not frames[0].equals(frames[1])


def test_what_cannot_be_evaluated_is_refused(model, tokens):
    neurons = neurons_of(model, 1)
    with pytest.raises(InputError, match="at least one"):
        evaluate_concepts({}, model, tokens, CONCEPTS)
    with pytest.raises(InputError, match="at least 100 matches"):
        evaluate_concepts({"n": neurons}, model, tokens, CONCEPTS[:1], min_matches=100)
    few = Tokens(tokens.ids[:3], tokens.ordinary[:3], "random", "held_out", "abc")
    with pytest.raises(InputError, match="halves"):
        evaluate_concepts({"n": neurons}, model, few, CONCEPTS)
    neurons.provenance = Provenance(model="other", model_hash="0" * 64)
    with pytest.raises(ProvenanceError, match="other"):
        evaluate_concepts({"n": neurons}, model, tokens, CONCEPTS)
