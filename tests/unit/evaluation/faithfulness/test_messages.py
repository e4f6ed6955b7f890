"""Messages of coefficients: what a decoder makes of them, and how long they are."""

import itertools
import math
from collections import Counter

import pytest
import torch

from dictlearn.activations.tensors import TensorActivations
from dictlearn.comparison.statistics.families import at_rate
from dictlearn.comparison.statistics.intervals import intervals_frame
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.quantized import Quantized
from dictlearn.dictionaries.codebook import CodebookConfig
from dictlearn.dictionaries.mean import MeanConfig
from dictlearn.dictionaries.sae import SAEConfig
from dictlearn.dictionaries.topk_sae import TopKSAEConfig
from dictlearn.evaluation.faithfulness.coefficient_bits import LADDER
from dictlearn.evaluation.faithfulness.evaluate import evaluate
from dictlearn.metrics.bits import QUANTIZED
from dictlearn.metrics.pooled import METRICS
from dictlearn.training.config import FitConfig
from dictlearn.training.fit import fit


@pytest.fixture(scope="module")
def model(native):
    return native().to(torch.float64)


class Message:
    """What is sent of the coefficients of one row: feature indices and integer levels."""

    def __init__(self, features, levels):
        self.features, self.levels = features, levels


def sent(quantized, rows):
    acts = quantized.base.encode_sparse(rows)
    levels = quantized.levels(acts)
    ends = acts.offsets.tolist()
    return [
        Message(acts.indices[a:b].tolist(), levels[a:b].tolist())
        for a, b in itertools.pairwise(ends)
    ]


def received(messages, dictionary, step):
    """The estimates of a decoder that has the dictionary and the step, and no coefficients."""
    norms = dictionary.atoms.norm(dim=1)
    y_hat = dictionary.bias.repeat(len(messages), 1)
    for i, message in enumerate(messages):
        for feature, level in zip(message.features, message.levels, strict=True):
            y_hat[i] += level * step / norms[feature] * dictionary.atoms[feature]
    return y_hat


def ideal_bits(messages, n_features):
    """The mean of `-log2` of the probability that the tables give to each message.

    A set is either a number of features and then draws, or each feature by itself: whichever is
    shorter over all messages.
    """
    n = len(messages)
    firings = Counter(f for m in messages for f in m.features)
    numbers = Counter(len(m.features) for m in messages)
    levels = Counter(level for m in messages for level in m.levels)
    drawn = [
        math.log2(n / numbers[len(m.features)]) - math.log2(math.factorial(len(m.features)))
        + sum(math.log2(firings.total() / firings[f]) for f in m.features)
        for m in messages
    ]  # fmt: skip
    alone = [
        sum(-math.log2(firings[f] / n if f in m.features else 1 - firings[f] / n)
            for f in range(n_features))
        for m in messages
    ]  # fmt: skip
    of_levels = sum(math.log2(levels.total() / levels[v]) for m in messages for v in m.levels)
    return min(sum(drawn), sum(alone)) / n, of_levels / n


class Reconstructed(FeatureDictionary):
    """Writes given rows, whatever it reads: a table of what was received, by row of `x`."""

    def __init__(self, sites, x, y_hat):
        super().__init__(sites, 1)
        self.x, self.y_hat = x, y_hat
        self.register_buffer("_atoms", torch.zeros(1, sites.target.d))

    def _encode(self, z):
        return torch.zeros_like(z[:, :1])

    def _skip(self, z):
        return self.y_hat[torch.cdist(z.double(), self.x.double()).argmin(dim=1)]


@pytest.fixture(scope="module")
def kinds(sites, rows):
    run = FitConfig(steps=40, batch_size=64, learning_rate=3e-3, seed=0, dtype="float64")
    configs = {
        "topk": TopKSAEConfig(n_features=32, k=4),
        "relu": SAEConfig(n_features=24, l1_coefficient=1e-2),
    }
    return fit(configs, TensorActivations(rows, sites=sites.at_target()), run, progress=False)


