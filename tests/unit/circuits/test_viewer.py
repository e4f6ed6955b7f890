"""The page of a graph: what it draws, and that it takes no text for markup."""

import json
import re
from dataclasses import replace
from html import unescape
from urllib.parse import unquote

import pytest
import torch

from dictlearn.circuits.graph import CircuitGraph
from dictlearn.circuits.viewer import _FOLDER as TEMPLATES
from dictlearn.circuits.viewer import GraphView
from dictlearn.core.errors import InputError
from dictlearn.core.provenance import Provenance
from dictlearn.records.features import Context, FeatureCard, FeatureRecords, TokenWeight
from tests.unit.circuits.graphs import known_graph
from tests.unit.comparison.report.test_hostile import EVERYTHING, PAYLOADS, Elements

WHOLE = {"node_share": 1.0, "edge_share": 1.0}
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')


def records(prefix=""):
    """Cards of a feature in the graph, and of one that is not."""
    context = Context([prefix + " a", prefix + "\n"], [0.0, 4.0], 1, 7)
    weights = [TokenWeight(prefix + " the", 2.0)], [TokenWeight(prefix + "of", -0.5)]
    cards = [FeatureCard(prefix + name, feature, 0.01, [context], *weights, "", [])
             for name, feature in (("b", 4), ("b", 3))]  # fmt: skip
    return FeatureRecords(Provenance(), {}, cards, {})


def page(prefix="", n_tokens=2, grouped=False):
    """The page; `prefix` stands before all texts."""
    graph = known_graph(prefix)
    tokens = [*graph.tokens, *(f"{prefix}{i}" for i in range(2, n_tokens))]
    about = {"model": {"model": prefix + "name"}, prefix + "key": ["", prefix]}
    graph = replace(graph, tokens=tokens, ids=torch.arange(n_tokens), about=about)
    groups = {"supernodes": {prefix + "group": [0, 2]}, "pinned": [14]} if grouped else {}
    return graph.show(title=prefix + "Lily", features=records(prefix), **WHOLE, **groups).html()


def test_nodes_of_the_page():
    data = known_graph().show(features=records(), **WHOLE).data
    assert data["tokens"] == ["One", "day"]
    assert data["layers"] == 3
    nodes = {node["name"]: node for node in data["nodes"]}
    places = {name: (node["kind"], node["row"], node["at"]) for name, node in nodes.items()}
    assert places == {
        " She": ("target", 4, 1), " She - He": ("target", 4, 1),
        "a 2 @ 0": ("feature", 1, 0), "b 3 @ 1": ("feature", 1, 1), "c 0 @ 1": ("feature", 3, 1),
        "error of blocks.0.hook_resid_post @ 0": ("error", 1, 0),
        "error of blocks.2.hook_mlp_out @ 0": ("error", 3, 0),
        "token 'One' @ 0": ("token", 0, 0), "token ' day' @ 1": ("token", 0, 1),
        "position 0": ("position", 0, 0), "position 1": ("position", 0, 1),
        "remainder of MLP 1 @ 1": ("remainder", 2, 1),
    }  # fmt: skip
    assert (nodes["b 3 @ 1"]["value"], nodes["b 3 @ 1"]["card"]) == (1.5, 1)
    assert nodes["c 0 @ 1"]["card"] == -1
    assert nodes["position 1"]["value"] is None
    assert (nodes[" She"]["probability"], nodes[" She - He"]["probability"]) == (0.6, None)
    assert nodes[" She"]["influence"] == 0.75


def test_links_of_the_page():
    """The edge from c 0 into " She" is 4 of 8, and " She" has three quarters of the weight."""
    data = known_graph().show(**WHOLE).data
    names = [node["name"] for node in data["nodes"]]
    found = {(names[a], names[b]): rest for a, b, *rest in data["links"]}
    assert found["c 0 @ 1", " She"] == [4.0, 0.5, 0.375]
    assert found["b 3 @ 1", " She - He"] == [-3.0, 0.75, 0.1875]
    assert found["remainder of MLP 1 @ 1", " She"] == [2.0, 0.25, 0.1875]
    of_c = 0.375 + 0.25 / 4
    assert found["b 3 @ 1", "c 0 @ 1"] == pytest.approx([2.0, 0.4, 0.4 * of_c])
    influences = [link[-1] for link in data["links"]]
    assert influences == sorted(influences, reverse=True)
    assert len(found) == 14
    fewer = known_graph().show(node_share=0.9, edge_share=0.7).data
    assert 0 < len(fewer["links"]) < 14


