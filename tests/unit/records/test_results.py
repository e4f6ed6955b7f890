"""Records: everything that an evaluation leaves comes back from its two files."""

import json
import math

import pytest
import torch

from dictlearn.core.errors import CorruptFileError, StorageError
from dictlearn.core.files import write_json
from dictlearn.core.metric import Metric
from dictlearn.core.provenance import Provenance
from dictlearn.core.sites import Site, Sites
from dictlearn.records.results import DictionaryRecord, Records

TOKENS = {"source": "s", "split": "held_out", "hash": "h", "n_tokens": 9, "n_sequences": 3}


def record(number: float, **changes) -> DictionaryRecord:
    fields = {
        "kind": "sae",
        "sites": Sites(Site("in", 2), Site("out", 3)),
        "n_features": 4,
        "provenance": Provenance(model="m", seed=1),
        "metrics": {
            "l0": Metric(number),
            "cosine": Metric(0.1 + 0.2),
            "norm_ratio": Metric(math.nan, "every target is zero"),
        },
        "sums": {"rows": torch.full((3,), number, dtype=torch.float64)},
        "density": torch.tensor([0.0, 0.5, 1.0, number]),
    }
    return DictionaryRecord(**(fields | changes))


def records(**dictionaries: DictionaryRecord) -> Records:
    return Records(Provenance(model="m"), TOKENS, dictionaries)


def test_representations_fit_a_line():
    one = record(2.5, metrics={"l0": Metric(2.5), "fraction_variance_unexplained": Metric(0.125)})
    shown = (
        "DictionaryRecord(sae, 4 features, in -> out, l0 2.5, fraction_variance_unexplained 0.125)"
    )
    assert repr(one) == shown
    assert repr(records(a=one, b=one)) == "Records(a, b)"
    many = records(**{f"d{i}": one for i in range(20)})
    assert repr(many) == "Records(d0, d1, d2, d3, d4, d5 and 14 more)"
    assert repr(records()) == "Records(none)"


def assert_equal(a: DictionaryRecord, b: DictionaryRecord) -> None:
    assert (a.kind, a.sites, a.n_features, a.provenance) == (
        b.kind, b.sites, b.n_features, b.provenance,
    )  # fmt: skip
    assert repr(a.metrics) == repr(b.metrics)  # nan differs from itself
    assert a.sums.keys() == b.sums.keys()
    for key in a.sums:
        assert torch.equal(a.sums[key], b.sums[key])
        assert a.sums[key].dtype == b.sums[key].dtype == torch.float64
    assert torch.equal(a.density, b.density)


def test_round_trip(tmp_path):
    saved = records(one=record(1.0), two=record(2.0, provenance=Provenance()))
    path = saved.save(tmp_path / "run")
    assert path == tmp_path / "run" / "results.json"
    for where in (path, path.parent):
        loaded = Records.load(where)
        assert loaded.provenance == saved.provenance
        assert loaded.tokens == TOKENS
        assert list(loaded.dictionaries) == ["one", "two"]
        for name in saved.dictionaries:
            assert_equal(loaded.dictionaries[name], saved.dictionaries[name])
    assert loaded.dictionaries["one"].seed == 1
    assert loaded.dictionaries["two"].seed is None


def test_names_with_slashes_stay_apart(tmp_path):
    names = ["a", "a/sums/x", "run/a", "b/run/a"]
    saved = records(**{name: record(float(i)) for i, name in enumerate(names)})
    saved.save(tmp_path)
    loaded = Records.load(tmp_path)
    assert list(loaded.dictionaries) == names
    for name in names:
        assert_equal(loaded.dictionaries[name], saved.dictionaries[name])


def test_no_value_is_null_with_a_reason(tmp_path):
    metrics = {"a": Metric(math.nan, "why"), "b": Metric(math.inf), "c": Metric(0.25)}
    data = json.loads(records(d=record(0.0, metrics=metrics)).save(tmp_path).read_text())
    assert data["format"] == 2
    assert data["model"] == "m"
    assert data["dictionaries"]["d"]["metrics"] == {
        "a": {"value": None, "reason": "why"},
        "b": {"value": None, "reason": "not finite: inf"},
        "c": {"value": 0.25},
    }
    loaded = Records.load(tmp_path).dictionaries["d"].metrics
    assert math.isnan(loaded["a"].value)
    assert loaded["a"].reason == "why"


def test_pandas():
    frame = records(one=record(1.0), two=record(2.0)).to_pandas()
    assert list(frame.index) == ["one", "two"]
    assert frame.index.name == "dictionary"
    assert list(frame.columns) == ["l0", "cosine", "norm_ratio"]
    assert frame.loc["two", "l0"] == 2.0
    assert "<table" in records(one=record(1.0))._repr_html_()


def test_another_format_is_refused(tmp_path):
    path = records(d=record(0.0)).save(tmp_path)
    path.write_text(path.read_text().replace('"format": 2', '"format": 3'))
    with pytest.raises(CorruptFileError, match=r"results\.json: required results format 2, got 3"):
        Records.load(tmp_path)


@pytest.mark.parametrize("key", ["dictionaries", "provenance", "tokens"])
def test_a_missing_entry_is_named(tmp_path, key):
    path = records(d=record(0.0)).save(tmp_path)
    data = json.loads(path.read_text())
    del data[key]
    write_json(path, data)
    with pytest.raises(CorruptFileError, match=key):
        Records.load(tmp_path)


def test_sums_of_another_run_are_refused(tmp_path):
    records(d=record(0.0)).save(tmp_path / "a")
    records(e=record(0.0)).save(tmp_path / "b")
    (tmp_path / "b" / "sums.safetensors").replace(tmp_path / "a" / "sums.safetensors")
    with pytest.raises(CorruptFileError, match=r"sums\.safetensors: was altered"):
        Records.load(tmp_path / "a")


def test_a_file_in_the_way_is_a_storage_error(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(StorageError):
        records(d=record(0.0)).save(tmp_path / "run")
