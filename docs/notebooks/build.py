"""Makes the notebooks of this folder from its scripts, and runs them.

The scripts, in jupytext's percent format, are the source: edit them, run `make notebooks`, and
commit both. A page of a repository shows neither scripts nor frames, so that a figure is committed
as a picture beside its interactive form, and a frame as a picture alone. Pictures need Chrome or
Chromium.

`python docs/notebooks/build.py my_sentence` makes one of them.
"""

import base64
import re
import subprocess
import sys
from collections.abc import Callable
from html import unescape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jupytext
import plotly.graph_objects as go
from choreographer.browsers.chromium import Chromium
from nbclient import NotebookClient
from nbformat import NotebookNode, v4, write

from dictlearn.comparison.figures.images import write_images

FOLDER = Path(__file__).parent
FIGURE = "application/vnd.plotly.v1+json"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
SETTINGS = """
import plotly.io
import dictlearn.progress
plotly.io.renderers.default = "plotly_mimetype"
dictlearn.progress.PATIENCE = dictlearn.progress.EVERY = 3600.0
"""
"""Run before the cells of a notebook: figures that are small, and no lines about progress."""
_FRAME = re.compile(r'<iframe [^>]*srcdoc="([^"]*)"')
_WINDOW = "1000,740"
"""Width and height of the picture of a frame, in pixels."""


def made(script: Path) -> NotebookNode:
    """The notebook of a script, with the outputs of its cells."""
    notebook = jupytext.read(script, fmt="py:percent")
    notebook.metadata = {"kernelspec": KERNEL}
    notebook.cells.insert(0, v4.new_code_cell(SETTINGS))
    with TemporaryDirectory() as folder:
        place = {"metadata": {"path": folder}}
        NotebookClient(
            notebook, timeout=1800, resources=place, record_timing=False, coalesce_streams=True
        ).execute()
    del notebook.cells[0]
    notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    count = 0
    for i, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{i}", {}
        if cell.cell_type == "code":
            count += 1
            cell.execution_count = count
            for output in cell.outputs:
                _finish(output, count)
    return notebook


def _finish(output: NotebookNode, count: int) -> None:
    """Make an output what is committed of it.

    Raises:
        RuntimeError: the cell wrote to standard error.
    """
    if output.get("name") == "stderr":
        raise RuntimeError(f"cell {count} writes to standard error: {output.text}")
    if "execution_count" in output:
        output.execution_count = count
    data = output.get("data", {})
    if FIGURE in data:
        data["image/png"] = _encoded(lambda folder: _drawn(data[FIGURE], folder))
    elif found := _FRAME.search(data.get("text/html", "")):
        del data["text/html"]
        data["image/png"] = _encoded(lambda folder: _photographed(unescape(found[1]), folder))


def _encoded(picture: Callable[[Path], Path]) -> str:
    with TemporaryDirectory() as folder:
        return base64.b64encode(picture(Path(folder)).read_bytes()).decode()


def _drawn(figure: dict[str, Any], folder: Path) -> Path:
    drawn = go.Figure(data=figure["data"], layout=figure["layout"])
    return write_images({"figure": drawn}, folder, "png")["figure"]


def _photographed(page: str, folder: Path) -> Path:
    browser = Chromium.find_browser(skip_local=False)
    if browser is None:
        raise RuntimeError(
            "pictures need Chrome or Chromium: install it, or run `choreo_get_chrome`"
        )
    (folder / "page.html").write_text(page, encoding="utf-8")
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")
    subprocess.run(
        [browser, *flags, f"--window-size={_WINDOW}", "--virtual-time-budget=10000",
         f"--screenshot={folder / 'page.png'}", str(folder / "page.html")],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    return folder / "page.png"


if __name__ == "__main__":
    scripts = sorted(set(FOLDER.glob("*.py")) - {Path(__file__)})
    for script in scripts:
        if script.stem in (sys.argv[1:] or [path.stem for path in scripts]):
            write(made(script), script.with_suffix(".ipynb"))
            print(script.with_suffix(".ipynb").name, flush=True)
