import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, GPT2Config, PreTrainedTokenizerFast

from dictlearn.core.errors import InputError
from dictlearn.core.tokens import Tokens
from dictlearn.harvesting import harvest
from dictlearn.lm.loading import load_model
from dictlearn.lm.sites import hook_sites
from dictlearn.text import tokens as tokens_module
from dictlearn.text.corpora import source_hash
from dictlearn.text.tokens import hash_ids, load_tokens, split_of

WORDS = ["<unk>", "<s>", "</s>", *"abcdefgh", "<", "s", ">", "/", "|"]
BOS, EOS, A = 1, 2, 3


def model(n_ctx: int = 8, **special: str | None) -> SimpleNamespace:
    """A tokenizer of single characters, on what else `load_tokens` looks at."""
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"} | special
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    return SimpleNamespace(tokenizer=wrapped, cfg=SimpleNamespace(n_ctx=n_ctx, d_vocab=len(WORDS)))


def write(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps(t) + "\n" for t in texts))
    return path


def of_split(split: str, n: int, length: int = 5) -> list[str]:
    """`n` different documents of one split."""
    found: list[str] = []
    for i in range(8**length):
        text = "".join("abcdefgh"[i // 8**k % 8] for k in range(length))
        if split_of(text) == split:
            found.append(text)
        if len(found) == n:
            return found
    raise AssertionError


@pytest.fixture
def train_file(tmp_path: Path) -> Path:
    return write(tmp_path / "a.jsonl", of_split("train", 40))


def ids_of(text: str) -> list[int]:
    return [WORDS.index(c) for c in text]


def test_blocks_are_the_stream_behind_a_leading_bos(train_file: Path) -> None:
    texts = of_split("train", 40)
    tokens = load_tokens(train_file, model(), context=8)
    first = [BOS, *ids_of(texts[0]), BOS, *ids_of(texts[1])][:8]
    assert tokens.ids[0].tolist() == first
    assert tokens.ids.dtype == torch.int64
    assert (tokens.ids[:, 0] == BOS).all()
    assert not ((tokens.ids[:, 0] == BOS) & (tokens.ids[:, 1] == BOS)).any()
    text = [i for row in tokens.ids.tolist() for i in row if i != BOS]
    stream = [i for t in texts for i in ids_of(t)]
    assert text == stream[: len(text)]
    assert len(stream) - len(text) < 8
    assert torch.equal(tokens.ordinary, tokens.ids != BOS)
    assert (tokens.source, tokens.split) == ("a.jsonl", "train")


def test_whole_documents_are_not_cut_and_blocks_are_filled_up(tmp_path: Path) -> None:
    lengths = [2, 3, 5, 7, 1]  # with a separator each: 3 + 4 fit in 8; 6; 8; 2
    texts = [of_split("train", 1, length)[0] for length in lengths]
    tokens = load_tokens(write(tmp_path / "a.jsonl", texts), model(), whole_documents=True)
    a, b, c, d, e = map(ids_of, texts)
    assert tokens.ids.tolist() == [
        [BOS, *a, BOS, *b, BOS],
        [BOS, *c, BOS, BOS],
        [BOS, *d],
        [BOS, *e, *[BOS] * 6],
    ]
    assert tokens.n_tokens == sum(lengths)


def test_a_document_longer_than_a_block_is_cut(tmp_path: Path) -> None:
    text = of_split("train", 1, length=9)
    tokens = load_tokens(write(tmp_path / "a.jsonl", text), model(), whole_documents=True)
    ids = ids_of(text[0])
    assert tokens.ids.tolist() == [[BOS, *ids[:7]], [BOS, *ids[7:], *[BOS] * 5]]


def test_whole_documents_need_a_separator(train_file: Path) -> None:
    bare = model(bos_token=None, eos_token=None)
    with pytest.raises(InputError, match="BOS or EOS"):
        load_tokens(train_file, bare, whole_documents=True)


def test_separator_at_a_cut_is_not_doubled(tmp_path: Path) -> None:
    texts = of_split("train", 4, length=3)
    tokens = load_tokens(write(tmp_path / "a.jsonl", texts), model(), context=4)
    assert tokens.ids.tolist() == [[BOS, *ids_of(t)] for t in texts]


def test_packing_does_not_depend_on_batching(
    train_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load_tokens(train_file, model())
    monkeypatch.setattr(tokens_module, "_BATCH_CHARACTERS", 7)
    assert torch.equal(load_tokens(train_file, model()).ids, whole.ids)


def test_separator_falls_back_to_eos_then_to_nothing(train_file: Path) -> None:
    with_eos = load_tokens(train_file, model(bos_token=None))
    assert (with_eos.ids[:, 0] == EOS).all()
    bare = load_tokens(train_file, model(bos_token=None, eos_token=None))
    assert bare.ids.flatten().tolist() == [i for t in of_split("train", 40) for i in ids_of(t)]
    assert bare.ordinary.all()


def test_special_tokens_spelled_out_stay_text(tmp_path: Path) -> None:
    text = next(t for t in (f"<s>{x}</s>" for x in of_split("train", 99)) if split_of(t) == "train")
    path = write(tmp_path / "a.jsonl", [text])
    with pytest.warns(UserWarning, match=r"1 documents of a\.jsonl spell .* such as '<s>'.*True"):
        tokens = load_tokens(path, model(), context=8)
    assert tokens.ids[0].tolist() == [BOS, *ids_of(text)][:8]
    assert tokens.ordinary[0].tolist() == [False] + [True] * 7


def test_special_tokens_spelled_out_are_control_tokens_if_asked_for() -> None:
    """Also those that are neither BOS nor EOS nor any other named one."""
    turns = model()
    turns.tokenizer.add_tokens([AddedToken("|", special=True)])
    text = next(t for t in (f"|{x}</s>" for x in of_split("train", 99)) if split_of(t) == "train")
    tokens = load_tokens([text], turns, context=8, control_tokens=True)
    assert tokens.ids[0].tolist() == [BOS, WORDS.index("|"), *ids_of(text[1:6]), EOS]
    assert tokens.ordinary[0].tolist() == [False] * 2 + [True] * 5 + [False]
    assert torch.equal(
        load_tokens([text], turns, context=7, control_tokens=True, separator="|").ids,
        torch.tensor([[WORDS.index("|"), *ids_of(text[1:6]), EOS]]),
    )
    with pytest.warns(UserWarning, match=r"such as '\|'"):
        assert load_tokens([text], turns, context=8).ids[0, 1] == WORDS.index("|")


def test_a_separator_is_named(train_file: Path) -> None:
    tokens = load_tokens(train_file, model(), separator="|")
    assert (tokens.ids[:, 0] == WORDS.index("|")).all()
    assert torch.equal(tokens.ordinary, tokens.ids != WORDS.index("|"))
    with pytest.raises(InputError, match=r"got '</t>'; did you mean .*'</s>'"):
        load_tokens(train_file, model(), separator="</t>")


def test_unknown_tokens_are_special(tmp_path: Path) -> None:
    text = next(t for t in (x + "??" for x in of_split("train", 99)) if split_of(t) == "train")
    tokens = load_tokens(write(tmp_path / "a.jsonl", [text]), model(), context=8)
    assert tokens.ordinary[0].tolist() == [False] + [True] * 5 + [False] * 2


def test_a_token_behind_the_embedding_separates_nothing(train_file: Path) -> None:
    """TransformerLens adds one to a tokenizer without special tokens."""
    wrapped = model(bos_token=None, eos_token=None)
    wrapped.tokenizer.add_special_tokens({"eos_token": "<|endoftext|>"})
    wrapped.tokenizer.bos_token = "<|endoftext|>"
    tokens = load_tokens(train_file, wrapped)
    assert tokens.ids.flatten().tolist() == [i for t in of_split("train", 40) for i in ids_of(t)]


def test_a_loaded_model_whose_tokenizer_has_no_special_tokens_is_harvested(
    train_file: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16}
    config = GPT2Config(**sizes, vocab_size=len(WORDS), bos_token_id=1, eos_token_id=2)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    model(unk_token=None, bos_token=None, eos_token=None).tokenizer.save_pretrained(folder)
    loaded = load_model(folder, "cpu")
    assert loaded.tokenizer.eos_token_id == len(WORDS)
    tokens = load_tokens(train_file, loaded)
    assert int(tokens.ids.max()) < len(WORDS)
    assert harvest(loaded, tokens, hook_sites(loaded, "hook_embed"), progress=False).n_rows


def test_an_id_outside_the_vocabulary_is_refused_by_its_token(tmp_path: Path) -> None:
    text = next(t for t in (x + "|" for x in of_split("train", 99)) if split_of(t) == "train")
    small = model()
    small.cfg.d_vocab = WORDS.index("|")
    with pytest.raises(InputError, match=rf"from 0 to {WORDS.index('|') - 1}.* \('\|'\)"):
        load_tokens(write(tmp_path / "a.jsonl", [text]), small)


def test_texts_in_a_list_are_as_those_in_a_file(train_file: Path) -> None:
    tokens = load_tokens(of_split("train", 40), model())
    assert torch.equal(tokens.ids, load_tokens(train_file, model()).ids)
    assert tokens.source == "list in memory"


def test_token_ids_are_as_their_texts(tmp_path: Path) -> None:
    """A separator that they begin with is not repeated."""
    texts = [t for t in of_split("train", 80) if split_of(ids_of(t)) == "train"]
    rows = [{"input_ids": ids_of(t) if i % 2 else [BOS, *ids_of(t)]} for i, t in enumerate(texts)]
    rows = [row for row in rows if split_of(row["input_ids"]) == "train"]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokens = load_tokens(path, model(), ids_column="input_ids")
    kept = [text for text in texts if any(ids_of(text) == row["input_ids"][-5:] for row in rows)]
    assert torch.equal(tokens.ids, load_tokens(kept, model()).ids)
    with pytest.raises(InputError, match=r"ids from 0 to 15, .* got -1"):
        load_tokens([[-1] * 100], model(), split_of([-1] * 100), ids_column="ids")


CHAT = "{% for m in messages %}<s>{{ m['role'][0] }}|{{ m['content'] }}</s>{% endfor %}"


def test_messages_go_through_the_chat_template(tmp_path: Path) -> None:
    """Its control tokens are control tokens, and a leading separator is not repeated."""
    rows = [[{"role": "bot", "content": text}] for text in of_split("train", 40)]
    rows = [row for row in rows if split_of(row) == "train"]
    path = write(tmp_path / "a.jsonl", [{"said": row} for row in rows])
    speaking = model(n_ctx=9)
    speaking.tokenizer.chat_template = CHAT
    tokens = load_tokens(path, speaking, context=9, column="said")
    assert tokens.ids[0].tolist() == [BOS, *ids_of("b|" + rows[0][0]["content"]), EOS][:9]
    assert tokens.ordinary[0].tolist() == [False] + [True] * 7 + [False]
    with pytest.raises(InputError, match=r"a tokenizer with a chat template.*chat_template"):
        load_tokens(path, model(), column="said")
    speaking.tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(InputError, match=r"does not accept .*'bot'.*roles must alternate"):
        load_tokens(path, speaking, column="said")


def test_skipped_rows_are_counted_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.jsonl"
    rows = [*({"story": text} for text in of_split("train", 40)), {"story": None}, {"story": " "}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    load_tokens(path, model(), column="story")
    line = "a.jsonl: skipped 2 of 42 rows, which are null or empty"
    assert " ".join(capsys.readouterr().err.split()) == line
    load_tokens(of_split("train", 40), model())
    assert capsys.readouterr().err == ""


def test_splits_share_no_document(tmp_path: Path) -> None:
    train, held = of_split("train", 30), of_split("held_out", 30)
    path = write(tmp_path / "a.jsonl", [t for pair in zip(train, held, strict=True) for t in pair])
    bare = model(bos_token=None, eos_token=None)
    got = {s: load_tokens(path, bare, s, context=5).ids.tolist() for s in ("train", "held_out")}
    assert got["train"] == [ids_of(t) for t in train]
    assert got["held_out"] == [ids_of(t) for t in held]


def test_one_document_in_ten_is_held_out() -> None:
    held = sum(split_of(f"document {i}") == "held_out" for i in range(10_000))
    assert 900 < held < 1100


def test_takes_whole_blocks_and_stops_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield "abcdefgh" * 100

    monkeypatch.setattr(tokens_module, "_BATCH_CHARACTERS", 1000)
    split = split_of("abcdefgh" * 100)
    tokens = load_tokens(endless(), model(), split, n_tokens=50)
    assert len(tokens) == 8  # 7 ordinary tokens in each
    assert 50 <= tokens.n_tokens < 57
    assert read == 2


def test_hash_tells_ids_and_shape_apart(train_file: Path) -> None:
    ids = torch.arange(12)
    assert len({hash_ids(ids.reshape(shape)) for shape in [(2, 6), (3, 4), (1, 12)]}) == 3
    assert hash_ids(ids.reshape(2, 6)) != hash_ids(ids.reshape(2, 6) + 1)
    assert load_tokens(train_file, model()).hash == load_tokens(train_file, model()).hash
    assert load_tokens(train_file, model()).hash != load_tokens(train_file, model(), context=7).hash


def test_context_is_the_models_up_to_a_limit(train_file: Path) -> None:
    assert load_tokens(train_file, model(n_ctx=16)).ids.shape[1] == 16
    assert load_tokens(["a" * 2000], model(n_ctx=4096), "all").ids.shape == (1, 1024)


@pytest.mark.parametrize("whole_documents", [False, True])
def test_a_few_sentences_are_one_block_of_their_length(whole_documents: bool) -> None:
    def read(texts: list[str], context: int | None = None) -> Tokens:
        return load_tokens(texts, model(), "all", context=context, whole_documents=whole_documents)

    assert read(["abc"]).ids.tolist() == [[BOS, *ids_of("abc")]]
    both = read(["abc", "de"])
    assert both.ids.tolist() == [[BOS, *ids_of("abc"), BOS, *ids_of("de")]]
    assert both.ordinary.tolist() == [[False, True, True, True, False, True, True]]
    assert both.n_tokens == 5
    assert read(["abc", "defg"]).ids.shape[1] == 8  # a whole context: nothing is left over
    longer = [[BOS, *ids_of("abcdefg")], [BOS, *ids_of("h"), *[BOS] * 6]]
    assert read(["abcdefgh"]).ids.tolist() == longer[: 1 + whole_documents]
    if not whole_documents:
        with pytest.raises(InputError, match="required at least 5 in split 'all'"):
            read(["abc"], context=5)


def test_a_block_has_a_token_to_predict() -> None:
    bare = model(bos_token=None, eos_token=None)
    assert load_tokens(["ab"], bare, "all").ids.tolist() == [ids_of("ab")]
    with pytest.raises(InputError, match="required at least 2"):
        load_tokens(["a"], bare, "all")


def test_all_documents_are_those_of_both_splits() -> None:
    texts = of_split("train", 3) + of_split("held_out", 2)
    assert load_tokens(texts, model(n_ctx=30), "all").ids.tolist() == [
        [token for text in texts for token in (BOS, *ids_of(text))]
    ]
    with pytest.raises(InputError, match="split 'all'"):
        load_tokens(of_split("train", 1), model(), "held_out")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "heldout"}, "did you mean 'held_out'"),
        ({"n_tokens": 0}, r"at least one context \(8\), got 0"),
        ({"n_tokens": 7}, r"at least one context \(8\), got 7"),
        ({"context": 1}, "from 2 to the model's n_ctx"),
        ({"context": 9}, r"n_ctx \(8\), got 9"),
    ],
)
def test_bad_arguments_are_refused_before_reading(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_tokens("no-such-source", model(), **arguments)


def test_model_without_tokenizer() -> None:
    bare = SimpleNamespace(tokenizer=None, cfg=SimpleNamespace(n_ctx=8))
    with pytest.raises(InputError, match="model with a tokenizer"):
        load_tokens("builtin:stories", bare)


def test_too_little_text(tmp_path: Path, train_file: Path) -> None:
    with pytest.raises(InputError, match=r"required 1000 tokens .*, got 198 in 33 blocks"):
        load_tokens(train_file, model(), n_tokens=1000)
    with pytest.raises(InputError, match="shorter than a context: required at least 8"):
        load_tokens(write(tmp_path / "b.jsonl", of_split("train", 1)), model(), context=8)
    with pytest.raises(InputError, match=r"required 9 tokens .*, got 5 in 1 blocks of 6"):
        load_tokens(of_split("train", 1), model(), n_tokens=9)
    with pytest.raises(InputError, match=r"'held_out'.*one in ten is held out"):
        load_tokens(train_file, model(), "held_out")


def test_tokens_know_how_their_text_is_read_again(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"own": t}) + "\n" for t in of_split("train", 40)))
    monkeypatch.chdir(tmp_path)
    found = load_tokens("a.jsonl", model(), column="own", separator="</s>", whole_documents=True)
    assert (found.source, found.path) == ("a.jsonl", str(path.resolve()))
    assert found.files_hash == source_hash(path)
    assert found.settings == {
        "column": "own", "ids_column": None, "dataset_split": None, "control_tokens": False,
        "separator": "</s>", "whole_documents": True,
    }  # fmt: skip
    again = load_tokens(found.path, model(), context=found.ids.shape[1], **found.settings)
    assert again.hash == found.hash
    assert not {"path", "files_hash", "settings"} & found.describe().keys()
    listed = load_tokens(of_split("train", 40), model())
    assert (listed.path, listed.files_hash) == ("", "")
