"""The greater-than study: its measures beside closed forms, small runs, and models that cannot."""

import pytest
import torch

from dictlearn.circuits.attribute import attribute
from dictlearn.circuits.graph import CircuitGraph
from dictlearn.core.errors import InputError
from dictlearn.dictionaries.neurons import NeuronsConfig
from dictlearn.dictionaries.topk_transcoder import TopKTranscoderConfig
from dictlearn.experiments.experiment import run_experiment, write_experiment_page
from dictlearn.experiments.greater_than import measures
from dictlearn.experiments.greater_than.page import enough
from dictlearn.experiments.greater_than.prompts import (
    TASK,
    require_able,
    synthetic_prompts,
    text_prompts,
)
from dictlearn.experiments.greater_than.study import NATIVE, GreaterThanStudy
from dictlearn.lm.loading import load_model
from dictlearn.lm.mlps import mlp_sites, mlp_weights
from dictlearn.lm.native import new_model
from dictlearn.lm.patching import patched
from dictlearn.synthetic.years import LaterYears

PROMPTS = synthetic_prompts(LaterYears(n_years=3))  # years 0 and 1
PROMPTS_OF_ALL = synthetic_prompts(TASK)


def test_difference_of_known_predictions():
    perfect = torch.tensor([[0.0, 0.5, 0.5], [0.0, 0.0, 1.0]])
    assert PROMPTS.difference(perfect) == 1
    assert PROMPTS.difference(torch.eye(3)[:2]) == -1, "the year itself is not later"
    assert PROMPTS.difference(torch.full((2, 3), 1 / 3)) == pytest.approx(0)
    # the mean prediction is 0, 1/4, 3/4: 1 for year 0, and 3/4 - 1/4 for year 1
    assert PROMPTS.blind_difference(perfect) == pytest.approx(0.75)


def test_an_untrained_model_cannot():
    with pytest.raises(InputError, match="cannot tell later years"):
        require_able(synthetic_prompts(TASK), new_model(NATIVE, seed=0))


def test_a_tokenizer_without_two_digit_tokens_is_refused():
    with pytest.raises(InputError, match=r"one token of two digits|token of its own"):
        text_prompts(load_model("builtin:stories"))


def test_stories15m_is_refused(shared):
    with pytest.raises(InputError, match=r"one token of two digits|token of its own"):
        text_prompts(load_model(shared("models/stories15M")))


@pytest.fixture(scope="module")
def model():
    return new_model(NATIVE, seed=0)


@pytest.fixture(scope="module")
def neurons(model):
    sites = mlp_sites(model, 0)
    return NeuronsConfig(mlp=mlp_weights(model, sites)).build(sites)


def test_all_neurons_kept_are_the_model_and_none_is_its_bias(model, neurons, monkeypatch):
    monkeypatch.setattr(measures, "KEPT", (0, neurons.n_features))
    prompts = synthetic_prompts(TASK)
    order = measures.by_variance(measures.last_acts(model, neurons, prompts))
    zeros = torch.zeros(neurons.n_features)
    none, whole = measures.kept_curve(model, neurons, prompts, order, zeros)
    assert whole == pytest.approx(prompts.difference(prompts.probabilities(model)), abs=1e-6)
    removed = measures.removed_difference(model, neurons.sites.target.hook, prompts)
    assert none == pytest.approx(removed, abs=1e-6), "new models have biases of 0"
    assert abs(whole - none) > 1e-4


@torch.no_grad()
def test_neurons_at_their_means_write_what_they_write_on_average(model, neurons, monkeypatch):
    monkeypatch.setattr(measures, "KEPT", (0, neurons.n_features))
    prompts = synthetic_prompts(TASK)
    acts = measures.last_acts(model, neurons, prompts)
    none, whole = measures.kept_curve(model, neurons, prompts, torch.arange(256), acts.mean(dim=0))
    assert whole == pytest.approx(prompts.difference(prompts.probabilities(model)), abs=1e-6)
    written = neurons.decode(acts).mean(dim=0)

    def average(y, positions):
        return torch.where((positions == prompts.ids.shape[1] - 1).unsqueeze(2), written, y)

    with patched(model, {neurons.sites.target.hook: average}):
        expected = prompts.difference(prompts.probabilities(model))
    assert none == pytest.approx(expected, abs=1e-6)
    assert abs(whole - none) > 1e-4


