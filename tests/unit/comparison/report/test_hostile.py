"""Reports of files that somebody else made: no text of a record is taken for markup."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import plotly.graph_objects as go
import pytest
from markdown_it import MarkdownIt
from safetensors.torch import load_file, save_file

from dictlearn.comparison.report.agreement import agreement_data
from dictlearn.comparison.report.cards import cards_page
from dictlearn.comparison.report.html import precision_data, report_html
from dictlearn.comparison.report.markdown import results_page
from dictlearn.comparison.report.templates import render
from dictlearn.core.errors import DictLearnError
from dictlearn.core.files import sha256, write_json
from dictlearn.core.provenance import Provenance
from dictlearn.feature_cards import Shown
from dictlearn.records.agreement import AgreementRecords
from dictlearn.records.concepts import ConceptRecords
from dictlearn.records.features import (
    Context,
    FeatureCard,
    FeatureRecords,
    Neighbor,
    TokenWeight,
)
from dictlearn.records.results import Records
from dictlearn.studies.page import write_page

pytestmark = pytest.mark.untyped  # long, and of types that other tests pass

PAYLOADS = {
    "image": "<img src=x onerror=window.hit=1>",
    "script": "</script><script>window.hit=1</script>",
    "attribute": """"'><svg onload=window.hit=1>""",
    "link": '<a href="javascript:window.hit=1">x</a> javascript:window.hit=1 %{x} &quot;',
    "markdown": "[x](javascript:window.hit=1) ![x](x) `<img src=x>` | **x** <http://x.y> _x_ $x$",
    "heading": "# <svg onload=window.hit=1> ~~x~~ [x]: <javascript:window.hit=1> https://x.y",
}
EVERYTHING = "".join(PAYLOADS.values())
SECTIONS = {
    "concepts": (precision_data, "precision.html.jinja"),
    "agreement": (agreement_data, "agreement.html.jinja"),
}
NAMED = {"dictionaries", "versions", "patterns", "left_out"}
"""Entries of files whose keys are names."""
PARTS = {"concepts": ConceptRecords, "agreement": AgreementRecords, "features": FeatureRecords}
OURS = re.compile(r"</?b>|<br>|<extra></extra>|</?i>")
"""The markup in the texts of our figures."""


class Elements(HTMLParser):
    """The elements of a page, each with the names of its attributes, and the figures' JSON."""

    def __init__(self, source):
        super().__init__()
        self.found, self.figures, self.in_figure = [], [], False
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, tuple(name for name, _ in attrs)))
        self.in_figure = tag == "script" and bool(attrs)
        if self.in_figure:
            self.figures.append("")

    def handle_endtag(self, tag):
        if self.in_figure:
            self.figures[-1] = json.loads(self.figures[-1])
        self.in_figure = False

    def handle_data(self, data):
        if self.in_figure:
            self.figures[-1] += data


@pytest.fixture
def files(tmp_path, records, concepts, agreement, make):
    """A folder with a file of every kind."""
    for kind, l0 in (("a", 4.0), ("a", 16.0), ("b", 4.0), ("b", 16.0)):
        records.dictionaries[f"{kind}-{l0}"] = make(kind, l0=l0, spliced=3 - l0 / 20, seed=0)
    contexts = [Context([" a", "\n", "  ", ""], [0.0, 4.0, -1.0, 0.0], 1, 7)]
    weights = [TokenWeight(" the", 2.0)], [TokenWeight("of", -0.5)]
    cards = [
        FeatureCard("sae", 3, 0.01, contexts, *weights, "", [Neighbor("other", 5, 0.75)]),
        FeatureCard("codes", 4, 0.5, [], None, None, "off the stream", []),
    ]
    features = FeatureRecords(Provenance(), {"chosen": "by name"}, cards, {"mean": "it is empty"})
    for part in (records, concepts, agreement, features):
        part.save(tmp_path)
    code = {"versions": {"torch": "2.6"}, "revision": "abc"}
    study = {"study": {"question": "Which?", "seeds": [0]}, **code, "continued": [code]}
    (tmp_path / "study.json").write_text(json.dumps(study))
    row = {"step": 1, "sae/loss": 1.0, "sae/fvu": 0.5, "stopped": {"sae": "diverged"}}
    (tmp_path / "log.jsonl").write_text(json.dumps(row))
    return tmp_path


def renamed(data, put, key=""):
    """The data with `put` before every text and every key that is a name."""
    if isinstance(data, dict):
        named = key in NAMED
        return {put + k if named else k: renamed(v, put, k) for k, v in data.items()}
    if isinstance(data, list):
        return [renamed(item, put, key) for item in data]
    return put + data if isinstance(data, str) and key != "family" else data


def put_everywhere(folder, put):
    sums = load_file(folder / "sums.safetensors")
    moved = {}
    for key, tensor in sums.items():
        *path, name = key.split("/", 2 if key.startswith("sums") else 1)
        moved["/".join([*path, put + name])] = tensor
    save_file(moved, folder / "sums.safetensors")
    for path in folder.glob("*.json"):
        data = renamed(json.loads(path.read_text()), put)
        if "sums_sha256" in data:
            data["sums_sha256"] = sha256(folder / "sums.safetensors")
        write_json(path, data)
    row = json.loads((folder / "log.jsonl").read_text())
    (folder / "log.jsonl").write_text(
        json.dumps(
            {k if k in ("step", "stopped") else put + k: renamed(v, put) for k, v in row.items()}
        )
    )


