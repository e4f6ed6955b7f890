"""The parts of the side-by-side harness that need no other library."""

import pytest
import torch

from benchmarks.peers.measure import Spread, Timing, digits, in_turn, seconds
from benchmarks.peers.ours import OURS
from benchmarks.peers.page import Section, Table, page, sections_of, with_new
from benchmarks.peers.part import Part
from benchmarks.peers.peer import Plan
from benchmarks.peers.steps import STARTING_AT_L0, TRANSCODERS
from dictlearn.core.batches import Batch


class FakeTime:
    """A clock that moves only when work is done."""

    def __init__(self):
        self.now = 0.0
        self.log = []

    def clock(self):
        return self.now

    def work(self, name, *durations):
        """Work that takes each of the durations in turn."""
        left = list(durations)

        def call():
            self.log.append(name)
            self.now += left.pop(0)

        return call


def test_spread_is_median_and_range():
    assert Spread.of([4.0, 1.0, 3.0, 2.0]) == Spread(2.5, 1.0, 4.0)
    with pytest.raises(ValueError, match="at least one"):
        Spread.of([])


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (1, "1.00"), (9.996, "10.0"), (10.26, "10.3"), (123.4, "123"), (0.5, "0.500"),
     (0.0001234, "0.000123"), (12345, "12,300"), (-2.5, "-2.50")],
)  # fmt: skip
def test_numbers_show_three_digits(value, shown):
    assert digits(value) == shown


def test_one_measurement_has_no_range():
    assert str(Spread.of([2.0])) == "2.00"
    assert str(Spread.of([1.0, 2.0, 4.0])) == "2.00 (1.00 to 4.00)"


def test_seconds_are_those_of_one_call():
    time = FakeTime()
    assert seconds(time.work("a", 1.5), time.clock) == 1.5


def test_contenders_have_their_turns_beside_the_unit():
    time = FakeTime()
    contenders = {
        "fast": time.work("fast", 9.0, 2.0, 4.0),
        "slow": time.work("slow", 9.0, 6.0, 9.0),
    }
    unit = time.work("unit", 1.0, 1.0, 2.0, 3.0)
    timings = in_turn(contenders, rounds=2, unit=unit, clock=time.clock)
    rounds = ["unit", "fast", "unit", "slow"]
    assert time.log == ["fast", "slow", *rounds, *rounds]  # first calls are not measured
    assert timings["fast"] == Timing((2.0, 4.0), (1.0, 2.0))
    assert timings["slow"] == Timing((6.0, 9.0), (1.0, 3.0))
    assert timings["fast"].units() == Spread(2.0, 2.0, 2.0)
    assert timings["slow"].times(timings["fast"]) == Spread(2.25, 1.5, 3.0)


def test_a_slow_spell_cancels_in_ratios():
    """In the second round the machine is three times slower: no ratio changes."""
    time = FakeTime()
    contenders = {"a": time.work("a", 1.0, 3.0), "b": time.work("b", 5.0, 15.0)}
    timings = in_turn(
        contenders,
        rounds=2,
        unit=time.work("unit", 0.5, 0.5, 1.5, 1.5),
        warm_up=False,
        clock=time.clock,
    )
    assert timings["a"].units() == Spread(2.0, 2.0, 2.0)
    assert timings["b"].times(timings["a"]) == Spread(5.0, 5.0, 5.0)


def test_without_a_unit_times_are_seconds():
    time = FakeTime()
    timings = in_turn({"a": time.work("a", 1.0, 2.0)}, rounds=1, clock=time.clock)
    assert timings["a"].units() == Spread(2.0, 2.0, 2.0)


def test_progress_names_every_turn():
    time, labels = FakeTime(), []
    in_turn({"a": time.work("a", 1, 1, 1)}, rounds=2, clock=time.clock, done=labels.append)
    assert labels == ["a: first call", "a: round 1 of 2", "a: round 2 of 2"]


def test_table_is_markdown():
    table = Table("Steps", ("library", "ms"))
    table.add("a|b", "1.0")
    table.notes.append("a note")
    assert table.markdown().splitlines() == [
        "**Steps**",
        "",
        "| library | ms |",
        "| --- | --- |",
        "| a\\|b | 1.0 |",
        "",
        "* a note",
    ]
    with pytest.raises(ValueError, match="required 2 cells"):
        table.add("only one")


def test_page_is_read_back():
    sections = [Section("One", "text\n\n| a |"), Section("Two", "more")]
    assert sections_of(page("# Speed\n\nhead", sections)) == sections
    assert sections_of("# Speed\n\nno section") == []


def test_a_section_is_replaced_and_the_order_kept():
    old = [Section("A", "old a"), Section("C", "old c"), Section("gone", "renamed since")]
    new = [Section("B", "new b"), Section("A", "new a")]
    assert with_new(old, new, ["A", "B", "C"]) == [new[1], new[0], old[1]]


def test_each_kind_of_processor_has_its_own_section():
    part = Part("A", "what it is", lambda run: [])
    old = [Section("A, with AVX2", "1"), Section("A, with AVX512", "2"), Section("B", "3")]
    new = part.section(None, "AVX2", lambda: "on this machine")
    assert new == Section("A, with AVX2", "what it is\n\non this machine")
    assert with_new(old, [new], ["B", "A"]) == [old[2], new, old[1]]


@pytest.mark.parametrize("kind", STARTING_AT_L0)
def test_kinds_that_do_not_fix_their_l0_start_at_the_wanted_one(kind):
    x = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    y = torch.randn(64, 32, generator=torch.Generator().manual_seed(1))
    batch = Batch(x, y if kind in TRANSCODERS else x)
    trainee = OURS.makers[kind](Plan(width=32, n_features=256, k=10), batch)
    active = trainee.estimate.__wrapped__.encode_sparse(x).values.numel()
    assert active / len(x) == pytest.approx(10, rel=0.02)
