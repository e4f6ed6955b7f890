"""Checks of how a dictionary is kept and learns: files, gradients, seeds, progress."""

import copy
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from dictlearn.contract.subject import FIT, Subject, require, synthetic
from dictlearn.core.batches import Batch
from dictlearn.core.kinds import DictionaryConfig, GradientConfig
from dictlearn.core.learning import TrainableDictionary
from dictlearn.dictionaries.files import load, save
from dictlearn.metrics.reconstruction import fraction_variance_unexplained
from dictlearn.training.fit import fit

_NEEDS_CONFIG = "it takes a config: check_dictionary(MyConfig.tiny())"


def _check_save_and_load(case: Subject) -> str | None:
    """A new object from config and file is bit-identical."""
    config = case.dictionary.config
    if config is None:
        return "the dictionary has no config to be built from"
    assert isinstance(config, DictionaryConfig)
    with tempfile.TemporaryDirectory() as folder:
        path = save(case.dictionary, Path(folder) / "dictionary")
        loaded = load(path, kinds=[type(config)])
    require(torch.equal(loaded(case.x), case.dictionary(case.x)), "forward after save and load")
    require(loaded.sites == case.dictionary.sites, "sites after save and load")
    require(loaded.config == config, "config after save and load")
    require(loaded.provenance == case.dictionary.provenance, "provenance after save and load")
    return None


def _check_gradients(case: Subject) -> str | None:
    """Every parameter gets a finite gradient, and one that is not all zero."""
    if case.config is None:
        return _NEEDS_CONFIG
    if not isinstance(case.config, GradientConfig):
        return "it does not learn by gradients"
    dictionary = copy.deepcopy(case.dictionary).requires_grad_(True)
    assert isinstance(dictionary, TrainableDictionary)
    batch: Batch = synthetic(seed=0).rows(0, 0, 512).batch(dictionary.sites)
    losses = case.config.objective()(dictionary.fit_pass(batch))
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in dictionary.named_parameters():
        gradient = parameter.grad
        require(gradient is not None, f"{name} got no gradient")
        assert gradient is not None
        require(bool(gradient.isfinite().all()), f"the gradient of {name} is not finite")
        require(bool((gradient != 0).any()), f"the gradient of {name} is zero everywhere")
    return None


def _check_seeds(case: Subject) -> str | None:
    """Two fits with one seed are bit-identical, and with two seeds differ."""
    config = case.config
    if config is None:
        return _NEEDS_CONFIG

    def weights(seed: int) -> dict[str, Tensor]:
        short = replace(FIT, steps=20, batch_size=64, standardize_rows=64, seed=seed)
        return fit(config, synthetic(seed=0), short, progress=False).state_dict()

    once, again, other = weights(3), weights(3), weights(4)
    differing = [name for name in once if not torch.equal(once[name], again[name])]
    require(not differing, f"two fits from one seed differ in {differing}")
    if isinstance(config, GradientConfig):
        same = all(torch.equal(once[name], other[name]) for name in once)
        require(not same, "two fits from different seeds are equal: the seed is ignored")
    return None


def _check_learning(case: Subject) -> str | None:
    """On rows not trained on, it beats predicting the mean (a fixed baseline: is no worse)."""
    if case.config is None:
        return _NEEDS_CONFIG
    batch = synthetic(seed=1).rows(0, 0, 1024).batch(case.dictionary.sites)
    with torch.no_grad():
        fvu = float(fraction_variance_unexplained(batch.y, case.dictionary(batch.x)))
    limit = 0.95 if isinstance(case.config, GradientConfig) else 1.01
    require(fvu < limit, f"on held-out rows FVU is {fvu:.3f}; the mean has 1, required < {limit}")
    return None


LEARNING = (
    _check_save_and_load,
    _check_gradients,
    _check_seeds,
    _check_learning,
)