def rendered(folder):
    """The report, the cards in a notebook and on a page, and the Markdown page as HTML."""
    records = Records.load(folder)
    parts = {name: kind.load(folder) for name, kind in PARTS.items()}
    title = json.loads((folder / "study.json").read_text())["study"]["question"]
    (folder / "report.md").unlink(missing_ok=True)
    page = write_page(folder, about=["Written by `dictlearn bench`."])
    log = {title: folder / "log.jsonl", "other": folder / "log.jsonl"}
    return {
        "report": report_html(records, title=title, training_log=log, **parts),
        "notebook": Shown(parts["features"])._repr_html_(),
        "cards": cards_page(parts["features"], title),
        "markdown": as_html(page.read_text()),
    }


def as_html(page):
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(page)


def texts(data):
    if isinstance(data, dict):
        data = [*data, *data.values()]
    if isinstance(data, list):
        return [text for item in data for text in texts(item)]
    return [data] if isinstance(data, str) else []


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_no_element_and_no_attribute_comes_from_a_text(files, tmp_path_factory, payload):
    harmless = tmp_path_factory.mktemp("harmless")
    for path in files.iterdir():
        (harmless / path.name).write_bytes(path.read_bytes())
    put_everywhere(harmless, "x")
    put_everywhere(files, payload)
    for (name, page), plain in zip(
        rendered(files).items(), rendered(harmless).values(), strict=True
    ):
        found, expected = Elements(page), Elements(plain)
        assert found.found == expected.found, name
        assert len(found.figures) == len(expected.figures), name
        for text in texts(found.figures):
            assert "<" not in OURS.sub("", text), name


def test_a_figure_cannot_end_its_script(concepts):
    figure = go.Figure(layout={"title": PAYLOADS["script"], "height": 100})
    data = precision_data(concepts) | {"figure": figure}
    (found,) = Elements(render("precision.html.jinja", concepts=data)).figures
    assert found["layout"]["title"]["text"] == PAYLOADS["script"]


def leaves(data, path=(), kind=()):
    """The path of each leaf, and its kind: the path with "*" for names and for indices from 2."""
    for key, value in list(data.items() if isinstance(data, dict) else enumerate(data)):
        named = key > 1 if isinstance(data, list) else path and path[-1] in (*NAMED, "metrics")
        here, kinds = (*path, key), (*kind, "*" if named else key)
        if isinstance(value, dict | list):
            yield from leaves(value, here, kinds)
        else:
            yield here, kinds


def changed(data, path, value):
    """The data with another value at the path."""
    key, *rest = path
    copy = dict(data) if isinstance(data, dict) else list(data)
    copy[key] = changed(data[key], rest, value) if rest else value
    return copy


@pytest.mark.parametrize("file", ["results", "concepts", "agreement", "features"])
def test_no_single_entry_of_another_type_is_taken_for_markup(files, file):
    """Numbers too: a loader refuses a text for one, in words of ours."""
    path = files / f"{file}.json"
    data = json.loads(path.read_text())
    known = {name: set(Elements(page).found) for name, page in one_file(files, file).items()}
    places = {kind: place for place, kind in leaves(data)}
    for place in places.values():
        write_json(path, changed(data, place, EVERYTHING))
        try:
            pages = one_file(files, file)
        except DictLearnError:
            continue
        for name, page in pages.items():
            found = Elements(page)
            assert set(found.found) <= known[name], (place, name)
            assert found.found.count(("script", ())) in (0, 2), (place, name)
            assert all("<" not in OURS.sub("", text) for text in texts(found.figures)), place
    assert len(places) > 10


def one_file(folder, file):
    """The pages, or their sections, that show a file."""
    records = Records.load(folder)
    if file == "results":
        return {"report": report_html(records), "markdown": as_html(results_page(records, "Toys"))}
    part = PARTS[file].load(folder)
    if file == "features":
        section = render("features.html.jinja", features=part)
        return {"section": section, "notebook": Shown(part)._repr_html_()}
    data, template = SECTIONS[file]
    page = results_page(replace(records, dictionaries={}), "Toys", **{file: part})
    return {"section": render(template, **{file: data(part)}), "markdown": as_html(page)}


def test_a_browser_runs_nothing_from_a_record(files, looked_at):
    put_everywhere(files, EVERYTHING)
    source = rendered(files)["report"]
    page = files / "hostile.html"
    policy = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
    assert policy.search(source)
    for text in (source, policy.sub("", source)):
        page.write_text(text)
        seen = looked_at(page, 1280, files)
        assert seen["hit"] == "undefined"
        assert seen["errors"] == seen["violations"] == []
        assert seen["drawn"] == seen["plots"] >= 6
        assert seen["links"] == 0
        shown = [text for text in seen["texts"] if "onerror" in text]
        assert shown, "names are in the hover boxes, as they are"
        assert all(EVERYTHING in text for text in shown)


def test_a_browser_runs_nothing_that_is_written_into_a_page(files, looked_at):
    page = files / "edited.html"
    put = f"<main>{PAYLOADS['image']}<script>window.hit = 1</script>"
    page.write_text(rendered(files)["report"].replace("<main>", put, 1))
    seen = looked_at(page, 1280, files)
    assert seen["hit"] == "undefined"
    kinds = {violation.split()[0] for violation in seen["violations"]}
    assert kinds == {"img-src", "script-src-attr", "script-src-elem"}
    assert seen["drawn"] == seen["plots"]
