import base64
import json
import math
import re
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser

import pytest
import torch
from markupsafe import escape

from dictlearn.comparison.figures.style import default_looks, looks
from dictlearn.comparison.report.html import precision_data, report_html, write_report
from dictlearn.comparison.report.markdown import results_page
from dictlearn.comparison.report.verdict import verdict
from dictlearn.comparison.statistics.matched import matched_frame
from dictlearn.core.errors import StorageError
from dictlearn.core.file_lists import LIST_FILE
from dictlearn.core.metric import Metric
from dictlearn.core.provenance import Provenance
from dictlearn.metrics.pooled import METRICS
from dictlearn.records.concepts import ConceptRecords
from dictlearn.records.features import Context, FeatureCard, FeatureRecords
from dictlearn.records.results import Records


class Page(HTMLParser):
    """The tags, attributes and visible text of a page."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.loads, self.titles, self.texts, self.open = [], [], [], [], ""
        self.ids, self.links = [], []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open = tag
        found = dict(attrs)
        self.loads += [found[key] for key in ("src", "srcset", "data") if key in found]
        self.ids += [found[key] for key in ("id",) if key in found]
        self.links += [found[key] for key in ("href",) if key in found]
        self.titles.append(found.get("title", ""))

    def handle_data(self, data):
        if self.open not in ("script", "style"):
            self.texts.append(data)


@pytest.fixture
def written(records, tmp_path):
    return write_report(records, tmp_path / "deep" / "report.html", title="Toys & co")


def test_report_is_one_file_that_loads_nothing(written):
    page = Page(written.read_text())
    assert page.loads == []
    assert {link[0] for link in page.links} == {"#"}, "within the page"
    assert not {"link", "iframe", "img", "b onload"} & set(page.tags)
    names = sorted(file.name for file in written.parent.iterdir())
    assert names == [LIST_FILE, "report.html"]


def test_a_page_names_its_scripts_by_hash_and_loads_nothing_else(written):
    source = written.read_text()
    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', source)
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    scripts = re.findall(r"<script>(.*?)</script>", source, re.S)
    digests = (base64.b64encode(sha256(script.encode()).digest()).decode() for script in scripts)
    assert rules.pop("script-src") == " ".join(f"'sha256-{digest}'" for digest in digests)
    assert rules.pop("style-src") == "'unsafe-inline'"
    assert rules.pop("img-src") == "data:"
    assert rules == dict.fromkeys(("default-src", "base-uri", "form-action"), "'none'")


def test_report_embeds_plotly_once(written):
    assert written.read_text().count("plotly.js v") == 1


def test_report_escapes_names_and_shows_all(written, records, hostile):
    source = written.read_text()
    page = Page(source)
    assert hostile not in source
    assert escape(hostile) in source
    assert set(records.dictionaries) <= set(page.texts)
    assert "Toys & co" in page.texts


def test_report_explains_metrics_and_missing_values(written):
    page = Page(written.read_text())
    for metric in METRICS:
        shown = any(title.startswith(metric.description) for title in page.titles)
        assert shown == ("massive" not in metric.label), "there are no massive rows"
    assert "² the estimate has no direction" in page.texts
    assert "the estimate has no direction" in page.titles


def test_report_says_where_numbers_come_from(written):
    text = " ".join(Page(written.read_text()).texts)
    for part in ("toy", "1,200 tokens in 4 sequences of stories", "a" * 64, "b" * 64, "torch 2.6"):
        assert part in text


def test_report_shows_training_only_if_there_is_a_log(written, records, tmp_path):
    assert "Training" not in Page(written.read_text()).texts
    log = tmp_path / "log.jsonl"
    log.write_text(json.dumps({"step": 1, "sae/loss": 1.0}) + "\n")
    again = write_report(records, tmp_path / "again.html", training_log=log)
    assert "Training" in Page(again.read_text()).texts


def test_report_of_no_dictionaries_is_still_a_page(records, tmp_path):
    empty = Records(records.provenance, records.tokens, {})
    assert "Only baselines" in write_report(empty, tmp_path / "r.html").read_text()


def test_report_refuses_a_path_below_a_file(records, written):
    with pytest.raises(StorageError):
        write_report(records, written / "report.html")


def test_verdict_states_the_best_and_the_sparsest(records, hostile):
    (text,) = verdict(records)
    assert f"the densest, {hostile}, recovers the largest part" in text
    assert text.index("At L0 8,") < text.index("the largest part"), "first at equal L0"
    assert "0.900 ±<0.001 of it at L0 16.0" in text
    assert "The sparsest, codes, recovers 0.600 ±<0.001 of it at L0 4.0." in text
    assert "clean 2.000, zero ablation 4.000, mean ablation 3.000" in text
    assert "(FVU 0.100 ±<0.001 at L0 16.0)" in text
    assert "codes (25.0%)" in text


def test_verdict_never_mixes_hooks(records, make):
    late = {"late": make("topk", spliced=3.5, hook="blocks.1.hook_mlp_out", density=(1.0,))}
    first, second = verdict(
        Records(records.provenance, records.tokens, records.dictionaries | late)
    )
    assert "late" not in first
    assert second.startswith(
        "At blocks.1.hook_mlp_out, late recovers 0.250 ±<0.001 of the loss that "
    )
    assert "Worse than predicting the mean activation: late." in second


def test_verdict_without_a_defined_recovery(records):
    for record in records.dictionaries.values():
        record.metrics["loss_recovered_zero"] = Metric(math.nan, "nothing to recover")
    assert "not defined for any trained dictionary" in verdict(records)[0]


def families_that_overlap(make, bits=True, spread=0.0):
    """Two families: one recovers more at every L0 by 0.1, as surely as `spread` lets it."""
    found = {}
    for kind, k, spliced in (("a", 4, 2.8), ("a", 16, 2.4), ("b", 4, 3.0), ("b", 16, 2.6)):
        record = make(kind, l0=k, spliced=spliced, fvu=0.3, seed=0)
        sums = {name: values.repeat(4) for name, values in record.sums.items()}
        if kind == "b":
            sums["cross_entropy_spliced"] *= 1 + torch.tensor([spread, -spread]).repeat(8)
        record = replace(record, sums=sums)
        if bits:
            record.metrics["bits"] = Metric(10.0 * k)
            record.sums["bits"] = 10.0 * k * record.sums["rows"]
        found[f"{kind}-{k}"] = record
    return found


def test_verdict_says_who_wins_at_an_equal_budget(records, make):
    found = Records(records.provenance, records.tokens, families_that_overlap(make))
    (text,) = verdict(found)
    assert "At L0 5, a recovers most (0.632 ±<0.001); b recovers 0.100 ±<0.001 less." in text
    assert "At 100 bits per token, a recovers most" in text
    assert "one training seed" in text
    (text,) = verdict(replace(found, dictionaries=families_that_overlap(make, False, spread=0.2)))
    assert "b ties with it." in text
    assert "bits per token" not in text


def test_verdict_names_what_ties_with_the_largest_value_and_explains_one_above_1(records, make):
    noise = torch.tensor([1.2, 0.8, 1.2, 0.8], dtype=torch.float64)

    def said(spread):
        group = {"a": make("a", spliced=1.99, fvu=0.1)}
        for name in ("b", "c"):
            record = make("a", l0=4.0, spliced=2.0, fvu=0.11)
            ours = {"cross_entropy_spliced", "squared_error"} if spread else set()
            sums = {k: v * noise if k in ours else v for k, v in record.sums.items()}
            group[name] = replace(record, sums=sums)
        return verdict(Records(records.provenance, records.tokens, group))[0]

    text = said(spread=True)
    assert "the densest, a, recovers the largest part of the loss that zero" in text
    assert "at L0 8.0; b and c tie with it. Above 1, predictions are better" in text
    assert "(FVU 0.100 ±<0.001 at L0 8.0); b and c tie with it." in text
    assert "tie" not in said(spread=False), "a small difference in every sequence is none of chance"


@pytest.mark.parametrize("n", [4, 6, 16])
def test_verdict_says_what_the_intervals_of_differences_say(records, make, n):
    """A tie only where the interval holds 0; differences that are clear in few sequences too."""
    said = []
    for spread in (0.001, 0.03, 0.05, 0.11, 0.3):
        cut = {
            name: replace(r, sums={key: values[:n] for key, values in r.sums.items()})
            for name, r in families_that_overlap(make, False, spread).items()
        }
        found = Records(records.provenance, records.tokens, cut)
        (text,) = verdict(found)
        frame = matched_frame(found, metrics=["loss_recovered_zero"]).xs("b", level="family")
        for part, (_, row) in zip(text.split("At L0 ")[1:], frame.iterrows(), strict=True):
            tie = row.difference_low <= 0 <= row.difference_high
            clear = row.p_holm < 0.025
            assert ("ties" in part) == tie
            assert (" less, which after correction" in part) == (not tie and not clear)
            assert (" less." in part) == clear
            said.append((tie, clear))
    assert said[:2] == [(False, True)] * 2, "a tenth, in all sequences"
    assert set(said) == {(True, False), (False, False), (False, True)}


def test_verdict_names_dead_dictionaries_while_they_are_few(records, make):
    def said(n: int) -> str:
        shares = [(0.0,) * (i + 1) + (0.5,) * 4 for i in range(n)]
        found = {f"d{i}": make("sae", density=share) for i, share in enumerate(shares)}
        return verdict(Records(records.provenance, records.tokens, found))[0]

    assert "Many features of d0 (20.0%) and d1 (33.3%) were never active." in said(2)
    assert "In 5 dictionaries many features were never active, most of all in d4 (55.6%)" in said(5)


def test_report_shows_bits_first_where_they_are_measured(records, make, tmp_path):
    found = Records(records.provenance, records.tokens, families_that_overlap(make))
    texts = Page(write_report(found, tmp_path / "bits.html").read_text()).texts
    assert texts.index("Quality against bits per token") < texts.index("Quality against sparsity")
    assert "At equal rates" in texts
    assert "0.632 ±<0.001" in texts
    assert "best" in texts


def test_report_without_bits_or_overlap_shows_sparsity_alone(written):
    texts = Page(written.read_text()).texts
    assert "Quality against sparsity" in texts
    assert "Quality against bits per token" not in texts
    assert "At L0 8, sae recovers most (0.750 ±<0.001); random recovers 3.250" in " ".join(texts)


def test_report_cells_point_out_their_intervals(written):
    page = Page(written.read_text())
    assert "0.750 ±<0.001" in page.texts
    assert "95 % interval 0.750 to 0.750" in page.titles


def test_report_and_verdict_of_one_sequence_have_no_intervals(records, make, tmp_path):
    for record in records.dictionaries.values():
        record.sums.update({name: s[:1] for name, s in record.sums.items()})
    assert "0.900 of it at L0 16.0" in verdict(records)[0]
    source = write_report(records, tmp_path / "one.html").read_text()
    assert "0.750" in Page(source).texts


@pytest.fixture
def full(records, make, concepts, agreement, tmp_path):
    """A report with every section."""
    for kind, l0 in (("a", 4.0), ("a", 16.0), ("b", 4.0), ("b", 16.0)):
        records.dictionaries[f"{kind}-{l0:g}"] = make(kind, l0=l0, spliced=3 - l0 / 20, seed=0)
    log = tmp_path / "log.jsonl"
    log.write_text(json.dumps({"step": 1, "sae/loss": 1.0, "codes/loss": 40.0}) + "\n")
    contexts = [Context([" a", " b"], [0.0, 4.0], 1, 7)]
    cards = [FeatureCard("d", 0, 0.01, contexts, None, None, "off the stream", [])]
    features = FeatureRecords(Provenance(), {"chosen": "by name"}, cards, {"mean": "it is empty"})
    return report_html(
        records, training_log=log, concepts=concepts, agreement=agreement, features=features
    )


def test_every_section_is_in_the_table_of_contents(full):
    page = Page(full)
    sections = re.findall(r'<section id="([^"]*)">', full)
    assert len(sections) == full.count("<section") >= 8
    contents = full[full.index('<nav class="contents"') : full.index("</nav>")]
    assert re.findall(r'href="#([^"]*)"', contents) == sections
    assert len(set(page.ids)) == len(page.ids)
    assert {link[1:] for link in page.links} <= set(page.ids), "every link leads somewhere"
    assert page.links.count("#card-d-0") == 2, "the best features of both concepts"


def test_every_figure_has_a_text_alternative(full):
    plots = re.findall(r'<div class="plot"([^>]*)>', full)
    assert len(plots) >= 7
    assert all(re.search(r'role="img" aria-label="[^"]{20,}"', plot) for plot in plots)


def test_figures_side_by_side_have_one_legend(full):
    figures = re.findall(
        r'id="figure-l0-\w+".*?<script type="application/json">(.*?)</script>', full
    )
    first, second = (json.loads(figure)["layout"] for figure in figures)
    assert first.get("showlegend") is None
    assert second["showlegend"] is False
    assert full.count('legend-of-first">') == 1


def test_a_dictionary_has_one_colour_in_every_figure(records, concepts, tmp_path):
    scores = [replace(score, dictionary="sae") for score in concepts.scores[:2]]
    section = precision_data(replace(concepts, scores=scores), style=looks(records))
    assert section["figure"].data[0].marker.color == looks(records)["sae"].colour
    assert default_looks(["sae"])["sae"].colour != looks(records)["sae"].colour


def test_the_main_numbers_are_in_the_first_columns_and_empty_ones_go(records):
    heads = re.findall(r'<button type="button">([^<]*)</button>', report_html(records))
    assert heads[:8] == ["dictionary", "kind", "features", "L0", "FVU", "loss recovered vs zero",
                         "KL", "dead"]  # fmt: skip
    assert "bits" not in heads, "nobody measured them"
    for record in records.dictionaries.values():
        record.metrics["kl"] = Metric(math.nan, "not measured")
    assert "KL" not in re.findall(r'<button type="button">([^<]*)<', report_html(records))


def test_everything_is_in_the_order_of_families_and_l0(
    records, make, make_score, make_agreement, tmp_path
):
    """Rows, marks, legends, tables of concepts, maps and cards, whatever that of the records."""
    group = {f"{kind}-{k}": make(kind, l0=k) for kind in ("topk", "sae") for k in (16, 32, 8)}
    expected = ["topk-8", "topk-16", "topk-32", "sae-8", "sae-16", "sae-32"]
    scores = [
        make_score("comma", family, 0.5, (0.1, 0.0, 0.2), dictionary=name)
        for name in group
        for family in ("features", "random")
    ]
    concepts = ConceptRecords(Provenance(), {}, {"comma": ","}, scores, {}, {})
    cards = [FeatureCard(name, 0, 0.01, [], None, None, "none", []) for name in group]
    log = tmp_path / "log.jsonl"
    log.write_text(json.dumps({"step": 1} | {f"{name}/fvu": 0.5 for name in group}) + "\n")
    found = Records(records.provenance, records.tokens, group)
    kinds = {name: name.partition("-")[0] for name in group}
    parts = {"concepts": concepts, "agreement": make_agreement(kinds, {})}
    features = FeatureRecords(Provenance(), {}, cards, {})
    html = report_html(found, features=features, training_log=log, **parts)
    assert re.findall(r'<tr class="trained"><th[^>]*>([^<]*)</th>', html) == 2 * expected
    assert re.findall(r"<summary>Concepts and features of ([^<]*)<", html) == expected
    assert re.findall(r"<summary><b>([^<]*)</b>: 1 feature", html) == expected
    figures = dict(re.findall(r'id="figure-([\w-]+)".*?json">(.*?)</script>', html))
    for name, figure in figures.items():
        traces = json.loads(figure)["data"]
        legend = [t["name"] for t in traces if "name" in t and t.get("showlegend") is not False]
        if legend:
            assert legend == expected, name
    assert json.loads(figures["agreement-mmcs"])["layout"]["yaxis"]["ticktext"] == expected
    page = results_page(found, "title", **parts)
    assert re.findall(r"^\| ((?:topk|sae)-\d+) \|", page, re.M) == 3 * expected


def test_verdict_names_the_learning_rates_that_were_set(records, make):
    def said(**rates) -> str:
        run = {"steps": 60, "batch_size": 512}
        group = {
            kind: replace(record, provenance=record.provenance.trained(
                0, fit_config=run | {"learning_rate": rate}
            ))
            for kind, rate in rates.items()
            for record in [make(kind)]
        }  # fmt: skip
        text = verdict(Records(records.provenance, records.tokens, group))[0]
        return text[: text.index(" What follows")]

    assert said(sae=None, topk=None) == "Training: 60 steps of 512 rows."
    assert said(sae=0.01, topk=0.01) == (
        "Training: 60 steps of 512 rows, at a peak learning rate of 0.01 for sae and topk."
    )
    assert said(sae=0.01, topk=None, codes=0.003) == (
        "Training: 60 steps of 512 rows, at a peak learning rate of 0.01 for sae; 0.003 for codes, "
        "and the default of topk."
    )


def test_cards_beyond_the_first_four_are_folded(records):
    cards = [FeatureCard("sae", i, 0.01, [], None, None, "none", []) for i in range(6)]
    html = report_html(records, features=FeatureRecords(Provenance(), {}, cards, {}))
    shown, folded = html.split("<details><summary>2 more of sae</summary>")
    assert shown.count("<article") == 4
    assert folded.count("<article") == 2
    fewer = FeatureRecords(Provenance(), {}, cards[:4], {})
    assert "more of sae" not in report_html(records, features=fewer)


def test_what_has_no_rate_is_folded_with_its_reason(records, make):
    dense = make("sae", l0=3.0)
    sums = {name: values.repeat(4) for name, values in dense.sums.items()}
    group = families_that_overlap(make) | {"dense": replace(dense, sums=sums)}
    group["dense"].metrics["bits"] = Metric(math.nan, "measured only with bits=True")
    html = report_html(Records(records.provenance, records.tokens, group))
    assert "<details><summary>Dictionaries without this rate: 1</summary>" in html
    assert "dense: measured only with bits=True" in html


def test_verdict_says_that_nothing_can_be_compared_at_equal_rates(records, make):
    group = {"a": make("a", l0=4.0), "b": make("b", l0=16.0, spliced=2.2)}
    (text,) = verdict(Records(records.provenance, records.tokens, group))
    assert "No two families overlap in L0 or bits" in text
    assert "the densest, b, recovers" in text
    alone = {"a-4": make("a", l0=4.0), "a-16": make("a", l0=16.0, spliced=2.8)}
    (text,) = verdict(Records(records.provenance, records.tokens, alone))
    assert "overlap" not in text
    assert "hook_mlp_out, a-4 recovers the largest" in text.replace("the densest, ", "")
