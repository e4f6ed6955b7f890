"""Every error the package raises on purpose.

A message says what is required, what was given, and what to do about it.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class DictLearnError(Exception):
    """Root of the hierarchy: catch this to catch everything the package raises on purpose."""


class InputError(DictLearnError, ValueError):
    """An argument has the wrong value, shape or name."""


class ConfigError(InputError):
    """A configuration field is unknown or out of range."""


class NotApplicableError(InputError):
    """A measurement that these dictionaries, this model or these tokens do not allow.

    The arguments are in order; a report leaves such a measurement out.
    """


class ProvenanceError(DictLearnError):
    """Two objects that must share a model, a hook or a text do not."""


class NonFiniteError(DictLearnError):
    """A tensor holds NaN or infinity where numbers are required."""


class CorruptFileError(DictLearnError):
    """A file is missing, truncated, altered, or not in the format that it claims."""


class StorageError(DictLearnError, OSError):
    """A folder cannot be written, or the disk is too small."""


class ContractError(DictLearnError, AssertionError):
    """A dictionary breaks the contract of `FeatureDictionary`."""


class ProcessError(DictLearnError, RuntimeError):
    """Another process of the same run failed, or does not respond."""


@contextmanager
def naming(place: object) -> Iterator[None]:
    """A block whose errors of ours name `place`, such as a file that values are from."""
    try:
        yield
    except DictLearnError as error:
        if str(place) in str(error):
            raise
        raise type(error)(f"{place}: {error}") from error


def _initials(name: str) -> str:
    return "".join(word[:1] for word in name.replace("-", "_").split("_"))


def nearest(name: str, valid: Iterable[str], n: int = 3) -> str:
    """A clause that suggests the valid names nearest to `name`.

    >>> nearest("l1_coeficient", ["l1_coefficient", "n_features"])
    "did you mean 'l1_coefficient'?"
    >>> nearest("lr", ["learning_rate", "n_features"])
    "did you mean 'learning_rate'?"
    """
    names = list(valid)
    meant = [v for v in names if len(name) > 1 and name.strip("-") == _initials(v)]
    close = meant[:n] or get_close_matches(name, names, n=n, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(map(repr, close))}?"
    shown = ", ".join(map(repr, names[:8])) + (", …" if len(names) > 8 else "")
    return f"valid names: {shown}"
