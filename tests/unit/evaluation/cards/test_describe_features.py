"""Planted features, whose contexts, logit weights and neighbours are known."""

import re

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import CorruptFileError, InputError, NonFiniteError, ProvenanceError
from dictlearn.core.provenance import Provenance
from dictlearn.core.sites import Site, Sites
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.core.tokens import Tokens
from dictlearn.dictionaries.mean import MeanConfig
from dictlearn.evaluation.cards import describe_features as describing
from dictlearn.evaluation.cards import feature_card
from dictlearn.evaluation.cards.describe_features import describe_features
from dictlearn.evaluation.cards.nearest_atoms import nearest_atoms
from dictlearn.evaluation.cards.top_contexts import TopContexts, Windows
from dictlearn.lm.forward import activations_at
from dictlearn.lm.mlps import mlp_sites
from dictlearn.lm.sites import hook_sites
from dictlearn.lm.unembedding import logit_map
from dictlearn.records.features import FeatureRecords

N_WORDS, WIDTH = 40, 16
EOS = 0


class Lookup(FeatureDictionary):
    """Feature i is active, by 1 + i/10, where the row is the embedding of token i."""

    def __init__(self, sites, embeddings, atoms=None):
        super().__init__(sites, len(embeddings))
        self.register_buffer("_atoms", embeddings if atoms is None else atoms)
        self.embeddings = embeddings

    def _encode(self, z):
        found = (torch.cdist(z, self.embeddings) < 1e-4).to(z)
        return found * (1 + torch.arange(len(self.embeddings)) / 10)


class ByPosition(FeatureDictionary):
    """One feature for every token of the text: as active as a table says."""

    def __init__(self, sites, table, atoms):
        super().__init__(sites, table.shape[1])
        self.table, self.seen = table, 0
        self.register_buffer("_atoms", atoms)

    def _encode(self, z):
        rows = self.table[self.seen : self.seen + len(z)]
        self.seen += len(z)
        return rows


@pytest.fixture(scope="module")
def model(native):
    """Forty words, of which the first is special."""
    words = {"<eos>": 0, **{f"w{i}": i for i in range(1, N_WORDS)}}
    backend = Tokenizer(models.WordLevel(words, unk_token="<eos>"))
    backend.decoder = decoders.Fuse()
    model = native()
    model.tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")
    return model


def as_tokens(ids):
    return Tokens(ids, ids != EOS, source="planted", split="held_out", hash="abc")


@pytest.fixture(scope="module")
def tokens():
    ids = torch.randint(1, N_WORDS, (30, 12), generator=torch.Generator().manual_seed(2))
    ids[:, 0] = EOS
    return as_tokens(ids)


@pytest.fixture(scope="module")
def sites(model):
    return hook_sites(model, "hook_embed")


@pytest.fixture(scope="module")
def embeddings(model):
    ids = torch.arange(N_WORDS).reshape(4, 10)
    return activations_at(model, ids, ["hook_embed"])["hook_embed"].flatten(0, 1)


@pytest.fixture(scope="module")
def lookup(sites, embeddings):
    return Lookup(sites, embeddings)


def look(dictionaries, model, tokens, features=12, **options):
    return describe_features(dictionaries, model, tokens, features, progress=False, **options)


def at_positions(sites, table):
    atoms = torch.randn(table.shape[1], WIDTH, generator=torch.Generator().manual_seed(0))
    return ByPosition(sites, table, atoms)


# Contexts


def test_a_planted_feature_peaks_at_its_token(model, tokens, lookup):
    card = look({"d": lookup}, model, tokens, {"d": [7]}, n_contexts=50).cards[0]
    holding = {s for s, ids in enumerate(tokens.ids.tolist()) if 7 in ids}
    assert {context.sequence for context in card.contexts} == holding
    assert len(card.contexts) == len(holding)
    for context in card.contexts:
        assert context.tokens[context.peak] == "w7"
        assert context.strength == pytest.approx(1.7)
        expected = [1.7 if token == "w7" else 0.0 for token in context.tokens]
        assert context.activations == pytest.approx(expected)
    count = (tokens.ids == 7).sum().item()
    assert card.density == pytest.approx(count / tokens.n_tokens, rel=1e-5)


