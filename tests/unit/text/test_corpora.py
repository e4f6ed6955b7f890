import gzip
import json
import lzma
import time
from importlib.resources import files
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dictlearn.core.errors import CorruptFileError, InputError
from dictlearn.text.columns import Column
from dictlearn.text.corpora import BUILTIN_CORPORA, documents


def write_jsonl(path: Path, *entries: object) -> Path:
    path.write_text("".join(json.dumps(e) + "\n" for e in entries), encoding="utf-8")
    return path


def test_txt_is_cut_at_separator_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\n\nstill one\n<|endoftext|>\n\n<|endoftext|>\ntwo\n", encoding="utf-8")
    assert list(documents(path)) == ["one\n\nstill one", "two"]


def test_txt_without_separators_is_cut_at_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\nstill one\n\n \ntwo <|endoftext|>", encoding="utf-8")
    assert list(documents(str(path))) == ["one\nstill one", "two <|endoftext|>"]


def test_jsonl_holds_strings_or_objects(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", "one", {"text": "two", "id": 7}, "", " ")
    assert list(documents(path)) == ["one", "two"]


@pytest.mark.parametrize(("suffix", "opener"), [(".xz", lzma.open), (".gz", gzip.open)])
def test_compressed_files(tmp_path: Path, suffix: str, opener) -> None:
    with opener(tmp_path / f"a.jsonl{suffix}", "wt") as file:
        file.write('"é"\n')
    with opener(tmp_path / f"b.txt{suffix}", "wt") as file:
        file.write("one\n\ntwo")
    assert list(documents(tmp_path)) == ["é", "one", "two"]


def test_parquet(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"id": [1, 2, 3], "text": ["one", None, "three"]}), tmp_path / "a.parquet"
    )
    assert list(documents(tmp_path / "a.parquet")) == ["one", "three"]


def test_folder_is_read_by_name_and_passes_over_other_files(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "b.jsonl", "two")
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "README.md").write_text("not text")
    assert list(documents(tmp_path)) == ["one", "two"]


def test_builtin_stories() -> None:
    if not (files("dictlearn.assets") / "stories" / "corpus.jsonl.xz").is_file():
        pytest.skip("the built-in corpus is not there yet")
    assert len(next(documents("builtin:stories"))) > 100


def test_absent_builtin_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUILTIN_CORPORA, "builtin:stories", "stories/absent.jsonl.xz")
    with pytest.raises(CorruptFileError, match=r"absent\.jsonl\.xz: cannot be read"):
        next(documents("builtin:stories"))


