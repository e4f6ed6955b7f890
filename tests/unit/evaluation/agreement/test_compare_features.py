"""Agreement of features where it is known, and correlations computed the long way."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import CorruptFileError, InputError, ProvenanceError
from dictlearn.core.provenance import Provenance
from dictlearn.core.shortcuts import without_shortcuts
from dictlearn.core.sites import Site, Sites
from dictlearn.core.tokens import Tokens
from dictlearn.dictionaries.mean import Mean
from dictlearn.evaluation.agreement import compare_features as comparing
from dictlearn.evaluation.agreement import correlations
from dictlearn.evaluation.agreement.compare_features import compare_features
from dictlearn.evaluation.faithfulness.evaluate import evaluate
from dictlearn.lm.forward import activations_at
from dictlearn.lm.mlps import mlp_sites
from dictlearn.lm.sites import hook_sites
from dictlearn.records.agreement import SIMILARITY_BINS, AgreementRecords
from dictlearn.records.results import DictionaryRecord, Records

D = 16
HERE = Sites(Site("here", D), Site("here", D))
ORTHOGONAL = torch.eye(D)


class Fixed(FeatureDictionary):
    """`acts = relu(x @ directions.T - threshold)`, with the directions as atoms."""

    def __init__(self, atoms, sites=HERE, threshold=0.0):
        super().__init__(sites, len(atoms))
        self.register_buffer("_atoms", atoms.clone())
        self.threshold = threshold

    def _encode(self, z):
        return (z @ self._atoms.T - self.threshold).relu()


@pytest.fixture(scope="module")
def model(native):
    return native()


@pytest.fixture(scope="module")
def tokens():
    ids = torch.randint(1, 40, (9, 12), generator=torch.Generator().manual_seed(1))
    ids[:, 0] = 0
    return Tokens(ids, ids != 0, source="random", split="held_out", hash="abc")


@pytest.fixture(scope="module")
def sites(model):
    return hook_sites(model, "blocks.1.hook_mlp_out")


def atoms(n, seed=0):
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed))


def compared(*tensors):
    names = "abcdef"
    return compare_features({n: Fixed(t) for n, t in zip(names, tensors, strict=False)})


def test_copies_and_permutations_are_the_same(model, tokens, sites):
    a = atoms(30)
    b = 3 * a[torch.randperm(30, generator=torch.Generator().manual_seed(1))]
    same = {name: Fixed(t, sites) for name, t in {"a": a, "copy": a, "permuted": b}.items()}
    records = compare_features(same, model, tokens, chance=False, progress=False)
    assert len(records.pairs) == 6
    for pair in records.pairs:
        for measure in ("mmcs", "matched", "matched_share", "correlation", "correlation_median"):
            assert pair.value(measure) == pytest.approx(1, abs=1e-6)
        assert pair.cosine_counts[-1] == sum(pair.cosine_counts) == 30
        assert pair.correlation_counts[-1] == sum(pair.correlation_counts)
        assert pair.reasons == {}


def test_a_rotation_in_disjoint_planes_has_its_cosine():
    angle = 0.5
    turn = torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    records = compared(ORTHOGONAL, ORTHOGONAL @ torch.block_diag(*[turn] * (D // 2)))
    for pair in records.pairs:
        assert pair.mmcs == pytest.approx(math.cos(angle), abs=1e-6)
        assert pair.matched == pytest.approx(math.cos(angle), abs=1e-6)
        assert pair.matched_share == 0
        expected = int((math.cos(angle) + 1) / 2 * SIMILARITY_BINS)
        assert pair.cosine_counts[expected] == D


def test_a_part_is_in_the_whole_and_not_the_reverse():
    records = compared(ORTHOGONAL[:4], ORTHOGONAL)
    assert records.pair("a", "b").mmcs == 1
    assert records.pair("b", "a").mmcs == pytest.approx(4 / D)
    assert records.pair("a", "b").matched == records.pair("b", "a").matched == 1
    assert records.pair("b", "a").correlation_counts == []
    assert math.isnan(records.pair("a", "b").correlation)


def test_correlations_are_pearson_over_ordinary_tokens(model, tokens, sites):
    transcoder = mlp_sites(model, 0)
    both = {"a": Fixed(atoms(20), sites, 0.3), "b": Fixed(atoms(7, seed=2), transcoder)}
    with without_shortcuts():  # fused attention rounds differently, and that is not the question
        records = compare_features(both, model, tokens, chance=False, progress=False)
    x = activations_at(model, tokens.ids, [sites.source.hook, transcoder.source.hook])
    acts = [
        d.encode(x[d.sites.source.hook][tokens.ordinary]).double().numpy() for d in both.values()
    ]
    live = [a[:, a.std(axis=0) > 0] for a in acts]
    expected = np.corrcoef(*live, rowvar=False)[: live[0].shape[1], live[0].shape[1] :]
    for pair, best in zip(records.pairs, (expected.max(axis=1), expected.max(axis=0)), strict=True):
        assert pair.correlation == pytest.approx(best.mean(), abs=1e-9)
        assert pair.correlation_median == pytest.approx(np.median(best), abs=1e-9)
        assert sum(pair.correlation_counts) == len(best)
        assert "writes at" in pair.reasons["mmcs"]
        assert math.isnan(pair.mmcs)
    assert records.tokens["exclude_special"] is True


def test_blocks_and_passes_change_nothing(model, tokens, sites, monkeypatch):
    three = {
        name: Fixed(atoms(n, n), sites, 0.2) for name, n in zip("abc", (20, 7, 9), strict=True)
    }
    with without_shortcuts():
        whole = compare_features(three, model, tokens, chance=False, progress=False)
    monkeypatch.setattr(correlations, "_BLOCK", 30)
    monkeypatch.setattr(correlations, "_PASS", 70)
    monkeypatch.setattr(correlations, "_TOKENS_AT_ONCE", 24)
    assert len(correlations.passes({"a": 20, "b": 7, "c": 9})) > 3
    with without_shortcuts():
        parts = compare_features(three, model, tokens, chance=False, progress=False)
    for one, other in zip(whole.pairs, parts.pairs, strict=True):
        assert other.correlation == pytest.approx(one.correlation, abs=1e-12)
        assert other.correlation_counts == one.correlation_counts


def test_every_feature_is_in_exactly_one_block(monkeypatch):
    monkeypatch.setattr(correlations, "_BLOCK", 30)
    monkeypatch.setattr(correlations, "_PASS", 70)
    widths = {"a": 20, "b": 7, "c": 40}
    found = correlations.passes(widths)
    for some in found:
        sizes = [(block.stop - block.start) * widths[block.second] for block in some]
        assert sum(sizes) <= 70 or len(sizes) == 1
    for pair in (("a", "b"), ("a", "c"), ("b", "c")):
        covered = [
            i
            for some in found
            for block in some
            if (block.first, block.second) == pair
            for i in range(block.start, block.stop)
        ]
        assert covered == list(range(widths[pair[0]]))


def test_only_the_pairs_asked_for_are_correlated():
    pairs = [("c", "a"), ("a", "empty"), ("b", "c")]
    (blocks,) = correlations.passes({"a": 20, "b": 7, "c": 40}, pairs)
    assert [(b.first, b.second, b.start, b.stop) for b in blocks] == [
        ("c", "a", 0, 40),
        ("b", "c", 0, 7),
    ]


def test_a_feature_that_never_varies_is_no_match(model, tokens, sites):
    never = torch.cat([atoms(5), torch.zeros(2, D)])
    both = {"a": Fixed(atoms(5), sites), "b": Fixed(never, sites)}
    records = compare_features(both, model, tokens, chance=False, progress=False)
    assert records.pair("b", "a").correlation == pytest.approx(1, abs=1e-9)
    assert sum(records.pair("b", "a").correlation_counts) == 5
    assert records.dictionaries["b"].never_active_share == pytest.approx(2 / 7)
    silent = {"a": Fixed(atoms(5), sites), "b": Fixed(torch.zeros(3, D), sites)}
    pair = compare_features(silent, model, tokens, chance=False, progress=False).pair("a", "b")
    assert "'b' has no live features" in pair.reasons["correlation"]


def record_of(dictionary, density, n_rows):
    sums = {"rows": torch.tensor([n_rows / 2] * 2, dtype=torch.float64)}
    return DictionaryRecord(
        "fixed", dictionary.sites, len(density), Provenance(), {}, sums, torch.tensor(density)
    )


def test_live_only_leaves_out_what_is_never_active():
    a, b = Fixed(ORTHOGONAL[:4]), Fixed(ORTHOGONAL)
    density = {"a": [0.1] * 4, "b": [0.1] * 4 + [0.0] * (D - 4)}
    entries = {n: record_of(d, density[n], 1e6) for n, d in {"a": a, "b": b}.items()}
    evaluated = Records(Provenance(), {}, entries)
    found = compare_features({"a": a, "b": b}, records=evaluated, live_only=True)
    assert found.pair("b", "a").mmcs == 1
    assert found.dictionaries["b"].n_compared == 4
    assert compare_features({"a": a, "b": b}, records=evaluated).pair("b", "a").mmcs == 4 / D
    with pytest.raises(InputError, match="live_only needs the densities of 'a'"):
        compare_features({"a": a, "b": b}, live_only=True)
    short = replace(evaluated, dictionaries={"b": entries["a"]})
    with pytest.raises(InputError, match="records of 16 features, got 4"):
        compare_features({"a": a, "b": b}, records=short)


def test_the_ultralow_cluster_is_found():
    one = torch.nn.functional.one_hot(torch.tensor(0), D).float()
    rare = one + 0.01 * atoms(6)
    dictionary = Fixed(torch.cat([ORTHOGONAL[4:8], rare]))
    density = [0.1, 1e-3, 1e-4, 0.0, *[2e-6] * 6]
    plain = Fixed(ORTHOGONAL)
    for n_rows, known in ((10_000_000, True), (100_000, False)):
        entry = record_of(dictionary, density, n_rows)
        found = compare_features(
            {"rare": dictionary, "plain": plain},
            records=Records(Provenance(), {}, {"rare": entry}),
        ).dictionaries["rare"]
        assert found.never_active_share == pytest.approx(0.1)
        assert sum(found.density_counts) == 9
        assert ("ultralow" in found.reasons) is not known
    assert "show no density below 1e-05" in found.reasons["ultralow"]
    found = compare_features(
        {"rare": dictionary, "plain": plain},
        records=Records(Provenance(), {}, {"rare": record_of(dictionary, density, 10_000_000)}),
    )
    summary = found.dictionaries["rare"]
    assert summary.ultralow_share == pytest.approx(0.6)
    assert summary.ultralow_cosine > 0.99
    assert summary.ultralow_aligned == 1
    assert "density" in found.dictionaries["plain"].reasons


def test_how_spread_atoms_are():
    spread = compared(ORTHOGONAL, torch.ones(3, D)).dictionaries
    assert spread["a"].neurons_per_feature == [1, 1, 1]
    assert spread["b"].neurons_per_feature == pytest.approx([D, D, D])


def test_what_cannot_be_compared_says_why(monkeypatch, model, tokens, sites):
    a = Fixed(atoms(5), sites)
    empty = Mean(sites)
    other = Fixed(atoms(5), sites)
    a.provenance, other.provenance = Provenance(model_hash="x"), Provenance(model_hash="y")
    records = compare_features({"a": a, "empty": empty, "other": other}, matching_limit=4)
    assert "'empty': no features to compare" in records.pair("a", "empty").reasons["mmcs"]
    assert "different models" in records.pair("a", "other").reasons["mmcs"]
    assert "needs a model" in records.pair("a", "other").reasons["correlation"]
    other.provenance = Provenance()
    pair = compare_features({"a": a, "other": other}, matching_limit=4).pair("a", "other")
    assert "5 features, at most 4" in pair.reasons["matched"]
    assert math.isnan(pair.matched)
    assert pair.mmcs == pytest.approx(1)
    a.provenance = Provenance()
    for module in (comparing, correlations):
        monkeypatch.setattr(module, "LARGEST_PAIR", 24)
    three = {"a": a, "other": other, "empty": empty}
    records = compare_features(three, model, tokens, chance=False, progress=False)
    assert "5 x 5 features" in records.pair("a", "other").reasons["correlation"]
    assert "'empty' has no features" in records.pair("empty", "a").reasons["correlation"]


def test_records_survive_their_file(model, tokens, sites, tmp_path):
    both = {"a": Fixed(atoms(5), sites), "b": Fixed(atoms(8, seed=1), sites)}
    both["b"].provenance = Provenance(seed=3)
    evaluated = evaluate(both, model, tokens, progress=False)
    records = compare_features(both, model, tokens, records=evaluated, chance=False, progress=False)
    path = records.save(tmp_path)
    loaded = AgreementRecords.load(tmp_path)
    assert loaded.pairs == records.pairs
    assert loaded.tokens == records.tokens
    assert loaded.settings == records.settings
    assert [summary.seed for summary in loaded.dictionaries.values()] == [None, 3]
    assert loaded.provenance == records.provenance
    assert repr(loaded.dictionaries) == repr(records.dictionaries)  # some values are nan
    frame = loaded.to_pandas()
    assert frame[["first", "second"]].to_numpy().tolist() == [["a", "b"], ["b", "a"]]
    assert frame.mmcs.tolist() == [pair.mmcs for pair in records.pairs]
    assert loaded.features_to_pandas().n_features.tolist() == [5, 8]
    assert "mmcs" in loaded._repr_html_()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(CorruptFileError, match="got 99"):
        AgreementRecords.load(tmp_path)
    path.write_text('{"format": 1}')
    with pytest.raises(CorruptFileError, match="missing or malformed"):
        AgreementRecords.load(tmp_path)


def test_wrong_inputs_are_refused(model, tokens, sites):
    a = Fixed(atoms(5), sites)
    with pytest.raises(InputError, match="two or more"):
        compare_features({"a": a})
    with pytest.raises(InputError, match="only one of them"):
        compare_features({"a": a, "b": a}, model)
    stranger = Fixed(atoms(5), sites)
    stranger.provenance = Provenance(model_hash="other")
    with pytest.raises(ProvenanceError):
        compare_features({"a": a, "b": stranger}, model, tokens, chance=False, progress=False)
    records = compare_features({"a": a, "b": a})
    with pytest.raises(InputError, match="no pair 'a', 'a'"):
        records.pair("a", "a")
    with pytest.raises(InputError, match="no measure 'mcs'"):
        records.pairs[0].value("mcs")
