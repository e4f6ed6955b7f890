"""The documentation is true: its Python runs, its links lead somewhere, nothing is left out."""

import re
from pathlib import Path

import pytest

import dictlearn as dl
from dictlearn.dictionaries.registry import KINDS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ROOMS = sorted(path.parent.name for path in (ROOT / "dictlearn").glob("*/__init__.py"))
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")

each_page = pytest.mark.parametrize(
    "page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES]
)


def anchors(page: Path) -> set[str]:
    """The fragments that links may name: one for each heading, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if BLOCK.search(page.read_text("utf-8"))],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_python_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = page.read_text("utf-8")
    namespace = {"__name__": f"docs_{page.stem}"}  # the blocks of a page follow on one another
    for block in BLOCK.finditer(text):
        first_line = text[: block.start(1)].count("\n")
        code = "\n" * first_line + block[1]  # so that a traceback shows the page's line
        exec(compile(code, str(page), "exec"), namespace)


@each_page
def test_links_lead_somewhere(page):
    for link in LINK.findall(FENCED.sub("", page.read_text("utf-8"))):
        if link.startswith(("https://", "http://")):
            continue
        path, _, fragment = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}"
        if fragment:
            assert fragment in anchors(target), f"{page.name} links to {link}"


@each_page
def test_names_exist(page):
    for name in re.findall(r"\bdl\.(\w+)", page.read_text("utf-8")):
        assert hasattr(dl, name), f"{page.name} mentions dl.{name}"


def test_every_kind_is_in_the_readme():
    readme = PAGES[0].read_text("utf-8")
    for config in KINDS:
        assert f"| `{config.kind}` | `{config.__name__}` |" in readme


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_a_page(room):
    assert (ROOT / "docs" / "rooms" / f"{room}.md").is_file()
    assert f"(rooms/{room}.md)" in (ROOT / "docs" / "index.md").read_text("utf-8")


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES[1:] if page.stem != "index"],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_every_page_is_reached_from_the_index(page):
    index = ROOT / "docs" / "index.md"
    assert f"({page.relative_to(index.parent)})" in index.read_text("utf-8")
