"""Files of every kind of record: as the first version wrote them, to the byte."""

import json
import math
import re
import shutil
from pathlib import Path

import pytest

import dictlearn as dl
from dictlearn.core.errors import CorruptFileError, InputError
from dictlearn.core.metric import Metric
from dictlearn.records.agreement import AgreementRecords
from dictlearn.records.base import metric_from_json, metric_to_json, with_nan, without_nan
from dictlearn.records.concepts import ConceptRecords
from dictlearn.records.features import FeatureRecords
from dictlearn.records.results import Records

SAVED = Path(__file__).parent / "saved"
KINDS = (Records, ConceptRecords, FeatureRecords, AgreementRecords)
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)


@each_kind
def test_a_representation_is_a_line(kind):
    shown = repr(kind.load(SAVED))
    assert re.fullmatch(rf"{kind.__name__}\(.*\w.*\)", shown)
    assert len(shown) < 100


@each_kind
def test_what_is_no_record_of_the_kind_is_refused(kind):
    kind.require(kind.load(SAVED))
    with pytest.raises(InputError, match=rf"{kind.__name__}, as {kind.maker}\(.* got dict$"):
        kind.require({"sae": 1})
    assert callable(getattr(dl, kind.maker))


@each_kind
def test_files_of_the_first_version_load_and_are_written_the_same(kind, tmp_path):
    """But for hashes and lines that later versions have, such as whether it is a baseline."""
    records = kind.load(SAVED)
    assert records.provenance.model == "toy"
    path = records.save(tmp_path)
    assert path == tmp_path / kind.file
    for name in (kind.file, "sums.safetensors"):
        if kind is Records or name == kind.file:
            written = (tmp_path / name).read_bytes()
            if name.endswith(".json"):
                new = (
                    rb'"baseline": (true|false)|"estimates": "[a-z ]+"|"\w*sha256": "[0-9a-f]+"'
                    rb'|"twin_share": null|"controls": \{\}'
                )
                added = rb",\n *(" + new + rb")"
                written = re.sub(added, b"", written).replace(b'"format": 2', b'"format": 1')
            written = written.replace(b'{"format":"2"}', b'{"format":"1"}')
            assert written == (SAVED / name).read_bytes()
    assert repr(kind.load(path)) == repr(records)
    assert "<table" in records._repr_html_()


@each_kind
def test_other_versions_and_broken_files_are_refused(kind, tmp_path):
    shutil.copytree(SAVED, tmp_path, dirs_exist_ok=True)
    path = tmp_path / kind.file
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"format": 99}))
    with pytest.raises(CorruptFileError, match=rf"required {kind.kind} format 2, got 99; \w+"):
        kind.load(tmp_path)
    path.write_text(json.dumps({key: data[key] for key in ("format", "tokens", "provenance")}))
    with pytest.raises(CorruptFileError, match="missing or malformed"):
        kind.load(tmp_path)
    path.write_text(json.dumps(data | {"provenance": []}))
    with pytest.raises(CorruptFileError, match="missing or malformed"):
        kind.load(tmp_path)
    with pytest.raises(CorruptFileError, match="cannot be read"):
        kind.load(tmp_path / "elsewhere")


def test_concepts_without_random_features_are_to_be_evaluated_again(tmp_path):
    """Earlier files have another precision under the same name."""
    data = json.loads((SAVED / "concepts.json").read_text())
    del data["without_interval"]
    (tmp_path / "concepts.json").write_text(json.dumps(data))
    with pytest.raises(CorruptFileError, match="without random features; evaluate again"):
        ConceptRecords.load(tmp_path)


@each_kind
def test_a_file_of_another_is_not_overwritten(kind, tmp_path):
    (tmp_path / kind.file).write_text("mine")
    with pytest.raises(InputError, match=kind.file):
        kind.load(SAVED).save(tmp_path)
    assert (tmp_path / kind.file).read_text() == "mine"


def test_undefined_numbers_come_back():
    entry = {"a": math.nan, "b": [1.0, math.nan], "c": "text", "d": 2}
    plain = without_nan(entry)
    assert plain == {"a": None, "b": [1.0, None], "c": "text", "d": 2}
    assert repr(with_nan(plain)) == repr(entry)
    for metric in (Metric(0.1 + 0.2), Metric(math.nan, "why")):
        assert repr(metric_from_json(metric_to_json(metric))) == repr(metric)
    assert metric_to_json(Metric(math.inf))["reason"] == "not finite: inf"
