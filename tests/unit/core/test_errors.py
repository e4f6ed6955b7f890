"""The hierarchy, and the clause that suggests a name."""

import pytest

from dictlearn.core import errors
from dictlearn.core.errors import DictLearnError, nearest


def test_one_root_and_the_builtin_bases():
    bases = {
        errors.InputError: ValueError,
        errors.ConfigError: errors.InputError,
        errors.StorageError: OSError,
        errors.ContractError: AssertionError,
        errors.ProcessError: RuntimeError,
        errors.ProvenanceError: Exception,
        errors.NonFiniteError: Exception,
        errors.CorruptFileError: Exception,
    }
    for error, base in bases.items():
        assert issubclass(error, DictLearnError)
        assert issubclass(error, base)


@pytest.mark.parametrize(
    ("name", "valid", "clause"),
    [
        ("hook_mlp_ot", ["hook_mlp_out", "hook_resid"], "did you mean 'hook_mlp_out'?"),
        ("ab", ["abc", "abd"], "did you mean 'abd' or 'abc'?"),
        ("zzz", ["a", "b"], "valid names: 'a', 'b'"),
        ("zzz", [], "valid names: "),
        ("zzz", map(str, range(9)), "valid names: '0', '1', '2', '3', '4', '5', '6', '7', …"),
    ],
)
def test_nearest(name, valid, clause):
    assert nearest(name, valid) == clause
