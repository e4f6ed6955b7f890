"""Features on a sentence of one's own, beside an independent pass through the model."""

import pytest
import torch

import dictlearn as dl
from dictlearn.core.errors import InputError, ProvenanceError
from dictlearn.core.provenance import Provenance

TEXT = "Once upon a time"


@pytest.fixture(scope="module")
def model():
    return dl.load_model("builtin:stories", check=False)


@pytest.fixture(scope="module")
def both(model):
    """A transcoder and an SAE, untrained."""
    sites = dl.mlp_sites(model, 0)
    transcoder = dl.TopKTranscoderConfig(n_features=64, k=3).build(sites, seed=0)
    return {"t": transcoder, "<b>": dl.SAEConfig(n_features=32).build(sites.at_target(), seed=1)}


def test_tokens_keep_the_space_before_a_word(shared):
    """Which a tokenizer of sentencepiece takes from a token that it decodes by itself."""
    model = dl.load_model(shared("models/stories260K"), check=False)
    dictionary = dl.RandomConfig(n_features=8, k=2).build(dl.mlp_sites(model, 0), seed=0)
    found = dl.activating(dictionary, model, "Once upon a time", allow_other_model=True)
    assert "".join(found.tokens[1:]) == " Once upon a time"


@torch.no_grad()
def test_coefficients_are_those_of_a_pass_with_hooks(model, both):
    found = dl.activating(both, model, TEXT, n_features=5)
    ids = torch.tensor([[model.tokenizer.bos_token_id, *model.tokenizer.encode(TEXT)]])
    assert found.tokens == tuple(model.tokenizer.decode([i]) for i in ids[0].tolist())
    _, cache = model.run_with_cache(ids)
    frame = found.to_pandas()
    for name, dictionary in both.items():
        acts = dictionary.encode(cache[dictionary.sites.source.hook][0])
        acts[0] = 0  # BOS
        strengths, order = acts.abs().amax(dim=0).sort(descending=True)
        own = [one.feature for one in found.of(name)]
        assert own == order[strengths > 0][:5].tolist()
        for one in found.of(name):
            column = torch.tensor(frame[name, one.feature].to_numpy(), dtype=torch.float32)
            assert torch.allclose(column, acts[:, one.feature], atol=1e-5)
            assert one.context.peak == int(acts[:, one.feature].abs().argmax())


@torch.no_grad()
def test_a_sentence_is_harvested_and_evaluated_as_it_is_read_here(model, both):
    tokens = dl.load_tokens([TEXT], model, "all")
    found = dl.activating(both["t"], model, TEXT, n_features=64)
    assert [model.tokenizer.decode([token]) for token in tokens.ids[0].tolist()] == [*found.tokens]
    stream = dl.harvest(model, tokens, both["t"].sites, progress=False)
    assert stream.n_rows == tokens.n_tokens == len(found.tokens) - 1
    record = dl.evaluate(both["t"], model, tokens, progress=False).to_pandas().iloc[0]
    assert record["l0"] == 3
    active = found.to_pandas().to_numpy().T[:, 1:]  # k coefficients at each of the tokens
    assert (active != 0).sum() == 3 * tokens.n_tokens
    x = stream.rows(seed=0, step=0, n=len(active[0])).batch(both["t"].sites).x  # in another order
    acts = both["t"].encode(x)[:, [one.feature for one in found.features]]
    sums = torch.tensor(active.sum(axis=1), dtype=torch.float32)
    assert torch.allclose(acts.sum(dim=0), sums, atol=1e-4)


def test_shown_as_shaded_text_and_as_a_list(model, both):
    found = dl.activating(both, model, TEXT, n_features=2)
    page = found._repr_html_()
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    first = found.features[0]
    assert f"feature {first.feature}" in page
    assert repr(found).startswith(f"{first.dictionary} {first.feature}: ")
    assert repr(dl.activating(both["t"], model, TEXT, n_features=1)).count("\n") == 0


def test_texts_and_models_that_do_not_fit_are_refused(model, both):
    with pytest.raises(InputError, match="required a text of 1 to"):
        dl.activating(both, model, "")
    with pytest.raises(InputError, match="required a text of 1 to"):
        dl.activating(both, model, "and " * model.cfg.n_ctx)
    with pytest.raises(InputError, match="activating needs a dictionary"):
        dl.activating({}, model, TEXT)
    other = dl.SAEConfig(n_features=4).build(both["<b>"].sites)
    other.provenance = Provenance(model="other", model_hash="0" * 64)
    with pytest.raises(ProvenanceError, match="trained on model 'other'"):
        dl.activating(other, model, TEXT)
    assert dl.activating(other, model, TEXT, allow_other_model=True).features


@pytest.mark.untyped  # types checked at run time refuse it before
def test_what_is_no_dictionary_or_no_text_is_refused(model, both):
    with pytest.raises(InputError, match=r"activating needs a dictionary, or several .*got 'tc'"):
        dl.activating("tc", model, TEXT)
    for text in ([TEXT, TEXT], 5):
        with pytest.raises(InputError, match=r"required one text, got"):
            dl.activating(both, model, text)
    found = dl.activating({"sae": both["t"]}, model, TEXT)
    with pytest.raises(InputError, match="no dictionary 'sea'; did you mean 'sae'"):
        found.of("sea")
