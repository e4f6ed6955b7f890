"""Image files of the main figures, for papers and for pages without scripts."""

from collections.abc import Mapping
from pathlib import Path

import plotly.graph_objects as go

from dictlearn.comparison.figures.agreement import agreement_figure
from dictlearn.comparison.figures.density import density_figure
from dictlearn.comparison.figures.lengths import lengths_figure
from dictlearn.comparison.figures.precision import precision_figure
from dictlearn.comparison.figures.rates import rate_distortion_figures
from dictlearn.comparison.figures.style import MOST_NAMES
from dictlearn.comparison.statistics.lengths import Lengths
from dictlearn.core.errors import InputError, StorageError
from dictlearn.core.own_files import OwnFiles
from dictlearn.records.agreement import AgreementRecords
from dictlearn.records.concepts import ConceptRecords
from dictlearn.records.results import Records

FORMATS = ("svg", "png", "pdf")
WIDTH = 760
_ON_WHITE = {"paper_bgcolor": "#ffffff", "plot_bgcolor": "#ffffff"}
_SCALE = 2
"""Resolution of bitmap files, in pixels per pixel of the figure."""


def main_figures(
    records: Records,
    concepts: ConceptRecords | None = None,
    agreement: AgreementRecords | None = None,
    lengths: Lengths | None = None,
) -> dict[str, go.Figure]:
    """The main figures of a report, by file name."""
    figures = {
        f"{quality}-{rate}": figure
        for rate, found in rate_distortion_figures(records).items()
        for quality, figure in found.items()
    }
    if lengths is not None:
        figures["lengths"] = lengths_figure(lengths)
    if concepts is not None:
        figures["precision"] = precision_figure(concepts)
    if agreement is not None:
        figures["agreement"] = agreement_figure(agreement)
    if len(records.dictionaries) <= MOST_NAMES:  # a file with more is too tall to look at
        figures["density"] = density_figure(records)
    return figures


def write_images(
    figures: Mapping[str, go.Figure], folder: str | Path | OwnFiles, format: str = "svg"
) -> dict[str, Path]:
    """The paths of the image files ("svg", "png" or "pdf") of `figures`, by name.

    The background is white. Rendering needs kaleido and an installed Chrome or Chromium.

    Raises:
        InputError: unknown format, or a file of that name that was not written as a figure here.
        StorageError: the folder cannot be written, or kaleido or the browser is missing.
    """
    if format not in FORMATS:
        raise InputError(f"required a format of {', '.join(FORMATS)}, got {format!r}")
    own = OwnFiles.of(folder)
    paths = {name: own.path / f"{name}.{format}" for name in figures}
    own.require(*(path.name for path in paths.values()))
    for name, figure in figures.items():
        image = _drawn(figure, format)
        with own.writing(paths[name]) as part:
            part.write_bytes(image)
    return paths


def _drawn(figure: go.Figure, format: str) -> bytes:
    try:
        drawn = go.Figure(figure).update_layout(**_ON_WHITE)
        width = figure.layout.width or WIDTH
        return bytes(drawn.to_image(format, width=width, scale=_SCALE))
    except (ValueError, RuntimeError, ImportError) as error:
        raise StorageError(
            "image files need kaleido and a Chrome or Chromium: pip install dictlearn[images], "
            f"and install that browser ({type(error).__name__}: {error})"
        ) from error