def test_order_is_that_of_variances():
    acts = torch.tensor([[0.0, 1.0, 9.0], [4.0, 2.0, 9.0]])
    assert measures.by_variance(acts).tolist() == [0, 1, 2]


def test_correlations_and_chance():
    a = torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.0, 0.0]])
    pairs = measures.correlations(a, torch.cat([3 * a[:1] + 1, -a[1:]]))
    assert torch.allclose(pairs, torch.tensor([[1.0, 0], [0, -1]], dtype=torch.float64))
    assert measures.own_and_other(torch.tensor([[1.0, 2], [4, 3]])) == (2, 3)


def test_advantages_weigh_prompts_by_coefficients():
    acts = torch.tensor([[1.0, 0, 1], [0.0, 0, 3]])
    effects = torch.tensor([[0.0, 2.0, 6.0]])
    # year 0: (2 + 6) / 2 - 0 = 4; year 1: 6 - (0 + 2) / 2 = 5
    found = measures.advantages(acts, effects, PROMPTS)
    assert found[:, 0].tolist() == pytest.approx([4, 0, (4 + 3 * 5) / 4])


@torch.no_grad()
def test_input_scores_beside_the_weights(model, neurons):
    transcoder = TopKTranscoderConfig(n_features=32, k=4).build(neurons.sites, seed=0)
    probes = torch.cat([torch.zeros(1, 64), torch.eye(64)])
    scores = transcoder.scores(probes, torch.tensor([3, 5]))
    embedded = model.W_E - model.W_E.mean(dim=1, keepdim=True)
    moved = sum(embedded @ model.W_V[0, head] @ model.W_O[0, head] for head in range(4))
    moved = moved - moved.mean(dim=1, keepdim=True)  # the gains of a new model are 1
    expected = (scores[1:] - scores[0]).T @ moved[:100].T
    prompts = synthetic_prompts(TASK)
    found = measures.input_scores(model, transcoder, torch.tensor([3, 5]), 0, prompts)
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


def test_enough_is_where_a_curve_stays(monkeypatch):
    monkeypatch.setattr("dictlearn.experiments.greater_than.page.KEPT", (0, 1, 2, 4))
    assert enough([0.9, 0.1, 0.9, 0.8], 0.8) == 2
    assert enough([0.9, 0.9, 0.9, 0.1], 0.8) is None


def test_the_study_at_a_tiny_size(tmp_path):
    experiment = GreaterThanStudy(
        n_seeds=1, model_steps=150, steps=2, n_features=64, k=4, n_looked_at=3
    )
    found = run_experiment(experiment, tmp_path, show=False)
    subject, curves = found["model-0"], found["curves-0"]["mlp0"]
    assert subject["difference"] > subject["blind"] + 0.05
    for others in ("zero", "mean"):
        features, random = curves["features"][others], curves["random"][others]
        assert features[-1] == pytest.approx(curves["whole"], abs=1e-6), "64 are all"
        assert random[0] == pytest.approx(features[0], abs=1e-12)
    text = write_experiment_page(experiment, found, tmp_path).read_text()
    for row in ("| transcoder features |", "| neurons |", "| random features |"):
        assert row in text
    assert "nan" not in text
    graph = CircuitGraph.load(tmp_path / "parts" / "curves-0" / "graph")
    assert graph.labels == ["years after 49 - others"]
    assert graph.tokens == ["<100>", "<49>", "<101>"]
    assert "years after 49 - others" in (tmp_path / "report.html").read_text()


@torch.no_grad()
def test_the_target_is_a_difference_of_mean_logits(model):
    ids, target = PROMPTS_OF_ALL.ids[97], PROMPTS_OF_ALL.target(97)
    graph = attribute(model, ids, {}, target, progress=False)
    logits = model(ids[None])[0, -1, :100]
    expected = logits[98:].mean() - logits[:98].mean()
    assert float(graph.targets.values[0]) == pytest.approx(float(expected), rel=1e-3, abs=1e-5)
