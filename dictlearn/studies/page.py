"""The results of a study as a Markdown page, with image files of the main figures on request."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dictlearn.comparison.images import main_figures, write_images
from dictlearn.comparison.markdown import results_page
from dictlearn.core.agreement_records import AGREEMENT_FILE, AgreementRecords
from dictlearn.core.concept_records import CONCEPTS_FILE, ConceptRecords
from dictlearn.core.files import read_json, write_text
from dictlearn.core.records import Records
from dictlearn.studies.folder import IMAGES, PAGE_FILE, STUDY_FILE


def write_page(
    folder: str | Path, *, about: Iterable[str] = (), image_format: str | None = None
) -> Path:
    """The path of the page, written to the folder of a finished study.

    With an `image_format` ("svg", "png" or "pdf"), the figures are files in `images/` beside it.

    Raises:
        CorruptFileError: the study is not finished.
        InputError: no such format.
        StorageError: there is nothing to draw image files with.
    """
    folder = Path(folder)
    study = read_json(folder / STUDY_FILE)
    records = Records.load(folder)
    concepts = ConceptRecords.load(folder) if (folder / CONCEPTS_FILE).exists() else None
    agreement = AgreementRecords.load(folder) if (folder / AGREEMENT_FILE).exists() else None
    links = {}
    if image_format is not None:
        drawn = write_images(
            main_figures(records, concepts, agreement), folder / IMAGES, image_format
        )
        links = {name: f"{IMAGES}/{path.name}" for name, path in drawn.items()}
    code = "; continued with ".join(
        _code_text(part) for part in (study, *study.get("continued", ()))
    )
    origin = f"Seeds {study['study']['seeds']}; {code}."
    page = results_page(
        records,
        study["study"]["question"],
        about=[*about, origin],
        concepts=concepts,
        agreement=agreement,
        images=links,
    )
    write_text(folder / PAGE_FILE, page)
    return folder / PAGE_FILE


def _code_text(part: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in part["versions"].items())
    return f"revision {part['revision']}; {versions}"
