"""TOML files that describe dictionaries to train, for `dictlearn train --config`."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dictlearn.core.errors import ConfigError, InputError, nearest
from dictlearn.core.kinds import DictionaryConfig
from dictlearn.dictionaries.registry import config_class
from dictlearn.training.config import FitConfig

_SECTIONS = ("fit", "dictionaries")


def read_config_file(path: str | Path) -> tuple[dict[str, DictionaryConfig], FitConfig]:
    """The dictionary configs by name, and the training config, from a TOML file.

    The file has a section `[fit]` with fields of `FitConfig`, and one section
    `[dictionaries.NAME]` per dictionary, with its `kind` and the fields of that kind's config.

    Raises:
        InputError: the file is absent or not TOML, or has no dictionaries.
        ConfigError: a section, kind or field is unknown, or a value is out of range.
    """
    try:
        data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not valid TOML ({error})") from error
    for section in data:
        if section not in _SECTIONS:
            raise ConfigError(f"{path}: unknown section [{section}]; {nearest(section, _SECTIONS)}")
    entries = data.get("dictionaries")
    if not isinstance(entries, Mapping) or not entries:
        raise InputError(f"{path}: required at least one section [dictionaries.NAME], got none")
    configs = {name: _config(name, entry, path) for name, entry in entries.items()}
    return configs, FitConfig.from_dict(data.get("fit", {}))


def _config(name: str, entry: Any, path: str | Path) -> DictionaryConfig:
    if not isinstance(entry, Mapping) or "kind" not in entry:
        raise ConfigError(f'{path}: [dictionaries.{name}] needs a kind, such as kind = "sae"')
    fields = {key: value for key, value in entry.items() if key != "kind"}
    return config_class(entry["kind"]).from_dict(fields)


def parse_value(text: str) -> Any:
    """The value of a TOML number, boolean, list or string; quotes are optional.

    >>> parse_value("32"), parse_value("1e-3"), parse_value("true"), parse_value("cosine")
    (32, 0.001, True, 'cosine')
    """
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
