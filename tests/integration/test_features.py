"""Cards of features, from a model to the screen: the built-in model, and one like Llama."""

import pytest

import dictlearn as dl
from dictlearn.comparison.report.cards import cards_page
from dictlearn.core.errors import InputError
from dictlearn.lm.unembedding import logit_map
from dictlearn.text.concepts import vocabulary_texts


def neurons_of(model, layer):
    sites = dl.mlp_sites(model, layer)
    return dl.NeuronsConfig(mlp=dl.mlp_weights(model, sites)).build(sites)


@pytest.fixture(scope="module", params=["builtin:stories", "models/stories15M"])
def model(request, shared):
    return dl.load_model(
        request.param if request.param.startswith("builtin") else shared(request.param)
    )


@pytest.fixture(scope="module")
def tokens(model):
    return dl.load_tokens("builtin:stories", model, split="held_out", n_tokens=4_000, context=128)


@pytest.fixture(scope="module")
def dictionaries(model):
    return {
        "neurons": neurons_of(model, 1),
        "identity": dl.IdentityConfig().build(dl.hook_sites(model, "blocks.1.hook_mlp_out")),
    }


def test_a_card_shows_the_text_and_what_is_written(model, tokens, dictionaries):
    found = dl.describe_features(dictionaries, model, tokens, 2, n_contexts=3, progress=False)
    assert len(found.cards) == 4
    for card in found.cards:
        assert len(card.contexts) == 3
        for context in card.contexts:
            text = model.tokenizer.decode(tokens.ids[context.sequence])
            assert "".join(context.tokens).strip() in text
            assert context.strength == pytest.approx(max(context.activations), rel=1e-5)
        atom = dictionaries[card.dictionary].atoms[card.feature].unsqueeze(0)
        weights = logit_map(model).weights(atom)[0]
        best = vocabulary_texts([int(weights.argmax())], model.tokenizer)
        assert card.promoted[0].token == best[0]
        assert card.promoted[0].weight > 0 > card.suppressed[0].weight
    assert cards_page(found).count("<article") == 4


def test_tokens_of_the_vocabulary_keep_their_space(model):
    ids = model.tokenizer("They said the time", add_special_tokens=False)["input_ids"]
    assert vocabulary_texts(ids[1:], model.tokenizer) == [" said", " the", " time"]


def test_a_feature_is_shown_as_text_and_as_html(model, tokens, dictionaries):
    shown = dl.show(dictionaries["neurons"], 5, model, tokens, n_contexts=2, progress=False)
    assert repr(shown).startswith("neurons 5: active at ")
    assert "promotes" in repr(shown)
    assert shown._repr_html_().count("<article") == 1
    both = dl.show(dictionaries, [5, 6], model, tokens, n_contexts=1, progress=False)
    assert "nearest: identity" in repr(both)
    with pytest.raises(InputError, match="features 0 to"):
        dl.show(dictionaries, 10**6, model, tokens)
    with pytest.raises(InputError, match=r"the index of a feature, or several, got 1\.5"):
        dl.show(dictionaries, 1.5, model, tokens)
