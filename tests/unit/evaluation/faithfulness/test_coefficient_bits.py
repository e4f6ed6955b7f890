"""Prices of coefficients in an evaluation, on a toy model."""

import copy
import itertools
import math
from statistics import fmean
from types import SimpleNamespace

import pytest
import torch

from dictlearn.core.dictionary import FeatureDictionary, Traits
from dictlearn.core.metric import Metric
from dictlearn.core.quantized import Quantized
from dictlearn.dictionaries.codebook import CodebookConfig
from dictlearn.dictionaries.identity import IdentityConfig
from dictlearn.dictionaries.mean import MeanConfig
from dictlearn.dictionaries.neurons import NeuronsConfig
from dictlearn.evaluation.faithfulness.coefficient_bits import (
    KEPT,
    LADDER,
    N_PASSES,
    PER_OCTAVE,
    _Search,
)
from dictlearn.evaluation.faithfulness.evaluate import evaluate
from dictlearn.evaluation.faithfulness.messages import Usage
from dictlearn.lm.mlps import mlp_weights
from dictlearn.metrics.bits import NOT_MEASURED
from dictlearn.records.results import Records


class Scaled(FeatureDictionary):
    """Writes the activation: coefficients are `factors` as large, atoms as much shorter."""

    def __init__(self, sites, factors):
        super().__init__(sites, sites.target.d)
        self.register_buffer("factors", factors)
        self.register_buffer("_atoms", torch.diag(1 / factors))
        self.register_buffer("_bias", torch.zeros(sites.target.d))

    def _encode(self, z):
        return z * self.factors


class Single(FeatureDictionary):
    """One feature, always active, with one coefficient."""

    traits = Traits(nonnegative=True, max_active=1)

    def __init__(self, sites, atom):
        super().__init__(sites, 1)
        self.register_buffer("_atoms", atom[None])

    def _encode(self, z):
        return torch.ones_like(z[:, :1])


@pytest.fixture(scope="module")
def model(native):
    return native()


def priced(dictionaries, model, tokens, **options):
    records = evaluate(dictionaries, model, tokens, bits=True, **options)
    return {name: record.metrics for name, record in records.dictionaries.items()}


def test_the_price_is_that_of_a_step_that_is_just_fine_enough(
    model, tokens, sites, rows, level_bits
):
    """The long way: an evaluation of the quantised dictionary at every rung."""
    identity = IdentityConfig().build(sites.at_target())
    found = priced({"identity": identity}, model, tokens)["identity"]
    rms = rows.double().square().mean().sqrt().item()
    rungs = [Quantized(identity, rms * rung) for rung in LADDER]
    frame = evaluate({str(i): rung for i, rung in enumerate(rungs)}, model, tokens).to_pandas()
    enough = [part >= KEPT for part in frame["loss_recovered_zero"]]
    edges = [i for i in range(1, len(rungs)) if enough[i] and not enough[i - 1]]
    prices = [level_bits(rungs[i], identity.encode_sparse(rows)) for i in edges]
    price = found["coefficient_bits"].value
    assert any(price == pytest.approx(expected, rel=1e-6) for expected in prices)
    assert found["support_bits"].value == 0
    assert found["bits"].value == price > 0


def test_scale_batch_size_and_company_change_no_price(model, tokens, sites):
    generator = torch.Generator().manual_seed(0)
    factors = 2.0 ** torch.randint(-3, 4, (sites.target.d,), generator=generator)
    plain = Scaled(sites.at_target(), torch.ones_like(factors))
    scaled = Scaled(sites.at_target(), factors)
    together = priced({"plain": plain, "scaled": scaled}, model, tokens, batch_size=4)
    alone = priced({"plain": plain}, model, tokens, batch_size=9)["plain"]
    for metric in together["plain"].keys() - {"l1"}:
        assert together["scaled"][metric].value == pytest.approx(
            together["plain"][metric].value, abs=1e-6, nan_ok=True
        ), metric
    assert together["plain"]["bits"].value == pytest.approx(alone["bits"].value, rel=1e-6)


def test_one_coefficient_for_all_costs_nothing(model, tokens, sites, rows):
    found = priced({"one": Single(sites.at_target(), rows.mean(dim=0))}, model, tokens)["one"]
    assert found["l0"].value == 1
    assert found["loss_recovered_zero"].value > 0
    assert found["bits"].value == 0


def entropy_of_codes(codes):
    usage = codes.flatten(0, -2).mean(dim=0)
    return -torch.xlogy(usage, usage).sum().item() / math.log(2)


