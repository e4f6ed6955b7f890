import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import dictlearn as dl
from dictlearn.core.batches import Rows
from dictlearn.core.errors import NonFiniteError
from dictlearn.training.ahead import Ahead, reading_ahead


def rows(step: int) -> dict:
    return {True: Rows({"h": torch.full((2, 3), float(step))})}


def tensors(read: dict) -> list:
    return [part.at["h"] for part in read.values()]


def test_the_next_step_is_read_while_the_present_one_is_used():
    begun = [threading.Event() for _ in range(4)]

    def read(step):
        begun[step].set()
        return rows(step)

    with ThreadPoolExecutor(1) as thread:
        ahead = Ahead(thread, read, steps=3)
        for step in (1, 2):  # a run that continues does not begin at 0
            assert ahead(step)[True].at["h"].eq(step).all()
            assert step == 2 or begun[step + 1].wait(600)
        assert not begun[0].is_set()
        assert not begun[3].is_set(), "nothing is read after the last step"


def test_an_error_is_raised_by_the_step_that_it_belongs_to():
    def read(step):
        if step == 1:
            raise NonFiniteError("row 17")
        return rows(step)

    with ThreadPoolExecutor(1) as thread:
        ahead = Ahead(thread, read, steps=3)
        assert ahead(0)[True].at["h"].eq(0).all()
        with pytest.raises(NonFiniteError, match="row 17"):
            ahead(1)


def test_on_a_cpu_nothing_is_read_ahead():
    with reading_ahead(rows, tensors, 3, torch.device("cpu")) as read:
        assert read is rows


def test_what_processes_read_together_is_not_read_ahead():
    with reading_ahead(rows, tensors, 3, torch.device("cuda"), together=True) as read:
        assert read is rows


@pytest.mark.gpu
def test_reading_ahead_changes_no_bit():
    x = torch.randn(4096, 32, generator=torch.Generator().manual_seed(0))
    run = dl.FitConfig(steps=20, batch_size=256, device="cuda", mixed_precision=False)
    one, two = (dl.fit(dl.TopKSAEConfig(n_features=64, k=4), x, run) for _ in range(2))
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, two.state_dict()[name]), name
