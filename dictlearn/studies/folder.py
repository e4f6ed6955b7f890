"""What the folder of a run says about the study in it."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dictlearn.comparison.report import REPORT_FILE
from dictlearn.core.agreement_records import AGREEMENT_FILE
from dictlearn.core.concept_records import CONCEPTS_FILE
from dictlearn.core.errors import InputError
from dictlearn.core.feature_records import FEATURES_FILE
from dictlearn.core.files import read_json, write_json
from dictlearn.core.provenance import code_revision, library_versions
from dictlearn.core.records import RESULTS_FILE, SUMS_FILE
from dictlearn.training.checkpoints import differences

STUDY_FILE = "study.json"
PAGE_FILE = "report.md"
IMAGES = "images"


def begin(
    folder: Path,
    described: Mapping[str, Any],
    source: Callable[[], dict[str, Any]],
    *,
    overwrite: bool,
) -> None:
    """Write down the study that is run in `folder`, or check that it is the one begun there.

    `source` gives the model and the tokens that numbers come from. Where a run goes on, they have
    to be the same; other code is written down beside that which began.

    Raises:
        InputError: the folder holds a run of another study, or results that no study wrote.
    """
    path = folder / STUDY_FILE
    if not path.exists():
        _require_empty(folder, described)
    elif overwrite:
        for part in _parts(read_json(path)["study"]):
            _remove(folder / part)
    else:
        begun = read_json(path)
        _require_same(folder, "study", begun["study"], described)
        if not all((folder / part).exists() for part in (RESULTS_FILE, REPORT_FILE)):
            for name, now in source().items():
                _require_same(folder, name, begun[name], now)
            write_json(path, _continued(begun, _code()))
        return
    write_json(path, {"study": described, **source(), **_code()})


def name_of_run(folder: str | Path) -> str | None:
    """The name of the study whose run `folder` holds, if any."""
    path = Path(folder) / STUDY_FILE
    return str(read_json(path)["study"]["name"]) if path.exists() else None


def _code() -> dict[str, Any]:
    """The code that numbers come from."""
    return {"versions": library_versions(), "revision": code_revision()}


def _continued(begun: dict[str, Any], code: dict[str, Any]) -> dict[str, Any]:
    """What was begun, and that `code` goes on with it, unless that is known."""
    later = begun.get("continued", [])
    if code in [{key: begun[key] for key in code}, *later]:
        return begun
    return {**begun, "continued": [*later, code]}


def _require_same(
    folder: Path, what: str, begun: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
    if changed := differences(begun, now):
        raise InputError(
            f"{folder} holds a run of another study: its {what} differs in {', '.join(changed)}; "
            "choose another folder, or overwrite that run (overwrite=True, --overwrite)"
        )


def _require_empty(folder: Path, described: Mapping[str, Any]) -> None:
    """Nothing is adopted that no study has written."""
    found = [part for part in _parts(described) if (folder / part).exists()]
    if found:
        raise InputError(
            f"{folder} holds {', '.join(found)}, but no {STUDY_FILE}: no study wrote them; choose "
            "another folder"
        )


def _parts(described: Mapping[str, Any]) -> list[str]:
    """The names of everything that a study so described writes, `study.json` last."""
    files = [RESULTS_FILE, SUMS_FILE, CONCEPTS_FILE, AGREEMENT_FILE, FEATURES_FILE, REPORT_FILE]
    files += [PAGE_FILE, IMAGES]
    return [*files, "dictionaries", "baselines", "activations", *described["places"], STUDY_FILE]


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
