"""Every registered kind against every check, and every check against its mutant."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

import dictlearn as dl
from dictlearn.contract import CHECKS, check_dictionary
from dictlearn.core.config import GradientConfig
from dictlearn.core.dictionary import FeatureDictionary, Traits
from dictlearn.core.errors import ContractError
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
    assert skipped == (set() if isinstance(config, GradientConfig) else {"gradients"})


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
    def _encode(self, z):
        acts = super()._encode(z)
        return acts[:1].expand_as(acts) if len(acts) else acts.new_zeros(0, 3)


class SkipNotDeclared(Healthy):
    """Adds something in forward that neither decode nor skip knows."""

    def __init__(self, sites, seed=0):
        super().__init__(sites, seed)
        self.estimate = lambda x, acts: Healthy.estimate(self, x, acts) + 1.0


class NotAffine(Healthy):
    def __init__(self, sites, seed=0):
        super().__init__(sites, seed)
        self.decode = lambda acts: Healthy.decode(self, acts).tanh()


class SparseDiffers(Healthy):
    def _encode_sparse(self, z):
        sparse = SparseActs.from_dense(self._encode(z))
        return SparseActs(sparse.offsets, sparse.indices, 1.01 * sparse.values, sparse.n_features)


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


MUTANTS: list[tuple[str, Callable]] = [
    ("shapes", lambda: mutant_config(WrongShape)),
    ("forward_is_decode_of_encode", lambda: mutant_config(SkipNotDeclared)),
    ("decode_is_affine", lambda: mutant_config(NotAffine)),
    ("sparse_equals_dense", lambda: mutant_config(SparseDiffers)),
    ("rows_are_independent", lambda: mutant_config(MixesRows)),
    ("encode_changes_nothing", lambda: mutant_config(ChangesState)),
    ("encode_changes_nothing", lambda: mutant_config(LeavesState)),
    ("encode_changes_nothing", lambda: mutant_config(TrainsDifferently)),
    ("traits_hold", lambda: mutant_config(BrokenPromise)),
    ("traits_hold", lambda: mutant_config(TooManyActive)),
    ("traits_hold", lambda: mutant_config(TooManyInAGroup)),
    ("traits_hold", lambda: mutant_config(NotBinary)),
    ("units_are_raw", lambda: mutant_config(ReadsRawUnits)),
    ("save_and_load", lambda: mutant_config(ForgetsOnSave)),
    ("gradients", lambda: mutant_config(DeadParameter)),
    ("gradients", lambda: mutant_config(ZeroGradient)),
    ("seeds", lambda: mutant_config(Unseeded)),
    ("learning", lambda: mutant_config(LearnsNothing)),
]


@pytest.mark.parametrize(("check", "make"), MUTANTS, ids=lambda v: v if isinstance(v, str) else "")
def test_every_check_kills_its_mutant(check, make):
    """The check named must fail on the mutant, whatever the others say of it."""
    config = make()
    killer = next(c for c in CHECKS if c.__name__ == f"_check_{check}")
    with pytest.raises(ContractError):
        _only(killer, config)


def test_every_check_has_a_mutant():
    killed = {check for check, _ in MUTANTS}
    assert {c.__name__.removeprefix("_check_") for c in CHECKS} == killed


def _only(check, config):
    """Run one check on a trained instance of `config`, as check_dictionary would."""
    import dictlearn.contract as contract

    activations = contract._synthetic(seed=0)
    dictionary = dl.fit(config, activations, contract._FIT, progress=False)
    rows = activations.rows(0, 0, 64).batch(dictionary.sites).x
    return contract._run(check, contract._Subject(dictionary, rows, config))


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
