"""What cannot be given to other processes is refused before one starts."""

import threading

import pytest

import dictlearn as dl
from dictlearn.core.errors import InputError
from dictlearn.core.tokens import Tokens
from dictlearn.distributed.launching import launch


def test_live_activations_are_refused_with_a_way_out(native, ids):
    model = native()
    tokens = Tokens(ids, ids >= 0, source="", split="", hash="")
    live = dl.harvest(model, tokens, dl.mlp_sites(model, 0))
    run = dl.FitConfig(steps=1, batch_size=8)
    with pytest.raises(
        InputError,
        match=r"got fit\(SAEConfig, LiveActivations, FitConfig\) .*to a store first.*torchrun",
    ):
        launch(2, dl.fit, dl.SAEConfig(n_features=8), live, run)


@pytest.mark.parametrize("argument", [lambda: None, threading.Lock()])
def test_functions_and_locks_are_refused(argument):
    with pytest.raises(InputError, match=r"can be pickled for other processes, got print\("):
        launch(2, print, argument)
    with pytest.raises(InputError, match=r"got <lambda>\(int\)"):
        launch(2, lambda x: x, 1)
