"""Numbers in edits: of which types, within which ranges; and directions that are none."""

import numpy as np
import pytest
import torch

from dictlearn.core.errors import InputError
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.dictionaries.topk_sae import TopKSAEConfig
from dictlearn.interventions.choice import Activate
from dictlearn.interventions.direction import Cap, ProjectOut, Push
from dictlearn.interventions.edit import Ablate, Add, Clamp, Scale
from dictlearn.interventions.features import PassFeatures
from dictlearn.interventions.inside import inside
from dictlearn.interventions.span import Span
from dictlearn.lm.sites import hook_sites


@pytest.mark.parametrize("three", [np.int64(3), np.array(3), torch.tensor(3), np.uint8(3)])
def test_whole_numbers_of_any_type(three):
    assert Ablate(three) == Ablate(3)
    assert Activate([three, 4]) == Activate((3, 4))
    assert Span.of(three) == Span.of(3)
    assert Span.of(slice(three, three)) == Span(3, 3)
    direction = Push(three, 4.0).direction
    assert direction == 3
    assert type(direction) is int


@pytest.mark.parametrize("several", [
    np.array([0, 4]), torch.tensor([0, 4]), [torch.tensor(0), np.int64(4)], range(0, 8, 4),
], ids=lambda given: type(given).__name__)  # fmt: skip
def test_several_whole_numbers_of_any_type(several):
    assert Ablate(several) == Ablate((0, 4))
    assert Ablate(1, positions=several) == Ablate(1, positions=(0, 4))


@pytest.mark.parametrize("number", [np.float32(2.5), torch.tensor(2.5), np.array(2.5), 2.5])
@pytest.mark.parametrize("kind", [Clamp, Scale, Add])
def test_numbers_of_any_type(kind, number):
    assert kind(3, number) == kind(3, 2.5)
    assert str(kind(3, number)) == f"{kind.verb} 3 = 2.5"
    assert Push(3, number).value == Cap(3, number).value == 2.5


@pytest.mark.untyped
@pytest.mark.parametrize("make", [
    lambda: Ablate(True), lambda: Ablate(torch.tensor(True)), lambda: Ablate([0, True]),
    lambda: Ablate(torch.tensor([False, True])), lambda: Ablate(np.array([True])),
    lambda: Ablate(2.0), lambda: Ablate(torch.tensor([2.0])),
    lambda: Ablate(torch.tensor([[3]])),
    lambda: Ablate(1, positions=True), lambda: Ablate(1, positions=[True, False]),
    lambda: Ablate(1, positions=torch.tensor([True, False])), lambda: Ablate(1, positions=2.0),
    lambda: Ablate(1, positions=10**30), lambda: Ablate(1, positions=slice(0, 10**30)),
    lambda: Ablate(1, positions="1" + 30 * "0"), lambda: Ablate(1, positions=()),
    lambda: Ablate(1, positions=slice(0, 2.5)), lambda: Ablate(1, positions=slice("a", None)),
    lambda: Ablate(1, positions=slice(False, None)), lambda: Ablate(1, positions=slice(0, 4, 2)),
    lambda: Clamp(1, True), lambda: Clamp(1, "2"), lambda: Clamp(1, torch.ones(2)),
    lambda: Clamp(1, 10**400), lambda: Clamp(1, torch.tensor(torch.inf)), lambda: Clamp(1, 2j),
    lambda: Push(True, 1.0), lambda: Push(-1, 1.0), lambda: Push(1.0, 1.0), lambda: Push(1, "2"),
    lambda: Push(torch.tensor(1.0), 1.0), lambda: Push(torch.ones(2, 2), 1.0),
    lambda: Push(torch.ones(4) > 0, 1.0), lambda: Push(torch.ones(4) * 1j, 1.0),
    lambda: Push(torch.tensor([1.0, torch.nan]), 1.0), lambda: Push(torch.zeros(4).long(), 1.0),
])  # fmt: skip
def test_what_is_no_number_is_refused(make):
    with pytest.raises(InputError, match="required"):
        make()


@pytest.fixture(scope="module")
def model(native):
    return native()


@pytest.fixture
def sae(model):
    sites = hook_sites(model, "blocks.0.hook_resid_post")
    return TopKSAEConfig(n_features=20, k=4).build(sites)


def test_a_number_fits_the_type_of_the_dictionary(model, ids, sae):
    for edit in (Clamp(1, 1e300), Scale(1, -1e300), Add(1, 1e39), Push(1, 1e39), Cap(1, 1e39)):
        told = pytest.raises(InputError, match=r"up to 3\.4.*e\+38, the largest of torch\.float32")
        with told, inside(model, sae, edits=edit):
            pass
    with inside(model, sae, edits=Clamp(1, 3e38)) as running:
        model(ids)
    assert (running["dictionary"].dense()[..., 1] == 3e38).all()
    edit = Clamp(1, 1e300)
    edit.require_fits(sae.double())


@pytest.mark.parametrize("vector", [
    torch.arange(1, 5), torch.arange(1, 5, dtype=torch.int8), 1e-30 * torch.arange(1.0, 5),
    1e30 * torch.arange(1.0, 5), 1e-300 * torch.arange(1.0, 5, dtype=torch.float64),
], ids=["int64", "int8", "small", "large", "float64"])  # fmt: skip
def test_a_direction_has_norm_1(vector):
    """(1, 2, 3, 4) / sqrt(30), whatever the scale and the type."""
    unit = Push(vector, 2.0).unit(None)
    torch.testing.assert_close(unit, torch.arange(1, 5).to(unit) / 30**0.5)
    y = torch.ones(2, 4).to(unit)
    torch.testing.assert_close(Push(vector, 2.0).moved(y, unit), 1 + 2 * unit.expand(2, 4))


@pytest.mark.parametrize("edit", [Push(3, 4.0), ProjectOut(3), Cap(3, 1.0)], ids=str)
def test_an_atom_of_0_has_no_direction(model, sae, edit):
    with inside(model, sae, edits=edit):
        pass
    sae.W_dec.data[3] = 0
    told = pytest.raises(InputError, match=f"{edit}: required a feature whose atom has a direction")
    with told, inside(model, sae, edits=edit):
        pass


@pytest.mark.untyped
def test_sequences_of_a_pass():
    positions = torch.arange(2).expand(3, 2) - torch.tensor([[0], [1], [0]])
    dense = torch.arange(1.0, 7).view(3, 2, 1)
    found = PassFeatures(SparseActs.from_dense(dense.flatten(0, 1)), positions)
    for wanted in ([1, 0, 1], (1, 0, 1), torch.tensor([1, 0, 1]), np.array([1, 0, 1])):
        own = found.sequences(wanted)
        assert torch.equal(own.dense(), dense[[1, 0, 1]])
        assert torch.equal(own.positions, positions[[1, 0, 1]])
    assert torch.equal(found.sequences(2).dense(), dense[2:])
    assert found.sequences([]).dense().shape == (0, 2, 1)
    for wanted in ([3], [-1], [True, False], torch.tensor([True, False, True]), [0.5], None, "0"):
        with pytest.raises(InputError, match="numbers of sequences from 0 to 2"):
            found.sequences(wanted)
