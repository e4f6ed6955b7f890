"""Boolean circuits: their truth by enumeration, their edges, and circuits that are none."""

import pytest
import torch

from dictlearn.core.errors import ConfigError
from dictlearn.synthetic.boolean import TWO_HOPS, BooleanCircuit, Gate

ALL = TWO_HOPS.assignments


def test_the_circuit_computes_its_formula():
    assert ALL.tolist() == [[bool(i >> k & 1) for k in (3, 2, 1, 0)] for i in range(16)]
    a, b, c, d = ALL.T
    assert TWO_HOPS.values("c", ALL).equal(c)
    assert TWO_HOPS.values("x", ALL).equal(a & b)
    assert TWO_HOPS.values("y", ALL).equal(c & d)
    assert TWO_HOPS.values("z", ALL).equal((a & b) ^ (c & d))
    gates = [a & b, c & d, a & b & ~(c & d), c & d & ~(a & b)]
    assert TWO_HOPS.active(ALL).equal(torch.stack(gates, dim=1))
    assert (TWO_HOPS.answer, TWO_HOPS.layers) == ("z", (0, 0, 1, 1))


def test_edges_are_those_on_ways_to_the_answer():
    first, second = "a & b", "c & d"
    x = {("a", first), ("b", first), (first, "x & ~y"), ("x & ~y", "z")}
    y = {("c", second), ("d", second), (second, "~x & y"), ("~x & y", "z")}
    for values in ALL.tolist():
        a, b, c, d = values
        true = x if a and b and not (c and d) else y if c and d and not (a and b) else set()
        assert TWO_HOPS.edges(values) == true


def test_a_gate_may_read_any_earlier_layer():
    """A chain of three layers, in which the last gate reads an input as well."""
    chain = BooleanCircuit(
        inputs=("p", "q"),
        gates=(Gate("u", {"p": False}), Gate("v", {"u": True}), Gate("w", {"v": True, "q": True})),
    )
    assert chain.layers == (0, 1, 2)
    assert chain.values("w", chain.assignments).tolist() == [False, True, False, False]
    assert chain.edges([False, True]) == {
        ("p", "~p"), ("~p", "u"), ("u", "v & q"), ("q", "v & q"), ("v & q", "w"),
    }  # fmt: skip


def test_tokens():
    ids = TWO_HOPS.ids(torch.tensor([[True, False, False, True]]))
    assert ids.tolist() == [[1, 2, 4, 7, TWO_HOPS.ask]]
    assert (TWO_HOPS.ask, TWO_HOPS.no, TWO_HOPS.yes, TWO_HOPS.d_vocab) == (8, 9, 10, 11)


@pytest.mark.parametrize(
    ("inputs", "gates", "told"),
    [
        ((), [Gate("x", {"a": True})], "at least one gate"),
        (("a", "a"), [Gate("x", {"a": True})], "different names"),
        (("a",), [], "at least one gate"),
        (("alpha",), [Gate("x", {"alpa": True})], "alpha"),
        (("a",), [Gate("x", {})], "reads nothing"),
        (("a",), [Gate("a", {"a": True})], "writes none of the inputs"),
        (("a",), [Gate("x", {"a": True}), Gate("y", {"a": True})], "different formulas"),
        (("a",), [Gate("x", {"y": True}), Gate("y", {"a": True})], "known before it"),
        (
            ("a", "b"),
            [Gate("x", {"a": True}), Gate("y", {"x": True}), Gate("x", {"a": False})],
            "known before it",
        ),
        (("a", "b"), [Gate("x", {"a": True}), Gate("x", {"b": True})], "at most one is active"),
    ],
)
def test_what_is_no_circuit(inputs, gates, told):
    with pytest.raises(ConfigError, match=told):
        BooleanCircuit(inputs, gates)
