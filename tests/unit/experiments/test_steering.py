"""Steering: topics, the codes that go with them, and measures on a model that says what it must."""

import pytest
import torch

from dictlearn.dictionaries.codebook import CodebookConfig
from dictlearn.experiments.experiment import run_experiment, write_experiment_page
from dictlearn.experiments.steering import study as module
from dictlearn.experiments.steering.measures import Steered, steering
from dictlearn.experiments.steering.study import SteeringStudy
from dictlearn.experiments.steering.topics import (
    has_topic,
    mean_activations,
    standardized_difference,
    topic_codes,
)
from dictlearn.interventions.direction import Push
from dictlearn.lm.forward import activations_at
from dictlearn.lm.loading import load_model
from dictlearn.lm.sites import hook_sites

HOOK = "blocks.3.hook_resid_post"


@pytest.fixture(scope="module")
def model():
    return load_model("builtin:stories")


def test_topics():
    texts = ["A Dragon flew.", "The king sat.", "He was taking a walk.", "two dogs", "hotdog"]
    assert has_topic(texts, "dragon").tolist() == [True, False, False, False, False]
    assert has_topic(texts, "princess").tolist() == [False, True, False, False, False]
    assert has_topic(texts, "dog").tolist() == [False, False, False, True, False]


def test_codes_are_chosen_by_their_activity_one_for_each_head(model):
    sites = hook_sites(model, "blocks.0.attn.hook_z")
    d = CodebookConfig(n_codes=8, n_groups=4).build(sites)
    generator = torch.Generator().manual_seed(0)
    rows, label = torch.rand(40, 32, generator=generator), torch.arange(40) < 15
    rows[:15, 3] += 3  # the first head
    rows[:15, 5] += 2  # the first head again
    rows[:15, 18] += 1.5  # the third
    assert topic_codes({"z": rows}, {"z": d}, label, 2) == {"z": [3, 18]}
    z = standardized_difference(rows, label)
    a, b = rows[:15, 3], rows[15:, 3]
    by_hand = (a.mean() - b.mean()) / (a.var() / 15 + b.var() / 25).sqrt()
    assert float(z[3]) == pytest.approx(float(by_hand), rel=1e-4)


def test_mean_activations(model):
    ids = torch.randint(2000, (20, 9), generator=torch.Generator().manual_seed(0))
    means, norm = mean_activations(model, HOOK, ids)
    rows = activations_at(model, ids, [HOOK])[HOOK][:, 1:]
    torch.testing.assert_close(means, rows.mean(1), atol=1e-4, rtol=1e-4)
    assert norm == pytest.approx(float(rows.norm(dim=2).mean()), rel=1e-4)


def test_a_model_that_must_say_dragon_says_it(model):
    """A push along the unembedding of a token makes it the text, and that is implausible."""
    held_out = torch.randint(2000, (4, 30), generator=torch.Generator().manual_seed(0))
    options = {"n_samples": 2, "n_new": 12, "seed": 0}
    plain = steering(Steered(model, {}), model, held_out, **options)
    token = model.tokenizer.encode(" bird", add_special_tokens=False)[-1]
    push = Push(model.unembed.W_U[:, token].detach(), 2000.0, at=HOOK)
    found = steering(Steered(model, {}, [push]), model, held_out, **options)
    word = model.tokenizer.decode([token])
    assert found["bird"] == float("bird" in word)
    assert found["implausibility"] > plain["implausibility"] + 2
    assert found["loss"] > plain["loss"] + 1
    with torch.no_grad():
        logits = model(held_out)[:, :-1].flatten(0, 1)
    loss = torch.nn.functional.cross_entropy(logits, held_out[:, 1:].flatten())
    assert plain["loss"] == pytest.approx(float(loss), rel=1e-5)


def test_the_study_at_a_tiny_size(tmp_path, monkeypatch):
    for target in (module,):
        monkeypatch.setattr(target, "TOPICS", {"dog": "dog", "dragon": "no such word"})
    monkeypatch.setattr("dictlearn.experiments.steering.page.TOPICS", module.TOPICS)
    monkeypatch.setattr("dictlearn.experiments.steering.topics.TOPICS", module.TOPICS)
    monkeypatch.setattr("dictlearn.experiments.steering.measures.TOPICS", module.TOPICS)
    experiment = SteeringStudy(n_seeds=1, steps=1, n_samples=1, n_new=4, n_read=2_000, n_blocks=24)
    found = run_experiment(experiment, tmp_path, show=False)
    text = write_experiment_page(experiment, found, tmp_path).read_text()
    assert "| mean difference, 0.6 |" in text
    assert "## Precision for concepts" in text
    assert "As detectors of concepts" in text or "No code detects" in text
    assert found["reading-0"]["n_concepts"] > 5
    for score in found["reading-0"]["concepts"].values():
        assert 0 <= score["codes"] <= 1 >= score["neurons"] >= 0
        assert score["recall"] > 0.01
    assert "Too rare in the text to choose features for: dragon." in text
