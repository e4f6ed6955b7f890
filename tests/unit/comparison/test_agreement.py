"""Maps, histograms and the section about agreement, from records made by hand."""

import math
from html import escape

import pytest

from dictlearn.comparison.agreement import (
    MEASURE_LABELS,
    agreement_figure,
    agreement_section,
    similarity_histogram,
)
from dictlearn.core.errors import InputError
from dictlearn.core.provenance import Provenance
from dictlearn.core.sites import Site, Sites
from dictlearn.records.agreement import (
    MEASURES,
    SIMILARITY_BINS,
    AgreementRecords,
    FeatureSummary,
    PairAgreement,
)

HERE = Sites(Site("here", 4), Site("here", 4))


def counts(similarity):
    found = [0] * SIMILARITY_BINS
    found[min(int((similarity + 1) / 2 * SIMILARITY_BINS), SIMILARITY_BINS - 1)] = 7
    return found


def pair(first, second, mmcs):
    if math.isnan(mmcs):
        return PairAgreement(first=first, second=second, reasons={"mmcs": "<other> targets"})
    return PairAgreement(
        first=first, second=second, mmcs=mmcs, cosine_counts=counts(mmcs), matched=0.5,
        matched_share=0.25, reasons={"correlation": "needs a model and tokens"},
    )  # fmt: skip


def summary(kind, seed=None, **fields):
    return FeatureSummary(
        kind=kind, sites=HERE, n_features=7, n_compared=7, seed=seed,
        neurons_per_feature=[1.0, 2.0, 3.0], **fields,
    )  # fmt: skip


def make(kinds, values):
    dictionaries = {
        name: summary(kind, reasons={"ultralow": "too few rows"}) for name, kind in kinds.items()
    }
    pairs = [pair(a, b, values.get((a, b), 0.5)) for a in kinds for b in kinds if a != b]
    return AgreementRecords(Provenance(), {}, {"ultralow": 1e-5}, dictionaries, pairs)


@pytest.fixture
def records(hostile):
    kinds = {"random": "random", "sae": "sae", hostile: "topk", "sae-2": "sae"}
    values = {("sae", "sae-2"): 0.9, ("sae-2", "sae"): 0.8, ("random", hostile): math.nan}
    return make(kinds, values)


def test_rows_are_looked_for_in_columns(records, hostile):
    figure = agreement_figure(records)
    (drawn,) = figure.data
    assert figure.layout.yaxis.ticktext == ("sae", "sae-2", escape(hostile[:9]) + "…" + escape(
        hostile[-6:]), "random")  # fmt: skip
    assert figure.layout.yaxis.autorange == "reversed"
    assert (drawn.z[0][1], drawn.z[1][0]) == (0.9, 0.8)
    assert [drawn.z[i][i] for i in range(4)] == [None] * 4
    assert "features of sae<br>among those of sae-2<br>mean max cosine 0.900" in drawn.customdata[0]
    assert drawn.z[3][2] is None
    assert "&lt;other&gt; targets" in drawn.customdata[3][2]
    assert hostile not in str(drawn.customdata)


def test_every_measure_has_a_map(records):
    assert set(MEASURE_LABELS) == set(MEASURES)
    shares = agreement_figure(records, "matched_share").data[0]
    assert shares.z[0][1] == 0.25
    assert "share matched above 0.9 0.250" in shares.customdata[0][1]
    missing = agreement_figure(records, "correlation_median").data[0]
    assert missing.z[0][1] is None
    assert "needs a model and tokens" in missing.customdata[0][1]
    with pytest.raises(InputError, match="mmcs"):
        agreement_figure(records, "mmc")


def test_many_dictionaries_scroll_in_a_box_of_their_own():
    few, many = (make({f"sae-{i}": "sae" for i in range(n)}, {}) for n in (3, 14))
    assert agreement_figure(few).layout.width is None
    assert agreement_figure(many).layout.width > 500
    start = '<div class="scroll"><div class="plot">'
    assert start not in agreement_section(few)
    assert agreement_section(many).count(start) == 2
    assert "The first 12 of 14 dictionaries are drawn." in agreement_section(many)


def test_histograms_lie_where_the_similarities_are(records, hostile):
    figure = similarity_histogram(records, [("sae", "sae-2"), ("random", hostile)])
    (bars,) = figure.data  # the other pair has no values
    assert [x for x, y in zip(bars.x, bars.y, strict=True) if y] == [pytest.approx(0.925)]
    assert sum(bars.y) == 7
    assert figure.layout.annotations[0].text == "sae in sae-2: mean 0.90"
    assert len(similarity_histogram(records).data) == 11
    assert len(similarity_histogram(records, quantity="correlation").data) == 0
    with pytest.raises(InputError, match="'cosine' or 'correlation'"):
        similarity_histogram(records, quantity="angle")
    with pytest.raises(InputError, match="no pair"):
        similarity_histogram(records, [("sae", "nobody")])


def test_the_section_says_what_is_known_and_why_not_the_rest(records, hostile):
    text = agreement_section(records)
    assert text.startswith("<section><h2>")
    assert 'id="agreement-mmcs"' in text
    assert 'id="agreement-matched"' in text
    assert "agreement-correlation" not in text
    assert 'id="similarity-cosine"' in text
    assert "sae in sae-2: mean 0.90" in text
    assert "1 – 2 – 3" in text
    assert "¹ too few rows" in text
    assert hostile not in text
    assert text.index('name">sae<') < text.index('name">random<')


def test_one_beginning_is_told():
    records = make({"a": "sae", "b": "topk", "c": "sae", "pca": "pca", "r": "random"}, {})
    seeds = {"a": 0, "b": 0, "c": 1, "pca": 0, "r": 0}
    for name, kind in (("a", "sae"), ("b", "topk"), ("c", "sae"), ("pca", "pca"), ("r", "random")):
        records.dictionaries[name] = summary(kind, seed=seeds[name])
    text = agreement_section(records)
    assert "a, b, r have one seed and size" in text
    assert text.count("have one seed") == 1