@pytest.mark.parametrize("name", ["topk", "relu"])
def test_the_axis_of_bits_shows_what_a_decoder_that_received_those_bits_gets(
    name, kinds, model, tokens, sites, rows, level_bits
):
    """Messages are written, read without the coefficients, and spliced in as they are read."""
    dictionary = kinds[name]
    records = evaluate({name: dictionary}, model, tokens, bits=True)
    acts = dictionary.encode_sparse(rows)
    contributions = acts.values.double() * dictionary.atoms.norm(dim=1)[acts.indices].double()
    unit = contributions.square().mean().sqrt().item()
    price = records.dictionaries[name].metrics
    found = [
        step
        for rung in LADDER
        if level_bits(Quantized(dictionary, step := rung * unit), acts)
        == pytest.approx(price["coefficient_bits"].value, abs=1e-9)
    ]
    messages = sent(Quantized(dictionary, found[0]), rows)
    y_hat = received(messages, dictionary, found[0])
    read = evaluate({"read": Reconstructed(sites.at_target(), rows, y_hat)}, model, tokens)
    (shown,) = at_rate(records, "bits").dictionaries.values()
    (bought,) = read.dictionaries.values()
    names = [m.name for m in METRICS if m.sums & set(QUANTIZED) and "l1" not in m.sums]
    for metric in names:
        assert shown.metrics[metric].value == pytest.approx(bought.metrics[metric].value, abs=1e-6)
    own = records.dictionaries[name].metrics["fraction_variance_unexplained"].value
    assert abs(shown.metrics["fraction_variance_unexplained"].value - own) > 1e-5
    support, levels = ideal_bits(messages, dictionary.n_features)
    support *= 9  # the jackknife: tables of 9 sequences, of which each is left out
    for others in itertools.combinations([messages[i : i + 12] for i in range(0, 108, 12)], 8):
        support -= 8 / 9 * ideal_bits(list(itertools.chain(*others)), dictionary.n_features)[0]
    assert price["support_bits"].value == pytest.approx(support, abs=1e-6)
    assert price["bits"].value == pytest.approx(support + levels, abs=1e-6)


def test_bits_of_sequences_add_up_to_the_bits_of_all(kinds, model, tokens, sites, rows):
    books = {
        "book": CodebookConfig(n_codes=8, k=2, n_groups=2).build(sites.at_target(), seed=0),
        "mean": MeanConfig().build(sites.at_target()),
    }
    records = evaluate({**kinds, **books}, model, tokens, bits=True)
    frame = intervals_frame(records)
    for name, record in records.dictionaries.items():
        for metric in ("support_bits", "coefficient_bits", "bits"):
            value = record.metrics[metric].value
            low, high = frame.loc[(name, metric), ["low", "high"]]
            assert frame.loc[(name, metric), "value"] == pytest.approx(value, abs=1e-9)
            assert low <= value <= high
    assert frame.loc[("topk", "bits"), "low"] < frame.loc[("topk", "bits"), "high"]


def test_nothing_binary_is_lost_with_or_without_the_search(model, tokens, sites):
    book = CodebookConfig(n_codes=8, k=2).build(sites.at_target(), seed=0)
    for bits in (False, True):
        (record,) = evaluate({"book": book}, model, tokens, bits=bits).dictionaries.values()
        for name, new in QUANTIZED.items():
            assert torch.equal(record.sums[new], record.sums[name]), name


def test_without_a_step_there_is_nothing_on_the_axis_of_bits(kinds, model, tokens):
    records = evaluate(kinds, model, tokens)
    for record in records.dictionaries.values():
        assert not record.sums.keys() & {*QUANTIZED.values(), "bits", "support_bits"}
    for record in at_rate(records, "bits").dictionaries.values():
        assert math.isnan(record.metrics["bits"].value)
