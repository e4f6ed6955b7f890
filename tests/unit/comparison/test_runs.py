import math
from dataclasses import replace

import pandas as pd
import pytest

from dictlearn.comparison.runs import combine, comparison_frame, load_run
from dictlearn.core.errors import InputError, ProvenanceError
from dictlearn.metrics.pooled import METRICS
from dictlearn.records.results import Records


def test_load_run_takes_a_folder_or_its_file(records, make, tmp_path):
    named = Records(records.provenance, records.tokens, {"sae": make("sae", l0=3.0)})
    file = named.save(tmp_path / "first")
    for path in (tmp_path / "first", file, str(file)):
        assert load_run(path).dictionaries["sae"].metrics["l0"].value == 3.0


def test_absent_run_names_the_nearest(records, tmp_path):
    records.save(tmp_path / "baselines")
    with pytest.raises(InputError, match="did you mean 'baselines'"):
        load_run(tmp_path / "baseline")
    with pytest.raises(InputError, match="valid names: 'baselines'"):
        load_run(tmp_path)
    with pytest.raises(InputError, match="no run in"):
        load_run(tmp_path / "baselines" / "deeper" / "results.json")


def test_combine_prefixes_only_names_that_collide(records, make):
    other = Records(
        records.provenance, records.tokens, {"sae": make("sae"), "topk": make("topk")}
    )  # fmt: skip
    combined = combine({"a": records, "b": other})
    assert {"a/sae", "b/sae", "topk", "codes"} <= set(combined.dictionaries)
    assert "sae" not in combined.dictionaries
    assert combined.dictionaries["b/sae"] is other.dictionaries["sae"]


def test_combine_refuses_a_name_that_stays_ambiguous(records, make):
    def one(name):
        return Records(records.provenance, records.tokens, {name: make("sae")})

    with pytest.raises(InputError, match="'a/x'"):
        combine({"a": one("x"), "b": one("x"), "c": one("a/x")})
    with pytest.raises(InputError, match="at least one run"):
        combine({})


def test_runs_of_one_model_in_two_dtypes_are_compared_with_a_warning(records):
    def run(**origin):
        provenance = replace(records.provenance, **origin)
        return Records(provenance, records.tokens, records.dictionaries)

    new = {"weights_hash": "f" * 64, "dtype": "float32"}
    rounded = run(weights_hash="f" * 64, dtype="bfloat16", model_hash="e" * 64)
    with pytest.warns(UserWarning, match="'one' used the model in float32, run 'two' in bfloat16"):
        combine({"one": run(**new), "two": rounded})
    assert combine({"earlier": run(), "now": run(**new)})
    assert combine({"now": run(**new), "earlier": run()})


@pytest.mark.parametrize(
    ("change", "field", "values"),
    [
        ({"tokens": {"hash": "d" * 64}}, "tokens.hash", ("b" * 64, "d" * 64)),
        ({"tokens": {"resample_seed": 1}}, "resample_seed", ("None", "1")),
        ({"origin": {"model_hash": "e" * 64}}, "model_hash", ("a" * 64, "e" * 64)),
        ({"origin": {"exclude_special": False}}, "exclude_special", ("True", "False")),
    ],
)
def test_combine_refuses_runs_that_are_not_comparable(records, change, field, values):
    other = Records(
        replace(records.provenance, **change.get("origin", {})),
        records.tokens | change.get("tokens", {}),
        records.dictionaries,
    )
    with pytest.raises(ProvenanceError, match=f"'one' and 'two'.*{field}") as caught:
        combine({"one": records, "two": other})
    assert all(value in str(caught.value) for value in values)


def test_combine_ignores_what_does_not_change_numbers(records):
    other = Records(replace(records.provenance, versions={"torch": "9"}), records.tokens, {})
    assert list(combine({"a": records, "b": other}).dictionaries) == list(records.dictionaries)


def test_frame_has_what_identifies_and_then_the_metrics(records):
    frame = comparison_frame(records)
    metrics = [metric.name for metric in METRICS]
    assert list(frame.columns) == ["kind", "hook", "n_features", "seed", *metrics]
    assert frame.index.name == "dictionary"
    assert frame.loc["codes", "seed"] == 1
    assert frame.loc["random", "seed"] is pd.NA
    assert frame.loc["sae", "loss_recovered_zero"] == pytest.approx(0.75)
    assert math.isnan(frame.loc["mean", "cosine"])


def test_frame_of_no_dictionaries_is_empty(records):
    assert comparison_frame(Records(records.provenance, records.tokens, {})).empty