def test_hugging_face_source_is_streamed(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", {"text": "one"}, {"text": ""}, {"text": "two"})
    assert list(documents(f"hf:{tmp_path}")) == ["one", "two"]


def test_absent_hugging_face_dataset(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="could not be opened"):
        list(documents(f"hf:{tmp_path / 'absent'}"))


def test_a_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    began = time.monotonic()
    with pytest.raises(InputError, match=r"could not be opened \(http\S* does not answer"):
        documents("hf:someone/something")
    assert time.monotonic() - began < 4


def as_jsonl(folder: Path, rows: list[dict]) -> object:
    return write_jsonl(folder / "a.jsonl", *rows)


def as_parquet(folder: Path, rows: list[dict]) -> object:
    pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet")
    return folder / "a.parquet"


def as_folder(folder: Path, rows: list[dict]) -> object:
    pq.write_table(pa.Table.from_pylist(rows), folder / "train.parquet")
    return f"hf:{folder}"


def as_dataset(folder: Path, rows: list[dict]) -> object:
    return datasets.Dataset.from_list(rows)


in_each_format = pytest.mark.parametrize("save", [as_jsonl, as_parquet, as_folder, as_dataset])


@in_each_format
def test_a_column_is_named_and_empty_rows_are_counted(save, tmp_path: Path) -> None:
    rows = [{"id": i, "story": s} for i, s in enumerate(["one", None, "", " \n", "two"])]
    column = Column("story")
    assert list(documents(save(tmp_path, rows), column)) == ["one", "two"]
    assert (column.n_read, column.n_skipped) == (5, 3)


@in_each_format
def test_a_missing_column_is_refused_with_those_there_are(save, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"row 1: required a column 'text', got id, story"):
        list(documents(save(tmp_path, [{"id": 1, "story": "one"}])))


@in_each_format
@pytest.mark.parametrize("value", [7, 1.5, ["one", "two"], [1, 2], {"a": "b"}])
def test_what_is_no_text_is_refused_by_row_and_column(save, value, tmp_path: Path) -> None:
    rows = [{"story": None}, {"story": value}]
    kind = type(value).__name__
    message = rf"row 2: required text or messages in column 'story', got {kind} .*--ids-column"
    with pytest.raises(InputError, match=message):
        list(documents(save(tmp_path, rows), Column("story")))


@in_each_format
def test_token_ids_and_messages_are_documents(save, tmp_path: Path) -> None:
    said = [{"role": "user", "content": "one"}]
    source = save(tmp_path, [{"ids": [4, 5], "said": said}, {"ids": None, "said": None}])
    assert list(documents(source, Column("ids", holds_ids=True))) == [[4, 5]]
    assert list(documents(source, Column("said"))) == [said]
    with pytest.raises(InputError, match=r"row 1: required token ids .* got list"):
        list(documents(source, Column("said", holds_ids=True)))


def test_a_split_of_a_data_set_is_named(tmp_path: Path) -> None:
    for name in ("train", "test"):
        write_jsonl(tmp_path / f"{name}.jsonl", {"text": name})
    assert list(documents(f"hf:{tmp_path}")) == ["train"]
    assert list(documents(f"hf:{tmp_path}", dataset_split="test")) == ["test"]
    with pytest.raises(InputError, match=r"could not be opened .*[Bb]ad split"):
        list(documents(f"hf:{tmp_path}", dataset_split="tset"))
    with pytest.raises(InputError, match=r"needs a data set with splits .* got train\.jsonl"):
        documents(tmp_path / "train.jsonl", dataset_split="test")
    parts = datasets.DatasetDict(
        {name: datasets.Dataset.from_dict({"text": [name]}) for name in ("train", "test")}
    )
    assert list(documents(parts)) == ["train"]
    assert list(documents(parts, dataset_split="test")) == ["test"]
    with pytest.raises(InputError, match="no split 'tset'; did you mean 'test'"):
        documents(parts, dataset_split="tset")


def test_texts_at_hand() -> None:
    assert list(documents(["one", "", "two"])) == ["one", "two"]
    assert list(documents(text for text in ("one", "two"))) == ["one", "two"]
    with pytest.raises(InputError, match=r"list in memory, row 2: required text .* got int 7"):
        list(documents(["one", 7]))


def test_unknown_source_is_refused_at_once_with_the_nearest_file(tmp_path: Path) -> None:
    (tmp_path / "stories.jsonl").write_text('"one"')
    with pytest.raises(InputError, match=r"did you mean 'stories\.jsonl'"):
        documents(tmp_path / "storys.jsonl")
    with pytest.raises(InputError, match=r"did you mean 'builtin:stories'.*hf:NAME:CONFIG"):
        documents("builtin:storys")
    with pytest.raises(InputError, match="no text source"):
        documents(tmp_path / "no" / "such" / "folder.txt")
    (tmp_path / "a.doc").touch()
    with pytest.raises(InputError, match="not known by its ending"):
        documents(tmp_path / "a.doc")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="a folder with text files"):
        documents(tmp_path / "empty")


def test_bad_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('"one"\n\n{"text": \n')
    with pytest.raises(CorruptFileError, match=r"a\.jsonl, line 3: not valid JSON"):
        list(documents(path))
    path.write_text('"one"\n{"story": "two"}\n')
    with pytest.raises(InputError, match=r"a\.jsonl, row 2: required a column 'text', got story"):
        list(documents(path))


def test_source_without_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n \n")
    with pytest.raises(InputError, match="at least one document"):
        list(documents(tmp_path / "a.txt"))
