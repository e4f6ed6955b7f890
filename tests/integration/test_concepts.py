"""Concepts on the built-in model, from text to the table."""

import pytest
import torch

import dictlearn as dl
from dictlearn.comparison.statistics.precision import precision_frame
from dictlearn.lm.forward import activations_at
from dictlearn.text.concepts import DEFAULT_CONCEPTS, concept_labels, token_texts


def neurons_of(model, layer):
    sites = dl.mlp_sites(model, layer)
    return dl.NeuronsConfig(mlp=dl.mlp_weights(model, sites)).build(sites)


class CommaDetector(dl.FeatureDictionary):
    """Reads the token off its embedding; active where the token holds a comma."""

    def __init__(self, sites, embeddings, has_comma):
        super().__init__(sites, 1)
        self.register_buffer("_atoms", torch.zeros(1, sites.target.d))
        self.embeddings, self.has_comma = embeddings, has_comma

    def _encode(self, z):
        return self.has_comma[torch.cdist(z, self.embeddings).argmin(dim=1)].to(z).unsqueeze(1)


@pytest.fixture(scope="module")
def model():
    return dl.load_model("builtin:stories")


@pytest.fixture(scope="module")
def tokens(model):
    return dl.load_tokens("builtin:stories", model, split="held_out", n_tokens=8_000,
                          whole_documents=True)  # fmt: skip


@pytest.fixture(scope="module")
def found(model, tokens):
    sites = dl.hook_sites(model, "hook_embed")
    ids = torch.arange(model.cfg.d_vocab)
    embeddings = activations_at(model, ids.unsqueeze(1), ["hook_embed"])["hook_embed"][:, 0]
    texts = [token_texts([i], model.tokenizer)[0] for i in ids.tolist()]
    detector = CommaDetector(sites, embeddings, torch.tensor(["," in text for text in texts]))
    dictionaries = {
        "detector": detector,
        "neurons": neurons_of(model, 1),
        "mean": dl.MeanConfig().build(dl.hook_sites(model, "blocks.1.hook_mlp_out")),
    }
    concepts = [c for c in DEFAULT_CONCEPTS if c.name in ("comma", "she", "month")]
    return dl.evaluate_concepts(dictionaries, model, tokens, concepts, progress=False)


def test_a_detector_of_commas_has_precision_one_at_recall_one(found):
    frame = found.to_pandas().set_index(["dictionary", "concept", "family"]).sort_index()
    score = frame.loc[("detector", "comma", "features")]
    assert (score.recall, score.precision, score.average_precision) == (1, 1, 1)
    assert (frame.loc[("detector", "comma", "basis")].average_precision) < 1


def test_the_tokens_of_a_concept_spell_it(model, tokens):
    labels = concept_labels(tokens, model.tokenizer, [dl.Concept("she", "she")])
    assert labels.any()
    spelled = {model.tokenizer.decode(i) for i in tokens.ids[labels[0]]}
    assert " she" in spelled


def test_every_family_is_there_and_what_is_missing_has_a_reason(found):
    families = found.to_pandas().groupby("dictionary").family.unique().map(set).to_dict()
    assert families == {"detector": {"features", "random", "basis", "pca"},
                        "neurons": {"features", "random", "neurons", "basis", "pca"}}  # fmt: skip
    assert found.left_out.keys() == {"month", "mean: features", "detector: neurons"}
    frame = precision_frame(found)
    assert frame.loc[("neurons", "neurons"), "naive_better"] <= 0.5, "they are among their rivals"
