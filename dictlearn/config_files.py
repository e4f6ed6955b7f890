"""Dictionaries to train: sweeps of settings, and TOML files, for `dictlearn train --config`."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from itertools import chain, product
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from dictlearn.core.config import Config
from dictlearn.core.errors import ConfigError, InputError, naming, nearest
from dictlearn.core.files import parsed
from dictlearn.core.kinds import DictionaryConfig
from dictlearn.dictionaries.registry import config_class
from dictlearn.training.config import FitConfig

_SECTIONS = ("fit", "dictionaries")


@dataclass(frozen=True)
class ConfigFile:
    """The content of a TOML file: configs and hook points by name of dictionary, and training.

    The file has a section `[fit]` with fields of `FitConfig`, and one section
    `[dictionaries.NAME]` per dictionary, with its `kind` and the fields of that kind's config. If
    several sites were harvested, `at` names a target hook or "SOURCE -> TARGET", a list of these,
    or "all".
    """

    configs: dict[str, DictionaryConfig]
    at: dict[str, list[str]]
    fit: FitConfig

    def overridden(self, fields: Mapping[str, Any]) -> "ConfigFile":
        """The same with other values of some settings.

        A field of `FitConfig` is set for the run, one of a kind for every dictionary that has it,
        and "NAME.FIELD" for the dictionary of that name.

        Raises:
            ConfigError: nothing has such a field, or a value is out of range.
        """
        own: dict[str, dict[str, Any]] = {name: {} for name in self.configs}
        training = _settings(self.fit)
        offered = {
            f"{name}.{f}": (name, f) for name, c in self.configs.items() for f in _settings(c)
        }
        of_run = {}
        for key, value in fields.items():
            if key in training:
                of_run[key] = value
                continue
            places = [
                place
                for path, place in offered.items()
                if key in (path.replace("-", "_"), place[1])
            ]
            if not places:
                known = dict.fromkeys((*(field for _, field in offered.values()), *training))
                raise ConfigError(
                    f"no dictionary of the file has a setting {_option(key)}, nor has training; "
                    f"{nearest(_option(key), map(_option, (*known, *offered)))}"
                )
            for name, field in places:
                own[name][field] = value
        configs = {name: replace(config, **own[name]) for name, config in self.configs.items()}
        return replace(self, configs=configs, fit=replace(self.fit, **of_run))


def read_config_file(path: str | Path) -> ConfigFile:
    """The content of the TOML file `path`.

    Raises:
        CorruptFileError: the file is absent or not TOML.
        InputError: it has no dictionaries.
        ConfigError: a section, kind or field is unknown, or a value is out of range.
    """
    data = parsed(Path(path), tomllib.loads, "TOML")
    for section, entry in data.items():
        if section not in _SECTIONS:
            raise ConfigError(f"{path}: unknown section [{section}]; {nearest(section, _SECTIONS)}")
        if not isinstance(entry, Mapping):
            raise ConfigError(f"{path}: required a section [{section}], got {entry!r:.80}")
    entries = data.get("dictionaries")
    if not entries:
        raise InputError(f"{path}: required at least one section [dictionaries.NAME], got none")
    configs, at = {}, {}
    for name, entry in entries.items():
        if not isinstance(entry, Mapping) or not isinstance(entry.get("kind"), str):
            raise ConfigError(f'{path}: [dictionaries.{name}] needs a kind, such as kind = "sae"')
        fields = dict(entry)
        with naming(f"{path}: [dictionaries.{name}]"):
            configured = config_class(fields.pop("kind"))
            at[name] = _hooks(fields.pop("at")) if "at" in fields else []
            configs[name] = configured.from_dict(fields)
    with naming(f"{path}: [fit]"):
        return ConfigFile(configs, at, FitConfig.from_dict(data.get("fit", {})))


def sweep(*kinds: type[DictionaryConfig], **settings: Any) -> dict[str, DictionaryConfig]:
    """The configs of one or several kinds for all combinations of settings given as lists.

    Each setting is for every kind that has it. The configs are named by their kind and by the
    values from the lists, and train together (`fit`).

    Raises:
        ConfigError: there is no kind, none has such a setting, one that a kind needs is missing, or
            a value is out of range.

    >>> from dictlearn.dictionaries.codebook import CodebookConfig
    >>> from dictlearn.dictionaries.pca import PCAConfig
    >>> list(sweep(CodebookConfig, PCAConfig, n_codes=64, k=[4, 8]))
    ['codebook_k4', 'codebook_k8', 'pca_k4', 'pca_k8']
    """
    if not kinds or not all(isinstance(k, type) and issubclass(k, DictionaryConfig) for k in kinds):
        raise ConfigError(
            "required one or several classes of configs, such as TopKSAEConfig, got "
            f"{', '.join(map(repr, kinds)) or 'none'}"
        )
    offered = {kind: _settings(kind) for kind in kinds}
    known = list(dict.fromkeys(chain.from_iterable(offered.values())))
    for name in settings:
        if name not in known:
            of = " or ".join(kind.__name__ for kind in kinds)
            raise ConfigError(f"{of} has no setting {name!r}; {nearest(name, known)}")
    found: dict[str, DictionaryConfig] = {}
    for kind, own in offered.items():
        found |= swept(kind, {name: value for name, value in settings.items() if name in own})
    return found


def swept(kind: type[DictionaryConfig], fields: Mapping[str, Any]) -> dict[str, DictionaryConfig]:
    """The configs of a kind for all combinations of the values of fields that are given several.

    They are named by the kind and those values, as "topk_sae_k8"; one config is named by the kind.

    Raises:
        ConfigError: a field is unknown, or a value is out of range or given twice.
    """
    hints = get_type_hints(kind)
    axes = {
        name: values
        for name, values in fields.items()
        if isinstance(values, list) and get_origin(hints.get(name)) is not tuple
    }
    for name, values in axes.items():
        if not 0 < len({*map(repr, values)}) == len(values):
            raise ConfigError(
                f"{kind.__name__}.{name} must be a value or several different ones, got {values}"
            )
    found = {}
    for chosen in product(*axes.values()):
        own = dict(zip(axes, chosen, strict=True))
        name = "_".join([kind.kind, *(f"{key}{value}" for key, value in own.items())])
        found[name] = kind.from_dict({**fields, **own})
    return found


def _settings(config: Config | type[Config]) -> list[str]:
    """The names of the settings of a config, but for weights that it was given."""
    return [field.name for field in fields(config) if field.repr]


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _hooks(value: Any) -> list[str]:
    """One hook or a list of hooks as a list, which is not empty if it is given."""
    hooks = [value] if isinstance(value, str) else value
    if not isinstance(hooks, list) or not hooks or not all(isinstance(hook, str) for hook in hooks):
        raise ConfigError(f"at must be a hook or a list of hooks, got {value!r:.80}")
    return hooks


_NONE = ("none", "null")
"""What TOML has no word for."""
_NUMBER = re.compile(r"[+-]?(\d+\.|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
"""A number with nothing before or behind its point, which TOML does not take."""


def parse_value(text: str) -> Any:
    """The value of a TOML number, boolean, list or string, or None for "none" and "null"; quotes
    are optional, and so are the brackets of a list of several values.

    >>> parse_value("32"), parse_value("1e-3"), parse_value("true"), parse_value("cosine")
    (32, 0.001, True, 'cosine')
    >>> parse_value("0.1,0.5"), parse_value("[8]"), parse_value("this, that")
    ([0.1, 0.5], [8], 'this, that')
    >>> parse_value("none"), parse_value("8,none"), parse_value('"none"')
    (None, [8, None], 'none')
    >>> parse_value(".01"), parse_value(".1,.5"), parse_value("1.,2")
    (0.01, [0.1, 0.5], [1.0, 2])
    """
    if text.strip().lower() in _NONE:
        return None
    for written in (text, f"[{text}]") if "," in text else (text,):
        try:
            return tomllib.loads(f"value = {written}")["value"]
        except tomllib.TOMLDecodeError:
            pass
    if _NUMBER.fullmatch(text.strip()):
        return float(text)
    items = text.split(",")
    if any(item.strip().lower() in _NONE or _NUMBER.fullmatch(item.strip()) for item in items):
        return [parse_value(item.strip()) for item in items]
    return text
