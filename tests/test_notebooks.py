"""The notebooks are what their scripts say, every cell runs, and their outputs are fit to show.

They are made by jupytext and nbclient (`make notebooks`); none of these tests needs Jupyter.
"""

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "notebooks"
SCRIPTS = sorted(set(FOLDER.glob("*.py")) - {FOLDER / "build.py"})
FIGURE, PICTURE = "application/vnd.plotly.v1+json", "image/png"
LARGEST = 400_000
"""Bytes of a notebook."""
MY_LINES = 10
# A path from the root of a file system, in text or in a URL.
ABSOLUTE = re.compile(r"(?<![\w.</-])(/[\w.-]+){2,}|file:/|\b[A-Za-z]:\\\w")

each_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)


def cells(script):
    """The cells of the notebook that was made of a script."""
    return json.loads(script.with_suffix(".ipynb").read_text(encoding="utf-8"))["cells"]


def code_cells(script):
    return [cell for cell in cells(script) if cell["cell_type"] == "code"]


def as_script(found):
    """Cells in jupytext's percent format."""
    parts = []
    for cell in found:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            commented = (f"# {line}".rstrip() for line in source.split("\n"))
            parts.append("\n".join(["# %% [markdown]", *commented]))
        else:
            parts.append(f"# %%\n{source}")
    return "\n\n".join(parts) + "\n"


def shows_a_value(source):
    last = ast.parse(source).body[-1]
    return isinstance(last, ast.Expr) and not ast.unparse(last).startswith("print(")


def run(source, name, namespace):
    """Run a cell, and show what its last line gives, as a notebook does."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), namespace)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), name, "eval"), namespace)
        assert repr(value)
        assert getattr(value, "_repr_html_", lambda: "html")()


@each_script
def test_the_notebook_is_what_the_script_says(script):
    assert as_script(cells(script)) == script.read_text(encoding="utf-8"), "run `make notebooks`"


@each_script
def test_every_cell_runs(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": script.stem}
    for i, cell in enumerate(code_cells(script)):
        run("".join(cell["source"]), f"{script.name} cell {i}", namespace)


@each_script
def test_every_value_is_shown_and_nothing_else(script):
    for number, cell in enumerate(code_cells(script), start=1):
        assert cell["execution_count"] == number
        assert cell["metadata"] == {}, "no times, which differ from run to run"
        source = "".join(cell["source"])
        values = [each for each in cell["outputs"] if "data" in each]
        assert len(values) == shows_a_value(source), "run `make notebooks`"
        printed = [each for each in cell["outputs"] if "data" not in each]
        assert all(
            (each["output_type"], each.get("name")) == ("stream", "stdout") for each in printed
        )
        assert len(printed) == ("print(" in source)


@each_script
def test_outputs_are_readable_without_jupyter(script):
    """By a page that runs no scripts and shows no frames: figures as pictures, the rest as text."""
    for cell in code_cells(script):
        for data in (output["data"] for output in cell["outputs"] if "data" in output):
            kinds = data.keys() - {FIGURE}
            assert PICTURE in kinds or "text/plain" in kinds
            assert (FIGURE not in data) or (PICTURE in data and "text/html" not in data)
            html = "".join(data.get("text/html", ""))
            assert not re.search("<(script|iframe|object|embed)", html)


@each_script
def test_outputs_name_no_path_of_a_machine(script):
    for cell in code_cells(script):
        for output in cell["outputs"]:
            shown = output.get("data", {"text/plain": output.get("text", "")})
            for kind in shown.keys() - {PICTURE}:
                text = str(shown[kind]) if kind == FIGURE else "".join(shown[kind])
                assert not ABSOLUTE.search(text), ABSOLUTE.search(text)


@pytest.mark.parametrize(
    ("text", "is_absolute"),
    [
        ("PosixPath('/home/me/runs/a')", True), ("in /tmp/x", True), ("file:///x", True),
        ("<td>/root/a</td>", True), ("at:/root/a", True), ("<td>a</td></tr>", False),
        (r"C:\Users", True), ("PosixPath('runs/families.html')", False), ("and/or, 3 / 4", False),
        ("https://plot.ly/a/b", False),
    ],
)  # fmt: skip
def test_absolute_paths_are_recognized(text, is_absolute):
    assert bool(ABSOLUTE.search(text)) == is_absolute


@each_script
def test_notebooks_are_small(script):
    assert script.with_suffix(".ipynb").stat().st_size < LARGEST


def test_a_sentence_takes_ten_lines():
    script = FOLDER / "my_sentence.py"
    lines = [line for line in script.read_text(encoding="utf-8").splitlines() if line.strip()]
    code = [line for line in lines if not line.startswith("#")]
    assert len(code) == MY_LINES
    assert not any(";" in line for line in code)


def test_no_notebook_is_without_its_script():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == {path.stem for path in SCRIPTS}
    assert len(SCRIPTS) == 5


def test_the_index_leads_to_every_notebook():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for script in SCRIPTS:
        assert f"(notebooks/{script.stem}.ipynb)" in index


def test_cells_are_those_of_the_format():
    found = [
        {"cell_type": "markdown", "source": ["# Title\n", "\n", "text"]},
        {"cell_type": "code", "source": ["x = 1\n", "\n", "y = 2"]},
        {"cell_type": "code", "source": ["x"]},
    ]
    expected = "# %% [markdown]\n# # Title\n#\n# text\n\n# %%\nx = 1\n\ny = 2\n\n# %%\nx\n"
    assert as_script(found) == expected