def test_windows_are_cut_at_special_tokens_and_blocks(model, sites):
    ids = torch.tensor([[EOS, 1, 2, 3, EOS, 4, 5, 6, 7, 8, 9, 10]])
    shown = {1: [1, 2, 3], 5: [4, 5, 6], 6: [4, 5, 6, 7], 8: [5, 6, 7, 8, 9], 11: [8, 9, 10]}
    for peak, words in shown.items():
        table = torch.zeros(12, 1)
        table[peak] = 1
        table = table[ids[0] != EOS]
        found = look({"d": at_positions(sites, table)}, model, as_tokens(ids), 1, window=(2, 2))
        context = found.cards[0].contexts[0]
        assert context.tokens == [f"w{i}" for i in words]
        assert context.tokens[context.peak] == f"w{ids[0, peak]}"


def test_special_tokens_are_no_peaks_unless_asked_for(model, sites, embeddings):
    ids = torch.tensor([[EOS, 1, 2, EOS, 3, 4]])
    dictionary = Lookup(sites, embeddings)
    assert look({"d": dictionary}, model, as_tokens(ids), {"d": [EOS]}).cards[0].contexts == []
    found = look({"d": dictionary}, model, as_tokens(ids), {"d": [EOS]}, exclude_special=False)
    context = found.cards[0].contexts[0]
    assert context.tokens[context.peak] == "<eos>"
    assert len(context.tokens) == len(context.activations) >= 4
    assert found.cards[0].density == pytest.approx(2 / 6, rel=1e-5)


