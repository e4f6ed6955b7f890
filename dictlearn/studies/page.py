"""The results of a study as a Markdown page, with image files of the main figures on request."""

from collections.abc import Iterable
from pathlib import Path

from dictlearn.comparison.figures.images import main_figures, write_images
from dictlearn.core.own_files import OwnFiles
from dictlearn.findings import PAGE_FILE, Findings
from dictlearn.studies.folder import IMAGES, STUDY, begun_in, lengths_in, origin


def write_page(
    folder: str | Path, *, about: Iterable[str] = (), image_format: str | None = None
) -> Path:
    """The path of the Markdown page, written to the folder of a finished study.

    With an `image_format` ("svg", "png" or "pdf"), the figures are written to `images/` too.

    Raises:
        CorruptFileError: the study is not finished.
        InputError: unknown format, or conflicting files that the study did not write.
        StorageError: kaleido or a browser, which draw the images, are missing.
    """
    folder = Path(folder)
    study, own = begun_in(folder), OwnFiles(folder, STUDY)
    own.require(PAGE_FILE)
    found, lengths, links = Findings.of(folder), lengths_in(folder), {}
    if image_format is not None:
        drawn = write_images(
            main_figures(found.metrics, found.concepts, found.agreement, lengths),
            own.folder(IMAGES),
            image_format,
        )
        links = {name: f"{IMAGES}/{path.name}" for name, path in drawn.items()}
    page = found.markdown(
        study["study"].get("question", ""),
        about=about,
        origin=origin(study),
        lengths=lengths,
        images=links,
    )
    own.write_text(PAGE_FILE, page)
    return folder / PAGE_FILE
