"""The switch for shortcuts."""

import pytest

from dictlearn.core.errors import ConfigError
from dictlearn.core.shortcuts import SWITCH, shortcuts_allowed, without_shortcuts


@pytest.mark.parametrize(
    ("value", "allowed"),
    [("", True), ("on", True), ("1", True), ("ON", True), ("off", False), ("0", False),
     ("No", False), ("false", False)],
)  # fmt: skip
def test_the_environment_turns_shortcuts_on_and_off(monkeypatch, value, allowed):
    monkeypatch.setenv(SWITCH, value)
    assert shortcuts_allowed() is allowed
    with without_shortcuts():
        assert not shortcuts_allowed()


def test_a_misspelt_value_is_refused(monkeypatch):
    monkeypatch.setenv(SWITCH, "flase")
    with pytest.raises(ConfigError, match='DICTLEARN_SHORTCUTS needs "on" or "off", got \'flase\''):
        shortcuts_allowed()
    monkeypatch.delenv(SWITCH)
    assert shortcuts_allowed()