def test_the_strongest_come_first_one_a_sequence_whatever_the_batches(model, sites, monkeypatch):
    """Against a search through the dense table, which the code never makes."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(1, N_WORDS, (25, 12), generator=generator)
    table = torch.randn(25 * 12, 6, generator=generator).relu()
    tables = table.view(25, 12, 6).amax(dim=1)
    for at_once in (12, 60, 10_000):
        monkeypatch.setattr(describing, "_TOKENS_AT_ONCE", at_once)
        wanted = {"d": range(6)}
        found = look({"d": at_positions(sites, table)}, model, as_tokens(ids), wanted, n_contexts=5)
        for card in found.cards:
            best = tables[:, card.feature].topk(5)
            assert [c.strength for c in card.contexts] == pytest.approx(best.values.tolist(), 1e-5)
            assert [c.sequence for c in card.contexts] == best.indices.tolist()
            for context in card.contexts:
                words = [f"w{i}" for i in ids[context.sequence].tolist()]
                column = table.view(25, 12, 6)[context.sequence, :, card.feature]
                at = int(column.argmax())
                first = max(0, at - 12)
                assert context.tokens == words[first : at + 7]
                assert context.activations == pytest.approx(column[first : at + 7].tolist(), 1e-5)


def test_equal_contexts_are_shown_once(model, sites):
    ids = torch.randint(1, N_WORDS, (6, 12), generator=torch.Generator().manual_seed(0))
    ids[1] = ids[3] = ids[0]
    table = torch.zeros(6, 12, 1)
    table[:, 5, 0] = torch.tensor([3.0, 5.0, 2.0, 4.0, 1.0, 2.5])
    found = look({"d": at_positions(sites, table.flatten(0, 1))}, model, as_tokens(ids), 1)
    assert [c.sequence for c in found.cards[0].contexts] == [1, 5, 2, 4]


def test_contexts_of_equal_strength_do_not_depend_on_batches():
    ids = torch.randint(1, N_WORDS, (40, 12), generator=torch.Generator().manual_seed(1))
    counted = torch.ones_like(ids, dtype=torch.bool)
    acts = SparseActs.from_dense((ids.flatten() % 3 == 0).float().unsqueeze(1))

    def places(size):
        top = TopContexts(1, 4, (3, 3))
        for first in range(0, 40, size):
            part = slice(first, first + size)
            rows = acts.to_dense()[first * 12 : (first + size) * 12]
            windows = Windows.of(ids[part], counted[part], (3, 3), first * 12)
            top.add_(SparseActs.from_dense(rows), windows)
        return [place for place, _ in top.of(0)]

    assert places(40) == places(7) == places(1)
    assert max(places(40)) >= 4 * 12, "a sample, not the first ones"


# Logit weights


def test_a_hook_is_tried_once_for_all_dictionaries_there(model, tokens, sites, monkeypatch):
    """And the bridge is asked for its hooks once for all functions at all of them."""
    tried, asked = [], []
    why_not, whole = feature_card.why_not_in_stream, type(model).hook_dict
    monkeypatch.setattr(
        feature_card, "why_not_in_stream", lambda *place: tried.append(place[1]) or why_not(*place)
    )
    monkeypatch.setattr(
        type(model), "hook_dict", property(lambda self: asked.append(1) or whole.fget(self))
    )
    weight = model.embed.W_E.detach()
    places = {"a": sites, "b": sites, "c": hook_sites(model, "blocks.0.hook_mlp_out")}
    found = {name: Lookup(at, weight) for name, at in places.items()}
    cards = look(found, model, tokens, {name: [3] for name in found}).cards
    assert [card.no_logits for card in cards] == [""] * 3
    assert tried == [sites.target.hook, "blocks.0.hook_mlp_out"]
    assert len(asked) <= 1


def test_an_atom_that_is_an_unembedding_column_promotes_its_token_first(model, tokens, sites):
    logits = logit_map(model)
    columns = (logits.unembedding / logits.gain.unsqueeze(1)).T
    found = look({"d": Lookup(sites, columns, columns)}, model, tokens, {"d": range(N_WORDS)})
    exact = columns - columns.mean(dim=1, keepdim=True)  # what a LayerNorm leaves of them
    exact = (exact * logits.gain) @ logits.unembedding
    exact = exact - exact.mean(dim=1, keepdim=True)
    first = 0
    for card in found.cards:
        own = exact[card.feature]
        assert card.promoted[0].weight == pytest.approx(own.max().item(), rel=1e-4)
        assert card.promoted[0].token == model.tokenizer.convert_ids_to_tokens(int(own.argmax()))
        assert card.suppressed[0].weight == pytest.approx(own.min().item(), rel=1e-4)
        assert card.no_logits == ""
        first += card.promoted[0].token == model.tokenizer.convert_ids_to_tokens(card.feature)
    assert first >= 0.8 * N_WORDS, "random columns are not quite orthogonal"


def test_there_are_no_logit_weights_off_the_stream(model, tokens):
    mlp = mlp_sites(model, 1)
    wide = Site("blocks.1.mlp.hook_post", 32)
    cases = (
        (mlp.source, "not added to the residual stream"),
        (wide, "has width 32, the residual stream has width 16"),
    )
    for site, reason in cases:
        n = 3
        dictionary = Lookup(Sites(site, site), torch.randn(n, site.d))
        card = look({"d": dictionary}, model, tokens, {"d": [0]}).cards[0]
        assert card.promoted is card.suppressed is None
        assert reason in card.no_logits


# Neighbours


def test_nearest_features_are_found_across_dictionaries(model, tokens, sites, embeddings, lookup):
    order = torch.randperm(N_WORDS, generator=torch.Generator().manual_seed(0))
    shuffled = Lookup(sites, embeddings, 3 * embeddings[order])
    other = hook_sites(model, "blocks.1.hook_resid_post")
    elsewhere = Lookup(other, embeddings)
    dictionaries = {"a": lookup, "b": shuffled, "elsewhere": elsewhere,
                    "mean": MeanConfig().build(sites)}  # fmt: skip
    card = look(dictionaries, model, tokens, {"a": [5]}).cards[0]
    assert {n.dictionary for n in card.nearest} == {"b"}
    assert len(card.nearest) == 3
    assert card.nearest[0].feature == int((order == 5).nonzero())
    assert card.nearest[0].cosine == pytest.approx(1, abs=1e-5)


def test_nearest_atoms_are_the_same_however_many_are_compared_at_once(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    atoms, queries = torch.randn(50, 8, generator=generator), torch.randn(4, 8, generator=generator)
    atoms[3] = 0
    cosines, indices = nearest_atoms(queries, atoms, 5)
    monkeypatch.setattr("dictlearn.evaluation.cards.nearest_atoms._ATOMS_AT_ONCE", 7)
    again = nearest_atoms(queries, atoms, 5)
    assert torch.equal(again[1], indices)
    assert torch.allclose(again[0], cosines)
    assert nearest_atoms(queries, atoms[:2], 5)[1].shape == (4, 2)
    assert torch.isfinite(nearest_atoms(queries, atoms, 50)[0]).all()


# What is chosen


def test_a_sample_is_spread_over_densities(model, sites, tokens):
    rows = torch.arange(tokens.n_tokens)
    often = torch.tensor([1, 2, 3, 4, 6, 10, 20, 40, 80, 300, 10**6])  # the last is never active
    table = (rows.unsqueeze(1) % often == often - 1).float()
    n = tokens.n_tokens

    def chosen(features, seed):
        found = look({"d": at_positions(sites, table)}, model, tokens, features, seed=seed)
        return [card.feature for card in found.cards]

    for seed in range(3):
        for part, feature in enumerate(chosen(5, seed)):
            assert feature in (2 * part, 2 * part + 1), "one of each fifth, the common ones first"
    assert len({tuple(chosen(5, seed)) for seed in range(5)}) > 1
    assert chosen(50, 0) == list(range(10)), f"all that are active in {n} tokens"
    drawn = chosen(2, 0)
    d = {"d": at_positions(sites, table)}
    both = look(d, model, tokens, 2, also={"d": [10, drawn[0]]})
    assert [card.feature for card in both.cards] == [*drawn, 10], "once, with contexts or without"
    assert both.tokens["chosen"].endswith("those that detect a concept best)")
    named = look(d, model, tokens, {"d": [3]}, also={"d": [1, 3]})
    assert named.tokens["chosen"] == "by name"
    assert named.cards == look(d, model, tokens, {"d": [3, 1]}).cards
    with pytest.raises(InputError, match="features 0 to 10"):
        look(d, model, tokens, 2, also={"d": [11]})


def test_dictionaries_without_active_features_are_left_out(model, tokens, sites, lookup):
    dictionaries = {"mean": MeanConfig().build(sites), "lookup": lookup}
    found = look(dictionaries, model, tokens, 2)
    assert found.left_out == {"mean": "none of its features is active"}
    assert {card.dictionary for card in found.cards} == {"lookup"}
    assert "one drawn" in found.tokens["chosen"]


def test_what_does_not_exist_is_refused(model, tokens, lookup):
    cases = [
        ({"lokup": [1]}, {}, "did you mean 'lookup'"),
        ({"lookup": [1, 40]}, {}, "has features 0 to 39, got feature 40"),
        ({"lookup": [-1]}, {}, "got feature -1"),
        (0, {}, "at least 1 feature"),
        (1, {"n_contexts": 0}, "n_contexts of at least 1"),
        (1, {"window": (-1, 2)}, "before and after"),
    ]
    for features, options, message in cases:
        with pytest.raises(InputError, match=message):
            look({"lookup": lookup}, model, tokens, features, **options)
    with pytest.raises(InputError, match="a dictionary, or several"):
        look({}, model, tokens)
    with pytest.raises(InputError, match="at least 1 sequence"):
        look({"lookup": lookup}, model, as_tokens(tokens.ids[:0]))


def test_another_model_is_refused(model, tokens, sites, embeddings):
    dictionary = Lookup(sites, embeddings)
    dictionary.provenance = Provenance(model="other", model_hash="0" * 64)
    with pytest.raises(ProvenanceError, match="other"):
        look({"d": dictionary}, model, tokens)


def test_a_model_without_tokenizer_and_one_with_nan_are_refused(native, tokens, sites, embeddings):
    bare = native()
    dictionary = Lookup(sites, embeddings)
    bare.tokenizer = None
    with pytest.raises(InputError, match="tokenizer"):
        look({"d": dictionary}, bare, tokens)
    bare.tokenizer = object()
    with torch.no_grad():
        next(iter(bare.parameters())).fill_(torch.nan)
    with pytest.raises(NonFiniteError, match="hook_embed"):
        look({"d": dictionary}, bare, tokens)


# The file


@pytest.fixture
def records(model, tokens, lookup):
    return look({"d": lookup, "e": lookup}, model, tokens, 3, n_contexts=2)


def test_records_survive_their_file(records, tmp_path):
    path = records.save(tmp_path)
    assert FeatureRecords.load(tmp_path) == records
    assert len(records.to_pandas()) == 6
    assert "<table" in records._repr_html_()
    assert repr(records) == "FeatureRecords(6 cards of d, e)"
    whole = re.sub(r',\n *"sha256": "\w+"', "", path.read_text()).replace(
        '"format": 2', '"format": 1'
    )
    for broken, message in (
        (whole.replace('"cosine"', '"sine"', 1), "malformed"),
        (whole.replace('"peak": 0', '"peak": 99').replace('"peak": 1', '"peak": 99'), "malformed"),
        (whole[: len(whole) // 2], "truncated"),
        ('{"format": 9}', "format 2, got 9"),
    ):
        path.write_text(broken)
        with pytest.raises(CorruptFileError, match=message):
            FeatureRecords.load(tmp_path)
    path.unlink()
    with pytest.raises(CorruptFileError, match="cannot be read"):
        FeatureRecords.load(tmp_path)


def test_a_frame_of_no_cards_has_its_columns(records):
    empty = FeatureRecords(records.provenance, records.tokens, [], {})
    assert list(empty.to_pandas().columns) == list(records.to_pandas().columns)
