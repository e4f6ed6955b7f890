"""Agreement of dictionaries, where it is known."""

import math

import pytest
import torch

from dictlearn.core.errors import InputError
from dictlearn.metrics.agreement import (
    cosine_with_mean_direction,
    matched_cosine_similarity,
    max_cosine_similarity,
    mean_max_cosine_similarity,
    neurons_per_feature,
)


def atoms(n=30, d=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64)


def test_a_permuted_and_rescaled_dictionary_is_the_same():
    a = atoms()
    b = 3.0 * a[torch.randperm(30, generator=torch.Generator().manual_seed(1))]
    for compare in (max_cosine_similarity, matched_cosine_similarity):
        torch.testing.assert_close(compare(a, b), torch.ones(30, dtype=torch.float64))


def test_a_rotation_by_a_known_angle_has_its_cosine():
    angle = 0.3
    rotation = torch.tensor(
        [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]
    )
    found = max_cosine_similarity(torch.eye(2), torch.eye(2) @ rotation)
    torch.testing.assert_close(found, torch.full((2,), math.cos(angle)))


def test_the_opposite_direction_is_another_feature():
    assert mean_max_cosine_similarity(torch.eye(3)[:1], -torch.eye(3)[:1]) == -1.0


def test_chunks_change_nothing(monkeypatch):
    a, b = atoms(), atoms(17, seed=1)
    whole = max_cosine_similarity(a, b)
    monkeypatch.setattr("dictlearn.metrics.agreement._CHUNK", 7)
    torch.testing.assert_close(max_cosine_similarity(a, b), whole)


def test_matching_is_one_to_one_and_never_better_than_the_maximum():
    a, b = atoms(12), atoms(9, seed=1)
    matched = matched_cosine_similarity(a, b)
    assert len(matched) == 9
    torch.testing.assert_close(matched, matched_cosine_similarity(b, a))
    assert (matched <= max_cosine_similarity(b, a) + 1e-12).all()


def test_matching_prefers_the_best_sum_over_the_best_pair():
    # The first atom is closest to the first of the others, but so is the second, far more.
    a = torch.tensor([[1.0, 0.1], [1.0, 0.0]])
    b = torch.tensor([[1.0, 0.0], [0.9, 0.6]])
    torch.testing.assert_close(matched_cosine_similarity(a, b)[1], torch.tensor(1.0))


def test_random_directions_are_no_neurons():
    spread = neurons_per_feature(atoms(200, 100))
    # For normal weights E|w|^2 / E[w^2] = 2 / pi: about 64 of 100.
    assert abs(spread.mean() / 100 - 2 / math.pi) < 0.02
    assert torch.equal(neurons_per_feature(-torch.eye(4)), torch.ones(4))
    assert neurons_per_feature(torch.zeros(1, 3)).isnan().all()


@pytest.mark.untyped
@pytest.mark.parametrize("shapes", [((2, 3), (2, 4)), ((0, 3), (2, 3)), ((2, 3), (3,))])
def test_what_cannot_be_compared_is_refused(shapes):
    with pytest.raises(InputError, match="equally wide"):
        mean_max_cosine_similarity(torch.zeros(shapes[0]), torch.zeros(shapes[1]))


def test_cosines_with_the_mean_direction():
    rows = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    expected = torch.full((2,), math.sqrt(0.5))
    torch.testing.assert_close(cosine_with_mean_direction(rows), expected)
    opposed = torch.tensor([[1.0, 0.0], [-2.0, 0.0]])
    assert cosine_with_mean_direction(opposed).tolist() == [0, 0]