def test_the_page_loads_nothing_and_runs_its_own_script(tmp_path):
    path = known_graph().to_html(tmp_path / "graph.html", title="Lily", **WHOLE)
    source = path.read_text()
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", source)
    assert [tag for tag, names in Elements(source).found if {"src", "href"} & set(names)] == []
    policy = POLICY.search(source)[0]
    assert "default-src 'none'" in policy
    assert policy.count("sha256-") == 1
    known_graph().to_html(path)  # over its own file
    (tmp_path / "other.html").write_text("")
    with pytest.raises(InputError, match="not a file that circuit graph wrote"):
        known_graph().to_html(tmp_path / "other.html")


def framed(source):
    """The pages in the frames of a page."""
    return [unescape(found) for found in re.findall(r'srcdoc="([^"]*)"', source)]


def test_a_notebook_shows_the_page_in_a_frame():
    view = GraphView(known_graph(), title='A "title"', **WHOLE)
    assert repr(view).startswith("GraphView(12 nodes, 14 edges")
    ((tag, names),) = Elements(view._repr_html_()).found
    assert tag == "iframe"
    assert set(names) == {"class", "title", "sandbox", "loading", "width", "height", "style",
                          "srcdoc"}  # fmt: skip
    assert 'sandbox="allow-scripts allow-downloads"' in view._repr_html_()
    assert framed(view._repr_html_()) == [view.html()]


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_no_element_and_no_attribute_comes_from_a_text(payload):
    found, plain = Elements(page(payload, grouped=True)), Elements(page("x", grouped=True))
    assert found.found == plain.found
    assert len(found.figures) == 1
    assert known_graph(payload).show(**WHOLE).data["nodes"][0]["name"] in json.dumps(
        found.figures[0], ensure_ascii=False
    ).replace('\\"', '"')
    assert "<" not in page(payload).split('id="data">')[1].split("</script>")[0]


def test_values_that_are_missing_are_shown_as_such(tmp_path):
    graph = known_graph()
    path = graph.to_neuronpedia(tmp_path / "graph.json", **WHOLE)
    back = CircuitGraph.from_neuronpedia(path).show(**WHOLE)
    assert back.data["nodes"][0]["value"] is None
    assert "NaN" not in back.html().split('id="data">')[1].split("</script>")[0]


def contrast(*colors):
    """The contrast ratio of two colours; WCAG 2.2, "contrast ratio"."""
    channels = [[int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)] for color in colors]
    linear = [[c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in own]
              for own in channels]  # fmt: skip
    dark, light = sorted(0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in linear)
    return (light + 0.05) / (dark + 0.05)


def test_colors_have_contrast_on_light_and_dark_pages():
    """4.5 for texts and 3 for signs, of WCAG 2.2 (1.4.3 and 1.4.11, level AA)."""
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    css = (TEMPLATES / "graph.css").read_text()
    groups = re.search(r"COLORS = \[(.*?)\]", (TEMPLATES / "graph.js").read_text())[1]
    schemes = re.findall(r":root \{(.*?)\}", css, re.S)
    assert len(schemes) == 2
    for scheme in schemes:
        named = dict(re.findall(r"--(\w+): (#\w{6});", scheme))
        for name in ("ink", "soft", "plus", "minus", "accent"):
            for ground in ("page", "panel"):
                assert contrast(named[name], named[ground]) >= 4.5, (name, ground)
        for sign in (named["border"], *re.findall(r"#\w{6}", groups)):
            assert contrast(sign, named["page"]) >= 3, sign


# In a browser

DRIVER = """{
const all = (query) => [...document.querySelectorAll(query)];
const send = (target, kind, more = {}) =>
  target.dispatchEvent(new (more.key ? KeyboardEvent : MouseEvent)(kind, {bubbles: true, ...more}));
const label = (one) => one.getAttribute("aria-label");
const node = (name) => all(".node").find((one) => label(one).startsWith(name));
const button = (text) => all("aside button").find((one) => one.textContent === text);
const check = (box) => { box.checked = true; send(box, "change"); };
const write = (id, value) => {
  document.getElementById(id).value = value;
  send(document.getElementById(id), "input");
};
const edges = () => all(".edge").map((edge) => edge.classList[1]).sort().join(" ");
const told = () => document.getElementById("status").textContent;
const tell = (text) =>
  typeof texts === "undefined" ? parent.postMessage(text, "*") : texts.push(text);
window.addEventListener("load", () => setTimeout(() => {
  const out = {};
  try { DRIVE; tell(JSON.stringify(out)); } catch (error) { tell(`failed: ${error.stack}`); }
}, 1000));
}"""


