"""Run by each of two processes: what one rank sees of the other, with known answers."""

import pytest
import torch

import dictlearn as dl
from dictlearn.activations.live import LiveActivations
from dictlearn.core.batches import Rows
from dictlearn.core.errors import InputError, ProcessError
from dictlearn.core.provenance import Provenance
from dictlearn.distributed.launching import join, own_device
from dictlearn.distributed.process_group import SINGLE, ProcessGroup


def main() -> None:
    group = join()
    me = group.rank
    assert (group.world_size, group.is_main) == (2, me == 0)

    t = torch.tensor([1.0, 10.0]) * (me + 1)
    assert group.all_reduce(t).tolist() == [3.0, 30.0]
    assert group.all_reduce_mean(t).tolist() == [1.5, 15.0]
    assert group.all_reduce_min(-t).tolist() == [-2.0, -20.0]
    assert t.tolist() == [1.0 * (me + 1), 10.0 * (me + 1)], "the argument stays as it is"
    assert group.all_reduce(torch.tensor(2**40 + me)).item() == 2**41 + 1, (
        "whole numbers stay whole"
    )
    matrix, number = group.all_reduce_means(
        [torch.full((2, 3), float(me)).T, torch.tensor(4.0 * me)]
    )
    assert torch.equal(matrix, torch.full((3, 2), 0.5))
    assert number.item() == 2.0

    # Row 0 has its three largest on both group, row 1 on the second alone, and 5.0 comes twice.
    mine = torch.tensor([[[9.0, 1.0, 8.0], [1.0, 2.0, 3.0]], [[7.0, 5.0, 6.0], [4.0, 5.0, 6.0]]])[
        me
    ]
    largest = [[[9.0, 0.0, 8.0], [0.0, 0.0, 0.0]], [[7.0, 0.0, 0.0], [4.0, 5.0, 6.0]]][me]
    assert group.global_top_k(mine, 3).tolist() == largest
    ties = group.global_top_k(torch.ones(4), 5)
    assert group.all_reduce(ties.sum()).item() == 5.0, "exactly as many equal ones as may stay"
    assert torch.equal(group.global_top_k(mine, 99), mine)

    # Two processes hold W's columns; a parameter b on which all depend has its gradient from both.
    W, b = torch.tensor([2.0 + me], requires_grad=True), torch.tensor([1.0], requires_grad=True)
    estimate = group.all_reduce_forward(W * group.all_reduce_backward(b))
    assert estimate.item() == 5.0
    (estimate**2).sum().backward()
    assert W.grad is not None
    assert b.grad is not None
    assert (W.grad.item(), b.grad.item()) == (10.0, 10.0 * (2.0 + 3.0))
    assert group.all_gather(torch.full((2, 1), me), axis=1).tolist() == [[0, 1], [0, 1]]
    assert group.slice_of(2 + me) == ((slice(0, 2), slice(2, 5))[me], 5)
    fewer = group.global_top_k(torch.arange(1.0 + me), 3)
    assert fewer.tolist() == [[0.0], [0.0, 1.0]][me], "a rank may have fewer than k"

    told = torch.full((3,), float(me + 7))
    group.broadcast_([told])
    assert told.tolist() == [7.0, 7.0, 7.0]
    assert group.all_gather_object({"rank": me}) == [{"rank": 0}, {"rank": 1}]

    assert group.all_succeed(lambda: me) == me

    def fails_on_second():
        if me == 1:
            raise InputError("only here")

    def divides_on_second():
        return 1 // (1 - me)

    with pytest.raises(InputError, match="only here"):
        group.all_succeed(fails_on_second)
    with pytest.raises(ProcessError if me == 0 else ZeroDivisionError, match="division"):
        group.all_succeed(divides_on_second)
    assert group.all_succeed(lambda: "still together") == "still together"
    reads_together(group)
    assert own_device("cpu", group) == "cpu"
    assert own_device("cuda:1", SINGLE) == "cuda:1"

    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    run = dl.FitConfig(steps=5, batch_size=16, standardize_rows=16)
    learned = dl.fit(dl.BatchTopKSAEConfig(n_features=16, k=2), x, run, progress=False)
    assert learned.batch_group is SINGLE, "a finished dictionary is one process's own"
    here, there = group.all_gather_object(learned.state_dict())
    assert all(torch.equal(t, there[name]) for name, t in here.items()), "all return the same"


def reads_together(group: ProcessGroup) -> None:
    """Parts are read by turns, arrive as they are, and nobody waits for a rank that fails."""
    calls = []

    def read(parts):
        calls.extend(part.tolist() for part in parts)
        assert 9 not in calls[-1], "nine is too much"
        return [
            Rows(
                {
                    "a": part[part > 1].bfloat16().unsqueeze(1),
                    "b": part[part > 1].double().unsqueeze(1) / 3,
                }
            )
            for part in parts
        ]

    parts = torch.arange(6).split(2)
    rows = group.divided(read)(parts)
    assert calls == [[[0, 1], [4, 5]], [[2, 3]]][group.rank]
    for own, other in zip(rows, read(parts), strict=True):
        for hook, x in other.at.items():
            assert own.at[hook].dtype == x.dtype
            assert torch.equal(own.at[hook], x)
    assert len(group.divided(read)(parts[:1])) == 1, "fewer parts than ranks"
    with pytest.raises(InputError, match="read the same blocks"):
        group.divided(read)(torch.arange(6 + group.rank).split(2))
    first, second = (AssertionError, ProcessError)[:: 1 if group.rank == 0 else -1]
    with pytest.raises(first, match="nine"):
        group.divided(read)([torch.tensor([9]), torch.tensor([1])])

    def fails_before_it_reads():
        if group.rank == 1:
            raise AssertionError("nine lives")
        return group.all_succeed(lambda: group.divided(read)(parts))

    with pytest.raises(second, match="nine lives"):
        group.all_succeed(fails_before_it_reads)
    assert group.all_succeed(lambda: len(group.divided(read)(parts))) == 3, "still together"

    live = LiveActivations(
        read, torch.tensor([0, 0, 1, 1, 1, 1]), [dl.Sites(dl.Site("a", 1), dl.Site("b", 1))],
        Provenance(), read_blocks=2 + group.rank,
    )  # fmt: skip
    shared = live.select(live.sites[0].at_target()).divided(group)
    calls.clear()
    found = shared.rows(0, 0, 4).at
    assert list(found) == ["b"]
    assert group.all_gather_object([len(c) for c in calls]) == [[2, 2], [2]], "the smaller size"
    assert found["b"].equal(live.rows(0, 0, 4).at["b"])


if __name__ == "__main__":
    main()
