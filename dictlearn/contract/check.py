"""The contract of `FeatureDictionary` as executable checks, for built-in and custom kinds.

Each check has a mutant in `tests/contract/test_contract.py`: a dictionary broken on purpose,
that the check must catch.
"""

import copy
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from dictlearn.contract.encoding import ENCODING
from dictlearn.contract.learning import LEARNING
from dictlearn.contract.subject import FIT, Subject, synthetic
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import ContractError
from dictlearn.core.kinds import DictionaryConfig
from dictlearn.training.fit import fit

Check = Callable[[Subject], str | None]
"""Raises a `ContractError`, or returns the reason why it does not apply, if there is one."""
CHECKS: Sequence[Check] = (*ENCODING, *LEARNING)


def check_dictionary(
    subject: FeatureDictionary | DictionaryConfig,
    x: Float[Tensor, "n d_in"] | None = None,
) -> dict[str, str]:
    """The outcome of each check of the contract: "passed", or "skipped" with the reason.

    A config is built, trained for a moment on synthetic rows and checked whole. A dictionary is
    checked as it is, on the rows `x` (standard normal ones unless given); checks of
    training are then skipped, and those of saving if it has no config.

    Raises:
        ContractError: a check failed; its message says which and how.
    """
    if isinstance(subject, DictionaryConfig):
        activations = synthetic(seed=0)
        dictionary = fit(subject, activations, FIT, progress=False)
        rows = activations.rows(0, 0, 64).batch(dictionary.sites).x
        case = Subject(dictionary, rows, subject)
    else:
        d = subject.sites.source.d
        generator = torch.Generator().manual_seed(0)
        rows = torch.randn(64, d, generator=generator) if x is None else x
        case = Subject(copy.deepcopy(subject), rows.to(subject.x_mean))
    return {check.__name__.removeprefix("_check_"): run(check, case) for check in CHECKS}


def run(check: Check, case: Subject) -> str:
    """ "passed", or "skipped" with the reason; a `ContractError` if it fails or cannot be made."""
    try:
        reason = check(case)
    except ContractError:
        raise
    except Exception as error:
        raise ContractError(f"{check.__name__}: raised {error!r}") from error
    return f"skipped: {reason}" if reason else "passed"
