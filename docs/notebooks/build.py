"""Turns the scripts of this folder, cells marked by `# %%`, into notebooks without outputs.

The scripts are the source: edit them, run `make notebooks`, and commit both.
"""

import json
import re
from pathlib import Path

FOLDER = Path(__file__).parent
_MARK = re.compile(r"^# %%(.*)$", re.MULTILINE)


def scripts() -> list[Path]:
    """The scripts that become notebooks."""
    return [path for path in sorted(FOLDER.glob("*.py")) if path != Path(__file__)]


def cells(text: str) -> list[tuple[str, str]]:
    """The kind ("markdown" or "code") and the source of each cell of a script.

    >>> cells("# %% [markdown]\\n# # Title\\n# %%\\nx = 1\\n")
    [('markdown', '# Title'), ('code', 'x = 1')]
    """
    parts = _MARK.split(text)[1:]
    found = []
    for mark, source in zip(parts[::2], parts[1::2], strict=True):
        kind = "markdown" if "[markdown]" in mark else "code"
        if kind == "markdown":
            source = re.sub(r"^# ?", "", source, flags=re.MULTILINE)
        found.append((kind, source.strip("\n")))
    return found


def notebook(text: str) -> str:
    """The notebook of a script, as the JSON of nbformat 4.5."""
    entries = []
    for i, (kind, source) in enumerate(cells(text)):
        entry = {"cell_type": kind, "id": f"cell-{i}", "metadata": {}}
        if kind == "code":
            entry |= {"execution_count": None, "outputs": []}
        entries.append(entry | {"source": source.splitlines(keepends=True)})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    whole = {"cells": entries, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for path in scripts():
        text = notebook(path.read_text(encoding="utf-8"))
        path.with_suffix(".ipynb").write_text(text, encoding="utf-8")
        print(path.with_suffix(".ipynb").name)