def test_codes_are_priced_with_and_without_the_search(model, tokens, sites, rows):
    """By their entropy, without the bias of tables of 9 sequences, each of which is left out."""
    books = {
        "one": CodebookConfig(n_codes=8, k=1).build(sites.at_target(), seed=0),
        "two": CodebookConfig(n_codes=8, k=2, n_groups=2).build(sites.at_target(), seed=0),
        "mean": MeanConfig().build(sites.at_target()),
    }
    books["one"].initialize_(rows, rows)
    for bits in (False, True):
        records = evaluate(books, model, tokens, bits=bits).dictionaries
        metrics = {name: record.metrics for name, record in records.items()}
        codes = books["one"].encode(rows).double().unflatten(0, tokens.ids.shape)
        others = [entropy_of_codes(codes[torch.arange(9) != i]) for i in range(9)]
        expected = 9 * entropy_of_codes(codes) - 8 * fmean(others)
        assert metrics["one"]["bits"].value == pytest.approx(expected, abs=1e-9)
        assert expected > entropy_of_codes(codes)
        assert metrics["one"]["code_bits"].value == 3
        assert metrics["two"]["code_bits"].value == 12
        assert metrics["two"]["bits"].value <= 12
        assert metrics["mean"]["bits"].value == 0


def test_without_the_search_coefficients_have_no_price(model, tokens, sites, tmp_path):
    records = evaluate(
        {"neurons": NeuronsConfig(mlp=mlp_weights(model, sites)).build(sites)}, model, tokens
    )
    records.save(tmp_path)
    found = Records.load(tmp_path).dictionaries["neurons"].metrics
    assert found["coefficient_bits"].reason == found["bits"].reason == NOT_MEASURED
    assert math.isfinite(found["support_bits"].value)


def test_where_nothing_is_recovered_there_is_no_price(model, tokens, sites):
    far = Scaled(sites.at_target(), torch.ones(sites.target.d))
    far._bias[::3] = 50.0
    found = priced({"far": far}, model, tokens)["far"]
    assert found["loss_recovered_zero"].value < 0
    assert "not above 0" in found["bits"].reason
    zero = copy.deepcopy(far)
    zero._bias.zero_()
    zero.factors.zero_()
    found = priced({"zero": zero}, model, tokens)["zero"]
    assert (found["l0"].value, found["bits"].value) == (0, 0)


def test_where_no_step_is_fine_enough_there_is_no_price(model, tokens, sites):
    """Two large features that cancel: what a step moves is large beside what they leave."""

    class Cancelling(FeatureDictionary):
        def __init__(self, sites):
            super().__init__(sites, 2 * sites.target.d)
            eye = torch.eye(sites.target.d)
            self.register_buffer("_atoms", torch.cat([eye, -eye]))

        def _encode(self, z):
            return torch.cat([1e4 + z, torch.full_like(z, 1e4)], dim=1)

    found = priced({"d": Cancelling(sites.at_target())}, model, tokens)["d"]
    assert found["loss_recovered_zero"].value == pytest.approx(1, abs=1e-2)
    assert "2^-5" in found["coefficient_bits"].reason
    assert math.isnan(found["bits"].value)


def test_steps_are_a_quarter_of_an_octave_apart_over_six_octaves():
    assert (LADDER[0], LADDER[-1]) == (2.0, 2.0**-5)
    assert {round(math.log2(a / b), 9) for a, b in itertools.pairwise(LADDER)} == {0.25}
    assert len(LADDER) < 2**N_PASSES, "every outcome can be told apart"


def search_of(sites):
    """A search for the step of a dictionary that recovers all of a loss of 1."""
    identity = IdentityConfig().build(sites.at_target())
    used = Usage(identity)
    used.add_(identity.encode_sparse(torch.ones(1, sites.target.d)), torch.zeros(1).long())
    passes = SimpleNamespace(
        ids=torch.zeros(1, 2), counted=torch.ones(1, 2), runs=lambda dictionary: False
    )
    sums = {"cross_entropy_clean": torch.tensor([1.0]), "cross_entropy_zero": torch.tensor([2.0])}
    record = SimpleNamespace(sums=sums, metrics={"loss_recovered_zero": Metric(1.0)})
    return _Search("d", identity, record, used, {"d": used.code}, passes)


@pytest.mark.untyped
def test_where_the_coarsest_step_keeps_enough_no_finer_one_is_tried(sites):
    """Though finer ones would not: features that write too little gain by large steps."""
    search = search_of(sites)
    search.start_pass_(N_PASSES - 1)
    search._tried.estimates.sums["d"]["cross_entropy_spliced"][0] = 0.9
    search.end_pass_()
    assert search.ended
    assert search._found.quantized._step == LADDER[0]


@pytest.mark.untyped
@pytest.mark.parametrize("last", range(len(LADDER) + 1))
@pytest.mark.parametrize("power", [0.3, 2.0, 8.0])
def test_guesses_find_the_coarsest_step_in_time(last, power, sites):
    """Whatever the loss grows like, the search ends at the first step that is fine enough."""
    search = search_of(sites)
    for i in range(N_PASSES):
        if search.ended:
            break
        search.start_pass_(N_PASSES - 1 - i)
        relative = 2 ** (power * (last - 0.5 - search._rung) / PER_OCTAVE)
        search._tried.estimates.sums["d"]["cross_entropy_spliced"][0] = 1 + 0.01 * relative
        search.end_pass_()
    assert search.ended
    (message,) = search.messages().values()
    assert math.isnan(message.cost.value) == (last == len(LADDER))
    if last < len(LADDER):
        assert search._found.quantized._step == pytest.approx(LADDER[last])
