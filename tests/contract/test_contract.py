"""Every registered kind against every check, and every check against its mutant."""

import copy
from dataclasses import dataclass

import pytest
import torch

import dictlearn as dl
from dictlearn.contract.check import CHECKS, check_dictionary, run
from dictlearn.contract.subject import FIT, Subject, synthetic
from dictlearn.core.dictionary import FeatureDictionary, Traits
from dictlearn.core.errors import ContractError
from dictlearn.core.kinds import GradientConfig
from dictlearn.core.learning import Encoding, TrainableDictionary
from dictlearn.core.sites import Site, Sites
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.dictionaries.objectives import squared_error
from dictlearn.dictionaries.registry import KINDS

SITES = Sites(Site("x", 12), Site("y", 8))


@pytest.mark.parametrize("config", [kind.tiny() for kind in KINDS], ids=lambda c: c.kind)
def test_every_kind_keeps_the_contract(config):
    results = check_dictionary(config)
    assert list(results) == [check.__name__.removeprefix("_check_") for check in CHECKS]
    skipped = {name for name, result in results.items() if result != "passed"}
    expected = set() if isinstance(config, GradientConfig) else {"gradients"}
    if isinstance(config, dl.MeanConfig):  # the one kind without features
        expected |= {"sparse_gradients_equal_dense", "scores_decide",
                     "reading_is_the_tangent"}  # fmt: skip
    assert skipped == expected


class Healthy(TrainableDictionary):
    """The dictionary from which every mutant differs in one thing."""

    def __init__(self, sites, seed=0):
        super().__init__(sites, 16)
        generator = torch.Generator().manual_seed(seed)
        self.W = torch.nn.Parameter(torch.randn(sites.source.d, 16, generator=generator) / 3)
        self.D = torch.nn.Parameter(torch.randn(16, sites.target.d, generator=generator) / 4)
        self.register_buffer("_bias", torch.zeros(sites.target.d))
        self.traits = Traits(nonnegative=True, max_active=16)

    @property
    def _atoms(self):
        return self.D

    def _encode(self, z):
        return (z @ self.W).relu()


@dataclass(frozen=True, kw_only=True)
class HealthyConfig(GradientConfig):
    kind = "healthy"

    def sites(self, offered):
        return offered

    def _build(self, sites, seed):
        return self.made(sites, seed)

    def made(self, sites, seed):
        return Healthy(sites, seed)

    def objective(self):
        return lambda fit_pass: {"squared_error": squared_error(fit_pass)}

    @classmethod
    def tiny(cls):
        return cls()


def test_the_healthy_dictionary_passes():
    assert set(check_dictionary(HealthyConfig()).values()) == {"passed"}


def mutant_config(dictionary_class, **changes):
    """A config like the healthy one that makes `dictionary_class`."""
    members = {"made": lambda self, sites, seed: dictionary_class(sites, seed), **changes}
    base = type("MutantConfig", (HealthyConfig,), members)
    return dataclass(frozen=True, kw_only=True)(base)()


class WrongShape(Healthy):
    def _write(self, acts):
        return super()._write(acts).reshape(-1, self.sites.target.d)


class SkipNotDeclared(Healthy):
    """Adds something in forward that neither decode nor skip knows."""

    def __init__(self, sites, seed=0):
        super().__init__(sites, seed)
        self.estimate = lambda x, acts: Healthy.estimate(self, x, acts) + 1.0


class NotAffine(Healthy):
    def _write(self, acts):
        return super()._write(acts).tanh()


class SparseDiffers(Healthy):
    def _encode_sparse(self, z):
        sparse = SparseActs.from_dense(self._encode(z))
        return SparseActs(sparse.offsets, sparse.indices, 1.01 * sparse.values, sparse.n_features)


class SparseWithoutGradient(Healthy):
    def _encode_sparse(self, z):
        return SparseActs.from_dense(self._encode(z).detach())


class NoGradient(Healthy):
    def _encode(self, z):
        return (z.detach() @ self.W).relu()


class ScoresOfOthers(Healthy):
    """Ranks features the wrong way round."""

    def _scores(self, z, features):
        return -(z @ self.W)[:, features]


class ScoresWithoutGradient(Healthy):
    @torch.no_grad()
    def _scores(self, z, features):
        return (z @ self.W)[:, features]


class ScoresOfAll(Healthy):
    """Takes the first features for those that were asked for."""

    def _scores(self, z, features):
        return (z @ self.W)[:, : len(features)]


class MixesRows(Healthy):
    def _encode(self, z):
        return (z @ self.W - (z.mean(dim=0) @ self.W if len(z) else 0.0)).relu()


class ChangesState(Healthy):
    def __init__(self, sites, seed=0):
        super().__init__(sites, seed)
        self.register_buffer("seen", torch.zeros(()))

    def _encode(self, z):
        self.seen += len(z)
        return super()._encode(z)


class LeavesState(Healthy):
    def _encode(self, z):
        self.last_norm = z.norm(dim=1)
        return super()._encode(z)


class TrainsDifferently(Healthy):
    def _encode(self, z):
        acts = super()._encode(z)
        return 2 * acts if self.training else acts


class BrokenPromise(Healthy):
    def _encode(self, z):
        return z @ self.W


class TooManyActive(Healthy):
    def __init__(self, sites, seed=0):
        super().__init__(sites, seed)
        self.traits = Traits(nonnegative=True, max_active=2)


