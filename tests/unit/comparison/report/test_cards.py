"""Cards as HTML: what is shaded how, and that no text is taken for markup."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from dictlearn.comparison.report.cards import cards_html, cards_page
from dictlearn.comparison.report.templates import render
from dictlearn.core.provenance import Provenance
from dictlearn.pages import card_id
from dictlearn.records.features import (
    Context,
    FeatureCard,
    FeatureRecords,
    Neighbor,
    TokenWeight,
)


def make(name="sae", **changes):
    fields = {
        "dictionary": name, "feature": 3, "density": 0.0123,
        "contexts": [
            Context([" a", "<b>", "\n", "  ", " z"], [0.0, 4.0, -1.0, 2.0, 0.0], 1, 7),
            Context([" c", ""], [0.0, 1.0], 1, 2),
        ],
        "promoted": [TokenWeight(" the", 2.0), TokenWeight("<i>", 1.0)],
        "suppressed": [TokenWeight('"', -0.5)], "no_logits": "",
        "nearest": [Neighbor("other", 5, 0.75), Neighbor("other", 6, -0.25)],
    }  # fmt: skip
    return FeatureCard(**fields | changes)


def card_html(card):
    return cards_html(FeatureRecords(Provenance(), {}, [card], {}))


class Balanced(HTMLParser):
    """Fails where an element is not closed in its place."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(html):
    parser = Balanced()
    parser.feed(html)
    parser.close()
    assert not parser.open
    return parser.seen


def test_tokens_are_shaded_by_activation_and_tell_it():
    seen = parsed(card_html(make()))
    spans = [(tag, a) for tag, a in seen if "title" in a and tag in ("span", "strong")]
    assert [(tag, a["style"], a["title"], a.get("class")) for tag, a in spans] == [
        ("strong", "--a:1.000", "4", "peak"), ("span", "--a:0.250", "-1", "minus"),
        ("span", "--a:0.500", "2", None), ("strong", "--a:0.250", "1", "peak"),
    ]  # fmt: skip


def test_whitespace_is_visible_and_text_is_escaped(hostile):
    html = card_html(make(name=hostile))
    tags = {tag for tag, _ in parsed(html)}
    assert "b" not in tags
    assert "script" not in html.replace("&lt;/script&gt;", "")
    for expected in ("&lt;b&gt;", "<i>↵</i>", "<i>··</i>", "<i>·</i>the", "&lt;i&gt;", "&#34;"):
        assert expected in html
    assert html.count("1.2 %") == 1
    texts = re.findall(r'<span class="text">(.*?)</li>|<code>(.*?)</code>', html, flags=re.DOTALL)
    assert "\n" not in "".join(map("".join, texts)), "spaces are shown there"


def test_bars_are_as_long_as_their_weights():
    bars = [a["style"] for tag, a in parsed(card_html(make())) if tag == "code" and "style" in a]
    assert bars == ["--a:1.000", "--a:0.500", "--a:0.250", "--a:0.750", "--a:0.000"]


def test_what_is_missing_is_said():
    html = card_html(
        make(contexts=[], promoted=None, suppressed=None, no_logits="off the <stream>", nearest=[])
    )
    parsed(html)
    assert "No positive activation" in html
    assert "None: off the &lt;stream&gt;." in html
    assert "Nearest" not in html


@pytest.fixture
def records():
    cards = [make("a"), make("a", feature=4), make("b")]
    return FeatureRecords(Provenance(), {"chosen": "by name"}, cards, {"<mean>": "it is empty"})


def test_a_section_holds_every_dictionary(records):
    html = render("features.html.jinja", features=records)
    seen = parsed(html)
    details = [attrs for tag, attrs in seen if tag == "details"]
    assert details == [{"open": None}, {}, {}], "what is left out is folded"
    assert "2 features" in html
    assert "1 feature<" in html
    assert "&lt;mean&gt;: it is empty" in html
    assert html.startswith('<section id="features"><h2>Features to look at</h2>')
    assert parsed(cards_html(records))
    assert html.strip() in cards_page(records)
    assert "Content-Security-Policy" in cards_page(records)


def test_a_near_feature_leads_to_its_card_if_there_is_one(hostile):
    near = [Neighbor("other", 5, 0.75), Neighbor("other", 6, 0.5), Neighbor(hostile, 3, 0.2)]
    cards = [make(nearest=near), make("other", feature=5), make(hostile)]
    html = render("features.html.jinja", features=FeatureRecords(Provenance(), {}, cards, {}))
    seen = parsed(html)
    ids = {a["id"] for tag, a in seen if tag == "article"}
    assert len(ids) == 3
    links = [a["href"] for tag, a in seen if tag == "a"]
    assert links[:2] == ["#card-other-5", f"#{card_id(hostile, 3)}"]
    assert {link[1:] for link in links} <= ids
    assert "other 6" in html


def test_a_code_has_examples_and_no_strength():
    context = Context([" a", " b"], [0.0, 1.0], 1, 7)
    html = card_html(make(contexts=[context]))
    assert "its contexts are a sample" in html
    assert '<span class="of">1</span>' not in html
    assert "up to" not in html
    graded = card_html(make(contexts=[replace(context, activations=[0.5, 1.0])]))
    assert '<span class="of">1</span>' in graded
    assert ", up to 1" in graded


def test_bytes_of_one_character_are_one_token():
    context = Context([" a", "", "", "é", " b"], [0.0, 1.0, -3.0, 2.0, 0.0], 2, 7)
    assert context.joined() == [(" a", 0.0, False), ("é", -3.0, True), (" b", 0.0, False)]
    html = card_html(make(contexts=[context]))
    assert html.count('title="-3"') == 1
    assert "·</i></" not in html.partition("Promoted")[0]
    assert context.marked() == " a[é] b"
