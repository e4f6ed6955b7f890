"""The table of how dictionaries were trained."""

from dataclasses import replace

from dictlearn.comparison.tables.training import training_table
from dictlearn.records.results import Records


def told(record, **training):
    return replace(record, provenance=record.provenance.trained(record.seed or 0, **training))


def test_a_row_says_how_a_dictionary_was_trained_and_empty_columns_go(records, make):
    run = {"steps": 2000, "batch_size": 512, "learning_rate": None, "sparsity_warmup_fraction": 0.1}
    group = {
        "dense": told(make("sae", l0=30.0), fit_config=run, final={"fvu": 0.125, "l0": 29.0}),
        "new": told(make("sae", l0=20.0), fit_config=run, learning_rate=2e-4, rows=1_024_000),
        "sparse": told(make("sae", l0=3.0, seed=2), fit_config=run | {"learning_rate": 3e-3}),
        "pca": told(make("pca"), fit_config=run),
    }
    table = training_table(Records(records.provenance, records.tokens, group))
    assert table.headings == [
        "dictionary", "steps", "rows per step", "rows in all", "learning rate",
        "sparsity warm-up", "seed", "L0, in-sample", "FVU, in-sample",
    ]  # fmt: skip
    assert table.texts == [
        ["sparse", "2,000", "512", "", "0.003", "10%", "2", "", ""],
        ["new", "2,000", "512", "1,024,000", "0.0002", "10%", "0", "", ""],
        ["dense", "2,000", "512", "", "default of its kind", "10%", "0", "29.0", "0.125"],
    ], "in the order of L0, without baselines"


def test_what_no_record_says_is_not_shown(records):
    assert training_table(records) is None