class TooManyInAGroup(Healthy):
    """Never more than 8 are active, but all in the first of two groups, which may have 4."""

    def __init__(self, sites, seed=0):
        super().__init__(sites, seed)
        self.traits = Traits(nonnegative=True, max_active=8, n_groups=2)

    def _encode(self, z):
        return super()._encode(z) * (torch.arange(16) < 8)


class NotBinary(Healthy):
    def __init__(self, sites, seed=0):
        super().__init__(sites, seed)
        self.traits = Traits(binary=True)


class ReadsRawUnits(Healthy):
    def _encode(self, z):
        return ((z * self.x_scale + self.x_mean) @ self.W).relu()


class ForgetsOnSave(Healthy):
    def __init__(self, sites, seed=0):
        super().__init__(sites, seed)
        self.register_buffer("offset", torch.zeros(16), persistent=False)

    def observe_(self, fit_pass):
        self.offset.fill_(0.1)

    def _encode(self, z):
        return (z @ self.W - self.offset).relu()


class DeadParameter(Healthy):
    def __init__(self, sites, seed=0):
        super().__init__(sites, seed)
        self.unused = torch.nn.Parameter(torch.ones(3))


class ZeroGradient(Healthy):
    def _train_encode(self, z):
        acts = self._encode(z).detach() + 0.0 * self.W.sum()
        return Encoding(acts, acts)


class Unseeded(Healthy):
    def __init__(self, sites, seed=0):
        super().__init__(sites, seed)
        torch.nn.init.normal_(self.D, std=0.25)


class LearnsNothing(Healthy):
    def project_(self):
        with torch.no_grad():
            self.D.fill_(1e-3)


MUTANTS: list[tuple[str, type, str]] = [
    ("shapes", WrongShape, "decode: required shape|TypeCheckError"),
    ("forward_is_decode_of_encode", SkipNotDeclared, "forward against decode"),
    ("decode_is_affine", NotAffine, "decode against acts @ atoms"),
    ("sparse_equals_dense", SparseDiffers, "encode_sparse against encode"),
    ("sparse_gradients_equal_dense", SparseWithoutGradient, "through encode_sparse against"),
    ("sparse_gradients_equal_dense", NoGradient, "carries no gradient to its rows"),
    ("scores_decide", ScoresOfOthers, "an inactive feature has a larger score"),
    ("scores_decide", ScoresWithoutGradient, "scores carry no gradient"),
    ("scores_decide", ScoresOfAll, "scores of some features alone"),
    ("reading_is_the_tangent", SparseWithoutGradient, "readers against the gradient"),
    ("rows_are_independent", MixesRows, "encode of the first rows alone"),
    ("encode_changes_nothing", ChangesState, "encode changed"),
    ("encode_changes_nothing", LeavesState, "encode left state behind"),
    ("encode_changes_nothing", TrainsDifferently, "different results for one input"),
    ("traits_hold", BrokenPromise, "traits.nonnegative"),
    ("traits_hold", TooManyActive, "traits.max_active"),
    ("traits_hold", TooManyInAGroup, "in a group"),
    ("traits_hold", NotBinary, "traits.binary"),
    ("units_are_raw", ReadsRawUnits, "encode in other units"),
    ("save_and_load", ForgetsOnSave, "forward after save and load"),
    ("gradients", DeadParameter, "unused got no gradient"),
    ("gradients", ZeroGradient, "gradient of W is zero"),
    ("seeds", Unseeded, "two fits from one seed differ"),
    ("learning", LearnsNothing, "on held-out rows FVU"),
]


@pytest.mark.parametrize(
    ("check", "mutant", "reason"), MUTANTS, ids=lambda v: getattr(v, "__name__", "")
)
def test_every_check_kills_its_mutant(check, mutant, reason):
    """The check named must fail on the mutant, for the reason named."""
    killer = next(c for c in CHECKS if c.__name__ == f"_check_{check}")
    with pytest.raises(ContractError, match=reason):
        _only(killer, mutant_config(mutant))


def test_every_check_has_a_mutant():
    killed = {check for check, *_ in MUTANTS}
    assert {c.__name__.removeprefix("_check_") for c in CHECKS} == killed


def _only(check, config):
    """Run one check on a trained instance of `config`, as check_dictionary would."""
    activations = synthetic(seed=0)
    dictionary = dl.fit(config, activations, FIT, progress=False)
    rows = activations.rows(0, 0, 64).batch(dictionary.sites).x
    return run(check, Subject(dictionary, rows, config))


def test_a_dictionary_without_config_is_checked_as_it_is():
    results = check_dictionary(Healthy(SITES))
    skipped = {name for name, result in results.items() if result.startswith("skipped")}
    assert skipped == {"save_and_load", "gradients", "seeds", "learning"}


def test_checking_leaves_the_dictionary_as_it_was():
    dictionary = Healthy(SITES)
    before = copy.deepcopy(dictionary.state_dict())
    check_dictionary(dictionary)
    assert all(torch.equal(before[k], v) for k, v in dictionary.state_dict().items())


def test_final_methods_cannot_be_overridden():
    with pytest.raises(TypeError, match="decode is final"):
        type("Cheat", (FeatureDictionary,), {"decode": lambda self, acts: acts})