def with_driver(source, drive):
    """The page with actions in it, which put what they see into `out`."""
    return source.replace("<head>", f"<head><script>{DRIVER.replace('DRIVE', drive)}</script>", 1)


def driven(looked_at, folder, source, drive, width=1280):
    """What the page says of itself after actions."""
    path = folder / f"page-{width}.html"
    path.write_text(with_driver(source, drive))
    seen = looked_at(path, width, folder)
    assert seen["errors"] == seen["violations"] == []
    assert not seen["texts"][0].startswith("failed"), seen["texts"][0]
    return seen, json.loads(seen["texts"][0])


USE = """
out.nodes = all(".node").length; out.edges = edges(); out.told = told();
out.order = all(".node").map((n) => [label(n).split(":")[0],
  ...n.getAttribute("transform").match(/[0-9.]+/g).map(Number)]);
send(node("b 3 @ 1"), "click");
out.card = document.getElementById("node").innerText; out.chosen = edges();
out.pressed = node("b 3 @ 1").getAttribute("aria-pressed");
send(button("Pin"), "click");
send(node("b 3 @ 1"), "keydown", {key: "ArrowUp"});
out.above = label(document.activeElement).split(":")[0];
out.reached = all('.node[tabindex="0"]').map((one) => label(one).split(":")[0]);
out.focus = document.activeElement.matches(":focus-visible") &&
  getComputedStyle(document.activeElement.querySelector(".halo")).stroke;
send(document.activeElement, "keydown", {key: "Enter"});
send(document.activeElement, "keydown", {key: "p"});
send(node("a 2 @ 0"), "keydown", {key: "p"});
all("#pins input[type=checkbox]").slice(0, 2).forEach(check);
document.querySelector("#pins input[type=text]").value = "two";
send(button("Group checked"), "click");
out.pins = document.getElementById("pins").innerText;
out.tags = all("text.tag").map((tag) => tag.textContent);
send(button("Close"), "click");
write("search", "MLP 1");
out.matches = all(".matches button").map((b) => b.textContent); out.found = all(".found").length;
write("search", ""); write("filter", 1);
out.filtered = all(".node").filter((n) => n.style.display !== "none").length;
out.few = told()
"""


def test_the_page_is_used_with_pointer_and_keyboard(looked_at, tmp_path):
    seen, out = driven(looked_at, tmp_path, page(), USE)
    assert out["nodes"] == 12
    assert out["edges"].split().count("down") == 4
    assert len(out["edges"].split()) == 14
    assert out["told"] == "12 of 12 nodes, 14 edges"
    at = {name: (x, y) for name, x, y in out["order"]}
    assert len({*at.values()}) == 12
    assert at["a 2 @ 0"][0] < at["b 3 @ 1"][0], "tokens from left to right"
    rows = ["position 1", "b 3 @ 1", "remainder of MLP 1 @ 1", "c 0 @ 1", " She"]
    assert [at[name][1] for name in rows] == sorted((at[n][1] for n in rows), reverse=True)
    for text in (
        "+1.5",
        "Incoming (2)",
        "Outgoing, by part of the target (2)",
        "token ' day' @ 1",
        "-3",
        "Promoted",
    ):
        assert text in out["card"]
    assert out["chosen"] == "down down up up"
    assert out["pressed"] == "true"
    assert out["above"] == "remainder of MLP 1 @ 1"
    assert out["reached"] == ["remainder of MLP 1 @ 1"], "one node is reached by Tab"
    assert out["focus"] not in (False, "none"), "the focus is seen"
    assert "two: b 3 @ 1" in out["pins"]
    assert "a 2 @ 0 → two -0.5" in " ".join(out["pins"].split())
    assert {"two", "a 2 @ 0"} <= set(out["tags"])
    assert out["matches"] == ["remainder of MLP 1 @ 1"]
    assert out["found"] == 1
    # targets, tokens, pinned ones, and the most influential of the others
    assert out["filtered"] == 2 + 2 + 3 + 1
    assert out["few"].startswith("8 of 12 nodes")
    assert seen["hit"] == "undefined"


