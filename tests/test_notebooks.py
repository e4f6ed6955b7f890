"""The notebooks are what their scripts say, and every cell of them runs."""

import ast
import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "notebooks"
_spec = importlib.util.spec_from_file_location("build_notebooks", FOLDER / "build.py")
build = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(build)

each_script = pytest.mark.parametrize("script", build.scripts(), ids=lambda path: path.stem)


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
    committed = script.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert committed == build.notebook(script.read_text(encoding="utf-8")), "run `make notebooks`"


@each_script
def test_every_cell_runs(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": script.stem}
    for i, (kind, source) in enumerate(build.cells(script.read_text(encoding="utf-8"))):
        if kind == "code":
            run(source, f"{script.name} cell {i}", namespace)


def test_no_notebook_is_without_its_script():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == {p.stem for p in build.scripts()}
    assert len(build.scripts()) == 5


def test_the_index_leads_to_every_notebook():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for script in build.scripts():
        assert f"(notebooks/{script.stem}.ipynb)" in index


def test_cells_are_those_of_the_format():
    text = "# %% [markdown]\n# # Title\n#\n# text\n\n# %%\nx = 1\n\ny = 2\n\n# %%\nx\n"
    assert build.cells(text) == [
        ("markdown", "# Title\n\ntext"), ("code", "x = 1\n\ny = 2"), ("code", "x"),
    ]  # fmt: skip
    data = json.loads(build.notebook(text))
    assert (data["nbformat"], data["nbformat_minor"]) == (4, 5)
    assert data["cells"][1]["source"] == ["x = 1\n", "\n", "y = 2"]
    assert data["cells"][1]["outputs"] == []
    assert len({cell["id"] for cell in data["cells"]}) == 3
