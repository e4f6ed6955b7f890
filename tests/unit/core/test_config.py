"""Configs refuse what cannot work, when they are made."""

from dataclasses import FrozenInstanceError, dataclass

import pytest

from dictlearn.core.config import Config
from dictlearn.core.errors import ConfigError
from dictlearn.core.kinds import Resampling


@dataclass(frozen=True, kw_only=True)
class Example(Config):
    n_features: int = 4
    coefficient: float = 0.1
    rate: float = 1.0
    choice: str = "sum"
    steps: tuple[int, ...] = ()
    range: tuple[float, float] | None = None

    def __post_init__(self):
        self._require_count("n_features")
        self._require_not_negative("coefficient")
        self._require_positive("rate")
        self._require_choice("choice", ("sum", "mean"))
        self._require(len(self.steps) < 3, "steps", "at most two")


def test_misspelt_name():
    with pytest.raises(ConfigError, match=r"Example has no field 'coeficient'; .*'coefficient'"):
        Example(coeficient=0.2)
    with pytest.raises(ConfigError, match="has no field 'zzz'; valid names: 'n_features'"):
        Example.from_dict({"zzz": 1})


@pytest.mark.parametrize(
    ("bad", "requirement"),
    [
        ({"n_features": 0}, "a whole number of at least 1, got 0"),
        ({"n_features": -3}, "a whole number of at least 1, got -3"),
        ({"n_features": 2.0}, r"a whole number, got 2\.0"),
        ({"n_features": True}, "a whole number, got True"),
        ({"coefficient": -0.1}, r"a finite number of at least 0, got -0\.1"),
        ({"coefficient": float("nan")}, "a finite number of at least 0, got nan"),
        ({"rate": 0}, "a finite number above 0, got 0"),
        ({"choice": "summ"}, "one of sum, mean, got 'summ'; did you mean 'sum'"),
        ({"steps": (1, 2, 3)}, r"at most two, got \(1, 2, 3\)"),
        ({"steps": [1.5]}, r"a list of whole numbers, got \(1\.5,\)"),
        ({"steps": 3}, "a list of whole numbers, got 3"),
        ({"range": [0.5]}, r"a list of 2 numbers or none, got \(0\.5,\)"),
    ],
)
def test_bad_values_name_the_field(bad, requirement):
    (field,) = bad
    with pytest.raises(ConfigError, match=rf"Example\.{field} must be {requirement}"):
        Example(**bad)


def test_edges_are_allowed():
    Example(n_features=1, coefficient=0.0, rate=1e-30, choice="mean", steps=(1, 2))


def test_dict_round_trip_turns_lists_into_tuples():
    config = Example(steps=(1, 2))
    assert Example.from_dict(config.to_dict()) == config
    assert Example.from_dict({"steps": [1, 2]}).steps == (1, 2)


def test_a_list_is_taken_for_a_tuple_where_one_is_declared():
    config = Example(steps=[1, 2], range=[0.5, 1])
    assert (config.steps, config.range) == ((1, 2), (0.5, 1))
    assert hash(config) == hash(Example(steps=(1, 2), range=(0.5, 1)))
    with pytest.raises(ConfigError, match=r"choice must be text, got \['sum'\]"):
        Example(choice=["sum"])


def test_frozen_and_keyword_only():
    with pytest.raises(FrozenInstanceError):
        Example().rate = 2.0
    with pytest.raises(TypeError):
        Example(4)


def test_when_features_are_resampled():
    at = Resampling(window=1, n_rows=1, loss_power=0.0, every=4, steps=(2, 7))
    assert [step for step in range(1, 9) if at.due(step)] == [2, 4, 7, 8]
    never = Resampling(window=1, n_rows=1, loss_power=0.0)
    assert not any(never.due(step) for step in range(1, 9))
