"""The report of an experiment with a circuit graph: one file, in which no data are run."""

import base64
import hashlib
import json
import re
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs

from dictlearn.circuits.graph import CircuitGraph
from dictlearn.comparison.figures.style import styled
from dictlearn.comparison.report.html import REPORT_FILE
from dictlearn.core.errors import CorruptFileError
from dictlearn.core.own_files import OwnFiles
from dictlearn.experiments.experiment import Experiment, Part, write_experiment_page
from dictlearn.experiments.page import Graph, Page, Table
from tests.unit.circuits.graphs import known_graph
from tests.unit.circuits.test_viewer import TOUCH_ALL, framed, with_driver
from tests.unit.comparison.report.test_hostile import EVERYTHING, PAYLOADS, Elements, as_html

LISTEN = """<script>
addEventListener("message", (event) => texts.push("frame: " + event.data));
</script>"""
TELL_ERRORS = """addEventListener("securitypolicyviolation", (event) =>
  parent.postMessage(`forbidden: ${event.effectiveDirective}`, "*"));
addEventListener("error", (event) => parent.postMessage(`failed: ${event.message}`, "*"));"""


@dataclass(frozen=True, kw_only=True)
class Drawn(Experiment):
    """A graph, and `put` before all texts."""

    name: ClassVar[str] = "drawn"
    question: ClassVar[str] = "Which?"
    put: str = ""

    def parts(self):
        return {"one": Part(partial(self._part))}

    def _part(self, own):
        known_graph(self.put).save(own.folder("graph"))
        return {}

    def page(self, found):
        table = Table(self.put + "Rows", self.put + "Some.", [self.put + "head"], [[self.put]])
        graph = Graph(self.put + "The graph", self.put + "Of a prompt.", "parts/one/graph")
        figure = styled(go.Figure(go.Scatter(x=[1, 2], y=[1, 2], name=self.put)), 300)
        return Page([self.put + "So."], [table], {"rising": figure}, [graph])


def written(folder, put=""):
    """The HTML page and the Markdown page."""
    experiment, own = Drawn(put=put), OwnFiles.of(folder, "an experiment")
    part = own.folder("parts", "one")
    part.write_json("result.json", {"found": experiment.parts()["one"].work(part)})
    page = write_experiment_page(experiment, {"one": {}}, folder, about=["Made by `me`."])
    return (folder / REPORT_FILE).read_text(), page.read_text()


def hashes(source):
    """The scripts that the policy of a page allows, and those that the page has."""
    policy = re.search(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', source)[1]
    scripts = re.findall(r"<script>(.*?)</script>", source, re.S)
    own = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    return re.findall(r"'sha256-([^']*)'", policy), own


def test_the_report_has_the_graph_in_a_frame_and_in_tables(tmp_path):
    html, markdown = written(tmp_path)
    (inner,) = framed(html)
    graph = CircuitGraph.load(tmp_path / "parts" / "one" / "graph")
    assert inner == graph.show(title=" She,  She - He").html()
    frame = re.search("<iframe[^>]*>", html)[0]
    for attribute in ('sandbox="allow-scripts allow-downloads"', 'loading="lazy"',
                      'title=" She,  She - He"'):  # fmt: skip
        assert attribute in frame
    (allowed, outer), (of_frame, own) = hashes(html), hashes(inner)
    assert allowed == outer + own, "a frame inherits the policy of the page around it"
    assert of_frame == own
    assert "<code>me</code>" in html
    for text in (html, as_html(markdown)):
        rows = re.findall(r"<tr>(.*?)</tr>", text, re.S)
        cells = [[cell.strip() for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S)]
                 for row in rows]  # fmt: skip
        # 3/4 of half of the edges into " She", and a quarter of one of four into the other
        assert ["c 0 @ 1", "day", "43.8%"] in cells
        assert ["c 0 @ 1", "She", "+4", "37.5%"] in cells


def test_a_graph_that_is_missing_is_told(tmp_path):
    with pytest.raises(CorruptFileError, match=r"parts.one.graph.graph\.json"):
        write_experiment_page(Drawn(), {}, tmp_path)


def elements(html, markdown):
    """The elements of the report (without the long script of plotly), its frame and Markdown."""
    pages = (html.replace(get_plotlyjs(), ""), framed(html)[0], as_html(markdown))
    return [Elements(page).found for page in pages]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The elements where all texts begin with a letter."""
    return elements(*written(tmp_path_factory.mktemp("plain"), "x"))


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_no_element_and_no_attribute_comes_from_a_text(tmp_path, plain, payload):
    assert elements(*written(tmp_path, payload)) == plain


def looked_into(looked_at, folder, html, drive, width):
    """What the page says of itself, and what its frame does after actions."""
    (inner,) = framed(html)
    driven = with_driver(inner, drive).replace("<script>", f"<script>{TELL_ERRORS}", 1)
    script = re.search("<script>(.*?)</script>", driven, re.S)[1]
    own = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    srcdoc = driven.replace("&", "&amp;").replace('"', "&quot;")
    source = re.sub(r'srcdoc="[^"]*"', lambda _: f'srcdoc="{srcdoc}"', html)
    source = source.replace("script-src ", f"script-src 'sha256-{own}' ", 1)
    path = folder / f"framed-{width}.html"
    path.write_text(source.replace("<head>", f"<head>{LISTEN}", 1))
    seen = looked_at(path, width, folder)
    start = "frame: "
    told = [text.removeprefix(start) for text in seen["texts"] if text.startswith(start)]
    return seen, told


@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_draws_the_graph_and_runs_nothing_from_it(looked_at, tmp_path, width):
    html, _ = written(tmp_path, EVERYTHING)
    drive = (
        TOUCH_ALL
        + """;
    out.nodes = all(".node").length; out.hit = typeof window.hit;
    out.wide = document.documentElement.scrollWidth - innerWidth;
    try { parent.document; out.reads = true; } catch { out.reads = false; }"""
    )
    seen, told = looked_into(looked_at, tmp_path, html, drive, width)
    assert len(told) == 1, told
    out = json.loads(told[0])
    assert (out["nodes"], out["made"], out["hit"], out["reads"]) == (10, 0, "undefined", False)
    assert out["found"] >= 5
    assert out["wide"] <= 0
    assert seen["errors"] == seen["violations"] == []
    assert seen["plots"] == seen["drawn"] == 1
    assert seen["hit"] == "undefined"
    assert seen["width"] <= seen["window"]


def test_a_browser_runs_nothing_that_is_written_into_a_frame(looked_at, tmp_path):
    """Not even if the frame had no policy of its own."""
    html, _ = written(tmp_path)
    (inner,) = framed(html)
    put = f"<main>{PAYLOADS['image']}<script>window.hit = 1</script>"
    edited = re.sub("<meta http-equiv[^>]*>", "", inner).replace("<main>", put, 1)
    srcdoc = edited.replace("&", "&amp;").replace('"', "&quot;")
    edited = re.sub(r'srcdoc="[^"]*"', lambda _: f'srcdoc="{srcdoc}"', html)
    _, told = looked_into(looked_at, tmp_path, edited, "out.hit = typeof window.hit", 1280)
    kinds = ("script-src-attr", "script-src-elem")
    assert {*told} == {'{"hit":"undefined"}', *(f"forbidden: {kind}" for kind in kinds)}
