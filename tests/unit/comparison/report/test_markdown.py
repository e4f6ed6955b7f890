"""The Markdown page of a comparison."""

from markupsafe import escape

from dictlearn.comparison.report.markdown import results_page
from dictlearn.comparison.report.templates import escaped_markdown
from dictlearn.comparison.report.verdict import verdict
from dictlearn.records.results import Records


def tables(page: str) -> list[list[list[str]]]:
    """The cells of every table, headings first."""
    found = []
    for block in page.split("\n\n"):
        if block.startswith("| "):
            lines = [line[2:-2].split(" | ") for line in block.splitlines()]
            assert len({len(line) for line in lines}) == 1, "rows of one length"
            assert set(lines[1]) == {"---"}
            found.append([lines[0], *lines[2:]])
    return found


def test_the_page_opens_with_where_it_comes_from_and_the_verdict(records):
    page = results_page(records, "Toys", about=["Written by `toys`."], images={"curve": "a.svg"})
    assert page.startswith("# Toys\n\nWritten by <code>toys</code>.\n\n")
    assert all(str(escape(escaped_markdown(text))) in page for text in verdict(records))
    assert "![curve](a.svg)" in page
    assert f"{records.tokens['n_tokens']:,} tokens" in page


def test_seeds_of_one_dictionary_are_one_row_with_their_spread(records, make):
    group = {
        "sae_1 s0": make("sae", fvu=0.2, seed=0),
        "sae_1 s1": make("sae", fvu=0.4, seed=1),
        "mean": make("mean", l0=0.0, fvu=1.0),
    }
    (table,) = tables(results_page(Records(records.provenance, records.tokens, group), "Toys"))
    rows = {row[0]: dict(zip(table[0], row, strict=True)) for row in table[1:]}
    assert list(rows) == ["sae_1", "mean"], "baselines last"
    assert rows["sae_1"]["FVU"] == "0.300 (0.141)"
    assert rows["mean"]["FVU"] == "1.000"


def test_families_at_equal_rates_have_a_table(records, make):
    group = {
        f"{kind}_{l0}": make(kind, l0=l0, spliced=loss)
        for kind, worse in (("sae", 0.2), ("topk_sae", 0.0))
        for l0, loss in ((2.0, 3.0 + worse), (30.0, 2.1 + worse))
    }
    page = results_page(Records(records.provenance, records.tokens, group), "Toys")
    matched = tables(page)[0]
    assert [row[1] for row in matched[1:3]] == ["sae", "topk_sae"]
    assert "best" in matched[2]


def test_names_cannot_break_a_table(records, make):
    group = {"a|b": make("sae")}
    page = results_page(Records(records.provenance, records.tokens, group), "Toys")
    assert "a\\|b" in page
