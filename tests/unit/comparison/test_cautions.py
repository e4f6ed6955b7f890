from dataclasses import replace

import torch

from dictlearn.comparison.cautions import cautions
from dictlearn.comparison.report.html import report_html
from dictlearn.comparison.report.markdown import results_page
from dictlearn.comparison.tables.terminal import results_table
from dictlearn.core.metric import Metric
from dictlearn.records.results import Records


def changed(record, **sums):
    metrics = dict(record.metrics)
    if "typical_rows" in sums:
        metrics["massive_fraction"] = Metric(0.01)
        metrics["fraction_variance_unexplained_typical"] = Metric(0.42)
    new = {name: torch.tensor(s, dtype=torch.float64) for name, s in sums.items()}
    return replace(record, sums=record.sums | new, metrics=metrics)


def made(records, *found):
    return replace(records, dictionaries={f"d{i}": record for i, record in enumerate(found)})


def test_ordinary_results_need_none(make, records):
    assert cautions(made(records, make("sae"), make("mean"))) == []


def test_massive_rows_that_hold_much_of_the_variance_are_counted(make, records):
    massive = changed(
        make("sae"), typical_rows=[300.0, 300, 300, 295], typical_variance=[20.0, 20, 20, 24]
    )
    (sentence,) = cautions(made(records, massive))
    assert "5 of 1,200 tokens have norms over 10 times the median" in sentence
    assert "hold 93% of the variance" in sentence
    assert sentence.endswith("FVU without them: d0 0.420.")
    little = changed(make("sae"), typical_rows=[300.0] * 3 + [299], typical_variance=[299.0] * 4)
    assert cautions(made(records, little)) == []


def test_an_ablation_that_costs_no_more_than_noise_has_nothing_to_recover(make, records):
    noise = changed(make("sae"), cross_entropy_zero=[610.0, 590, 604, 598])
    (sentence,) = cautions(made(records, noise))
    assert "zero ablation costs 0.0017 ±" in sentence
    assert "loss recovered relative to zero ablation has no meaning there" in sentence
    clear = changed(make("sae"), cross_entropy_zero=[610.0, 611, 612, 609])
    assert cautions(made(records, clear)) == []


def test_tables_and_pages_print_them(make, records):
    massive = changed(
        make("sae"), typical_rows=[300.0, 300, 300, 295], typical_variance=[20.0, 20, 20, 24]
    )
    both: Records = made(records, massive, make("topk_sae"))
    part = "hold 93% of the variance"
    assert part in str(results_table(both).caption)
    html = report_html(both)
    assert part in html
    assert "FVU without massive rows" in html
    assert "FVU without massive rows" not in report_html(made(records, make("sae")))
    assert part in results_page(both, title="t", about=[], origin="")