def test_groups_and_pins_that_are_set_can_be_changed_and_taken_to_python(looked_at, tmp_path):
    put = 'ж#%&+" '
    drive = (
        f"const put = {json.dumps(put)};"
        + """
    out.pins = document.getElementById("pins").innerText; out.pinned = all(".node.pinned").length;
    send(node(put + "b 3 @ 1"), "keydown", {key: "p"});
    check(all("#pins input[type=checkbox]")[3]);
    document.querySelector("#pins input[type=text]").value = put + "group";
    send(button("Group checked"), "click");
    send(node(put + " She"), "keydown", {key: "p"});
    out.json = document.querySelector("textarea").value;
    HTMLAnchorElement.prototype.click = function () { out.file = [this.download, this.href]; };
    send(button("Download"), "click")"""
    )
    _, out = driven(looked_at, tmp_path, page(put, grouped=True), drive)
    assert out["pinned"] == 3
    assert f"{put}group: {put}a 2 @ 0" in out["pins"]
    assert "remainder of MLP 1 @ 1 → " not in out["pins"]
    name, address = out["file"]
    start = "data:application/json,"
    assert address.startswith(start)
    (tmp_path / name).write_text(unquote(address.removeprefix(start)))
    graph = known_graph(put)
    for found in (graph.grouped(**json.loads(out["json"])), graph.grouped_from(tmp_path / name)):
        assert found.supernodes == {f"{put}group": [0, 2], f"{put}group 2": [1]}
        assert found.pinned == [14]


WIDE, RIGHT_TO_LEFT = "猫は公園" * 3, "שלום עולם"
LOOK = """
const widest = (query) => Math.max(...all(query).map((one) => one.scrollWidth - one.clientWidth));
const boxes = (query) => all(query).map((one) => one.getBoundingClientRect())
  .sort((a, b) => a.left - b.left);
out.texts = all(".words text").map((one) => one.firstChild.data);
const columns = boxes(".words text");
out.overlap = Math.max(...columns.slice(1).map((box, i) => columns[i].right - box.left));
const plot = document.getElementById("plot");
plot.style.maxHeight = "200px"; plot.onscroll();
out.below = document.querySelector(".words rect").getBoundingClientRect().bottom -
  plot.getBoundingClientRect().top - plot.clientTop - plot.clientHeight;
plot.style.maxHeight = "";
out.target = Math.min(...all(".node").map((one) => one.getBoundingClientRect().width));
send(all(".node.token").at(-1), "click");
out.card = document.getElementById("node").innerText;
out.pushed = widest("section, section *");
const plate = boxes("rect.tag"), words = boxes("text.tag");
out.cut = Math.max(...words.map((box, i) => box.width - plate[i].width))"""


@pytest.mark.parametrize("width", [1280, 390])
def test_texts_of_any_script_have_their_place(looked_at, tmp_path, width):
    """Wide signs do not overlap; signs from right to left do not move what stands beside them."""
    source = page(WIDE + "x" * 200 + RIGHT_TO_LEFT, n_tokens=40)
    seen, out = driven(looked_at, tmp_path, source, LOOK, width)
    assert seen["width"] <= seen["window"]
    assert out["texts"][0] == "猫は公園猫は公園猫…"
    assert out["overlap"] < 0
    assert abs(out["below"]) < 1, "tokens are in sight where the plot scrolls"
    assert out["target"] >= 24
    assert out["cut"] <= 0
    assert out["pushed"] <= 1
    assert f"{'x' * 200}\u2068{RIGHT_TO_LEFT}\u2069 day (position 1)" in out["card"]


TOUCH_ALL = """
for (const one of all(".node")) { send(one, "click"); send(button("Pin"), "click"); }
all("#pins input[type=checkbox]").forEach(check);
document.querySelector("#pins input[type=text]").value = all("h1")[0].textContent;
send(button("Group checked"), "click");
write("search", "window.hit");
out.found = all(".found").length; out.cards = all("aside .card").length;
for (const one of all(".node")) {
  send(one, "click"); out.cards += all("aside .card").length;
}
out.made = all("aside img, aside script, svg script, aside a, svg a, svg image").length"""
"""Every node is selected, pinned, grouped and found."""


def test_a_browser_runs_nothing_from_a_graph(looked_at, tmp_path):
    """Nor without the policy."""
    for source in (page(EVERYTHING), POLICY.sub("", page(EVERYTHING))):
        seen, out = driven(looked_at, tmp_path, source, TOUCH_ALL)
        assert seen["hit"] == "undefined"
        assert seen["links"] == out["made"] == 0
        assert out["found"] >= 5
        assert out["cards"] == 1
