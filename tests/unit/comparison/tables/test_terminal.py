import io

import torch
from rich.console import Console

from dictlearn.comparison.tables.matched import matched_tables
from dictlearn.comparison.tables.terminal import as_terminal, intervals_table, results_table, tables
from dictlearn.core.metric import Metric
from dictlearn.metrics.intervals import student_quantile
from dictlearn.records.results import Records


def printed(records, width=110, make=results_table):
    stream = io.StringIO()
    Console(file=stream, width=width).print(make(records))
    return stream.getvalue()


def test_table_fits_and_tells_the_numbers(records):
    text = printed(records)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 110
    row = next(line for line in text.splitlines() if line.strip().startswith("codes"))
    assert row.split() == [
        "codes", "codebook", "4", "4.0", "25.0%", "0.250", "0.900", "2.800", "0.600", "0.200",
        "0.100", "0.800",
    ]  # fmt: skip
    assert "clean 2.000, zero ablation 4.000, mean ablation 3.000" in text
    assert "toy, blocks.0.hook_mlp_out" in text
    assert "1,200 tokens of stories (held_out)" in text


def test_missing_values_have_footnotes(records):
    text = printed(records)
    row = next(line for line in text.splitlines() if line.strip().startswith("mean "))
    assert "\N{EN DASH}¹" in row
    assert "\N{EN DASH}²" in row
    assert "² the estimate has no direction" in text


def test_baselines_come_last_whatever_their_order(records):
    shuffled = dict(sorted(records.dictionaries.items(), key=lambda item: item[1].kind != "mean"))
    text = printed(Records(records.provenance, records.tokens, shuffled))
    first_words = [line.split()[0] for line in text.splitlines() if line.strip()]
    assert first_words.index("codes") < first_words.index("mean") < first_words.index("random")


def test_names_are_not_markup(records, make):
    only = Records(records.provenance, records.tokens, {"[red]x[/red]": make("sae")})
    assert "[red]x[/red]" in printed(only)


def test_several_targets_are_distinguished(records, make):
    late = {"late": make("sae", hook="blocks.1.mlp", source="blocks.1.in")}
    text = printed(Records(records.provenance, records.tokens, records.dictionaries | late))
    assert "blocks.1.in" in text
    assert "Cross-entropy at blocks.1.mlp" in text


def test_intervals_have_a_table_that_fits(records):
    records.dictionaries["sae"].metrics["bits"] = Metric(123.4)
    text = printed(records, make=intervals_table)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 110
    row = next(line for line in text.splitlines() if line.strip().startswith("sae "))
    assert row.split() == [
        "sae", "8.0", "\N{EN DASH}", "\N{EN DASH}", "123.4", "0.250", "±<0.001", "0.750", "±<0.001",
        "0.100", "±<0.001", "0.800", "±<0.001",
    ]  # fmt: skip


def test_bits_have_intervals_where_they_were_measured(records):
    record = records.dictionaries["sae"]
    lengths = 300 * torch.tensor([120.0, 124.0, 124.0, 124.0], dtype=torch.float64)
    record.sums.update({"bits": lengths, "support_bits": lengths / 2})
    record.metrics["bits"] = Metric(123.0)
    record.metrics["support_bits"] = record.metrics["coefficient_bits"] = Metric(61.5)
    text = printed(records, make=intervals_table)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 110
    row = next(line for line in text.splitlines() if line.strip().startswith("sae "))
    half = student_quantile(3) * 1.0  # the standard error of four lengths with variance 4
    assert row.split()[2:8] == [
        "61.5", f"±{half / 2:.1f}", "61.5", f"±{half / 2:.1f}", "123.0", f"±{half:.1f}",
    ]  # fmt: skip


def test_families_at_equal_rates_have_a_table_that_fits(records, make):
    found = {
        f"{kind}-{seed}-{k}": make(kind, l0=k, seed=seed, fvu=fvu + seed / 100)
        for kind, fvu in (("a_rather_long_kind", 0.3), ("b", 0.4)) for seed in (0, 1)
        for k in (4, 16)
    }  # fmt: skip
    overlap = Records(records.provenance, records.tokens, found)
    text = printed(overlap, make=lambda r: as_terminal(matched_tables(r)[0]))
    lines = [line.rstrip() for line in text.splitlines()]
    assert max(map(len, lines)) <= 110
    assert "at equal L0" in lines[0]
    row = next(line for line in lines if " b " in line)
    assert "0.405 ±<0.001" in row
    assert "0.100 ±0.030" in row, "two seeds against two: 4.3 times 0.007"
    assert "2 seeds: sd 0.007" in text
    assert len(tables(overlap)) == 3


def test_tables_that_would_be_empty_are_left_out(records):
    del records.dictionaries["random"]
    assert len(tables(records)) == 2
    for record in records.dictionaries.values():
        record.sums.update({name: s[:1] for name, s in record.sums.items()})
    assert len(tables(records)) == 1
