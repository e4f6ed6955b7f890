"""TokFSM: the published machine, its optimum by enumeration, and what counts as a transition."""

from itertools import product
from math import isnan, log

import numpy as np
import pytest
import torch

from dictlearn.core.errors import ConfigError
from dictlearn.synthetic.tokfsm import SMALL, TokFSM


@pytest.mark.parametrize(
    ("machine", "trigrams", "loss", "accuracy"),
    [(TokFSM(), 686, 1.1748, 46.38), (SMALL, 85, 0.8678, 52.86)],
    ids=["paper", "small"],
)
def test_published_numbers(machine, trigrams, loss, accuracy):
    assert len(machine.trigrams()) == trigrams
    assert round(machine.optimum.loss, 4) == loss
    assert round(100 * machine.optimum.accuracy, 2) == accuracy


def test_the_graph_is_that_of_the_released_code():
    """Row by row: `T[i, rng.choice(100, size=10, replace=False)] = 1`, then normalized."""
    rng, T = np.random.default_rng(42), np.zeros((100, 100))
    for i in range(100):
        T[i, rng.choice(100, size=10, replace=False)] = 1
    assert np.array_equal(TokFSM().transitions.numpy(), T / T.sum(1, keepdims=True))


def test_the_optimum_by_enumeration_of_all_sequences():
    machine = TokFSM(n_states=5, n_edges=2, base=3, context=6)  # two states, and half of a third
    T, probability = machine.transitions, {}
    for walk in product(range(5), repeat=3):
        p = (1 / 5) * float(T[walk[0], walk[1]]) * float(T[walk[1], walk[2]])
        ids = tuple(machine.written(torch.tensor([walk]))[0, :6].tolist())
        if p:
            probability[ids] = probability.get(ids, 0.0) + p
    loss = accuracy = 0.0
    for t in range(1, 6):
        prefixes = {}
        for ids, p in probability.items():
            own = prefixes.setdefault(ids[:t], {})
            own[ids[t]] = own.get(ids[t], 0.0) + p
        for own in prefixes.values():
            total = sum(own.values())
            loss -= sum(p * log(p / total) for p in own.values())
            accuracy += max(own.values())
    assert machine.optimum == pytest.approx((loss / 5, accuracy / 5), abs=1e-12)


def test_samples():
    ids = SMALL.sample(2000, 3)
    assert ids.shape == (2000, 32)
    assert torch.equal(ids, SMALL.sample(2000, 3))
    assert not torch.equal(ids, SMALL.sample(2000, 4))
    assert (ids[:, 0] == SMALL.bos).all()
    assert int(ids[:, 1:].max()) < SMALL.base
    assert SMALL.transition_accuracy(ids) == (1.0, 1.0)
    states = SMALL.states(ids)
    assert (states[:, ::2][:, 1:] >= 0).all()
    assert (states[:, 1::2] == -1).all()
    assert (states[:, 0] == -1).all()
    pairs = states[:, 2:-2:2].flatten() * 25 + states[:, 4::2].flatten()
    found = torch.bincount(pairs, minlength=625).view(25, 25).double()
    visits = found.sum(1, keepdim=True)
    errors = (0.2 * 0.8 / visits).sqrt()
    assert (((found / visits - SMALL.transitions) / errors).abs() < 4.5).all()
    assert torch.equal(SMALL.written(states[:, 2::2])[:, :32], ids[:, :31])


def test_transition_accuracy():
    machine = TokFSM(n_states=4, n_edges=1, base=2, context=7)
    after = machine.transitions.argmax(1)
    good = [0, int(after[0]), int(after[after[0]])]
    bad = [0, int(after[0]), (int(after[after[0]]) + 1) % 4]
    ids = machine.written(torch.tensor([good, bad]))
    assert machine.transition_accuracy(ids) == (0.75, 1.0)
    ids[1, 2] = machine.bos  # no state: two of its pairs are illegal
    assert machine.transition_accuracy(ids) == (0.5, 0.5)
    assert machine.transition_accuracy(ids[:, :6]) == (0.5, 0.5), "half a state does not count"


def test_one_state_makes_no_transition():
    assert all(map(isnan, TokFSM(context=3).transition_accuracy(TokFSM(context=3).sample(4, 0))))


def test_states_have_two_digits():
    """Of all pairs of numbers, tokens or not, only the digits of a state are one."""
    machine = TokFSM(n_states=8, n_edges=1, base=3, context=3)
    pairs = list(product(range(-4, 6), repeat=2))
    found = machine.states(torch.tensor([(machine.bos, *pair) for pair in pairs]))
    digits = {(s // 3, s % 3): s for s in range(8)}
    assert found.tolist() == [[-1, -1, digits.get(pair, -1)] for pair in pairs]


def test_inputs():
    bigrams, trigrams = SMALL.bigrams(), SMALL.trigrams()
    assert bigrams.tolist() == [[5, s // 5, s % 5] for s in range(25)]
    legal = {(s, int(t) // 5) for s in range(25) for t in SMALL.transitions[s].nonzero()[:, 0]}
    assert {(int(r[1]) * 5 + int(r[2]), int(r[3])) for r in trigrams} == legal


def test_errors():
    for fields in ({"n_edges": 101}, {"base": 9}, {"context": 2}, {"n_states": 0}):
        with pytest.raises(ConfigError):
            TokFSM(**fields)
