"""Tokenized documents, split by content and packed into blocks of equal length."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from rich.console import Console
from torch import Tensor

from dictlearn.core.errors import InputError, naming, nearest
from dictlearn.core.tokens import Tokens
from dictlearn.progress import progress
from dictlearn.text.columns import TEXT, Column, Document
from dictlearn.text.corpora import Source, documents, source_hash
from dictlearn.text.encoding import Encoder
from dictlearn.text.places import place_of, source_name

SPLITS = ("train", "held_out", "all")
LONGEST_CONTEXT = 1024
"""Largest default block length; longer blocks rarely affect a dictionary."""
SHORTEST_CONTEXT = 2
"""Tokens of a block in which one is predicted."""
_BATCH_CHARACTERS = 1 << 18


def load_tokens(
    source: Source,
    model: Any,
    split: str = "train",
    n_tokens: int | None = None,
    *,
    context: int | None = None,
    whole_documents: bool = False,
    column: str = TEXT,
    ids_column: str | None = None,
    dataset_split: str | None = None,
    control_tokens: bool = False,
    separator: str | None = None,
    at_most: bool = False,
) -> Tokens:
    """Packed blocks of tokens of one split of `source`, with the tokenizer of `model`.

    The split of a document follows from its content (`split_of`), so "train" and "held_out" share
    no document. Documents are joined into one stream, each preceded by a separator (the BOS token;
    EOS if there is no BOS; nothing if neither is in the model's vocabulary). The stream is cut into
    blocks of `context` tokens that all start with the separator; an incomplete last block is
    dropped. A text shorter than the default context, such as a few sentences, is one block of its
    own length.

    Args:
        source: a source of `documents`: a name, a path, a list of texts or a data set.
        model: an object with a Hugging Face `tokenizer` and with `cfg.n_ctx`.
        split: "train" (about nine documents in ten), "held_out", or "all" documents, for a text
            that nothing is trained on.
        n_tokens: blocks are read until they contain this many non-special tokens; None reads the
            whole split.
        context: tokens per block; by default the model's `n_ctx`, but at most 1024, and the
            length of the text if that is shorter.
        whole_documents: blocks contain whole documents and are padded with separators, which are
            special tokens. Every token then has the beginning of its document as context, except
            in documents longer than a block, which are cut. The cost is the padding.
        column: the column of text, where the source has columns; or of messages, lists of
            {"role", "content"}, which go through the chat template of the tokenizer.
        ids_column: the column of token ids to read instead, made with the model's tokenizer.
        dataset_split: the split of a data set with several, by default "train". It is divided
            into "train" and "held_out" like any other source.
        control_tokens: special tokens that are spelled out in the text (`<|im_start|>`) become
            those tokens; otherwise they are plain text, and a warning says how many documents
            have any.
        separator: the token before each document, where it is neither BOS nor EOS.
        at_most: a split that holds fewer than `n_tokens` is read whole, and a line says so.

    Raises:
        InputError: an argument is out of range, the model has no tokenizer, a token is not in
            its vocabulary, the text is shorter than the `context` asked for or than two tokens,
            or, unless `at_most`, it holds fewer tokens than asked for.
        CorruptFileError: a file of the source cannot be read.
    """
    encoder = Encoder(model, separator, control_tokens=control_tokens)
    shortest = SHORTEST_CONTEXT if context is None else context
    context = _checked(split, n_tokens, context, model.cfg.n_ctx)
    read = Column(ids_column or column, holds_ids=ids_column is not None)
    found_in = documents(source, read, dataset_split)
    chosen = (one for one in found_in if split == "all" or split_of(one) == split)
    blocks: list[np.ndarray] = []
    found = 0
    with naming(source_name(source)), progress("tokenising", n_tokens) as done:
        pack = _whole if whole_documents else _cut_anywhere
        for block in pack(chosen, encoder, context, shortest):
            blocks.append(block)
            found += int((~np.isin(block, encoder.special)).sum())
            done(found)
            if n_tokens is not None and found >= n_tokens:
                break
    encoder.warn(source_name(source))
    _say_skipped(source, read)
    where = f"split {split!r} of {source_name(source)}"
    _require_enough(where, blocks, found, n_tokens, shortest, at_most=at_most)
    array = np.stack(blocks)
    ids = torch.from_numpy(array)
    ordinary = torch.from_numpy(~np.isin(array, encoder.special))
    settings = {
        "column": column, "ids_column": ids_column, "dataset_split": dataset_split,
        "control_tokens": control_tokens, "separator": separator,
        "whole_documents": whole_documents,
    }  # fmt: skip
    return Tokens(
        ids, ordinary, source_name(source), split, hash_ids(ids),
        path=str(place_of(source) or ""), files_hash=source_hash(source),
        settings=settings,
    )  # fmt: skip


def some_blocks(tokens: Tokens, blocks: slice, split: str) -> Tokens:
    """Some of the blocks as a split of their own."""
    ids, ordinary = tokens.ids[blocks], tokens.ordinary[blocks]
    return replace(tokens, ids=ids, ordinary=ordinary, split=split, hash=hash_ids(ids))


def split_of(document: Document) -> str:
    """The split of a document by the hash of its content: "held_out" for one in ten.

    The first 8 bytes of the SHA-256 of its UTF-8 text (of its JSON form, for token ids and
    messages), as a big-endian number, decide: a multiple of 10 is held out.

    >>> split_of("Once upon a time")
    'train'
    """
    text = (
        document if isinstance(document, str) else json.dumps(document, sort_keys=True, default=str)
    )
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return "held_out" if int.from_bytes(digest[:8], "big") % 10 == 0 else "train"


def hash_ids(ids: Int[Tensor, "b pos"]) -> str:
    """The SHA-256 of the ids (64-bit little-endian) followed by their shape."""
    digest = hashlib.sha256(ids.cpu().numpy().astype("<i8").tobytes())
    digest.update(str(tuple(ids.shape)).encode())
    return digest.hexdigest()


def require_readable(
    source: Source,
    split: str = "train",
    n_tokens: int | None = None,
    *,
    context: int | None = None,
    column: str = TEXT,
    ids_column: str | None = None,
    dataset_split: str | None = None,
    **others: Any,
) -> None:
    """Check arguments of `load_tokens` without a model, before one is loaded.

    Of a local text, the first document is read.

    Raises:
        InputError: one is out of range, or there is no such text, or none in it.
        CorruptFileError: a file of the source cannot be read.
    """
    _checked(split, n_tokens, context)
    if not str(source).startswith("hf:"):
        read = Column(ids_column or column, holds_ids=ids_column is not None)
        next(documents(source, read, dataset_split))


def _checked(
    split: str, n_tokens: int | None, context: int | None, longest: int | None = None
) -> int:
    """The tokens per block, at most `longest`, the context of the model; at least the shortest
    possible block where the model is not known yet."""
    if split not in SPLITS:
        raise InputError(
            f"required split {' or '.join(SPLITS)}, got {split!r}; {nearest(split, SPLITS)}"
        )
    if context is None:
        context = SHORTEST_CONTEXT if longest is None else min(longest, LONGEST_CONTEXT)
    if not SHORTEST_CONTEXT <= context <= (longest or context):
        most = "the model's n_ctx" + ("" if longest is None else f" ({longest})")
        raise InputError(f"required a context from {SHORTEST_CONTEXT} to {most}, got {context}")
    if n_tokens is not None and n_tokens < context:
        raise InputError(
            f"required n_tokens= (--tokens) of at least one context ({context}), got {n_tokens}; "
            "ask for more tokens or a shorter context"
        )
    return context


def _say_skipped(source: Source, read: Column) -> None:
    if read.n_skipped:
        Console(stderr=True).print(
            f"{source_name(source)}: skipped {read.n_skipped:,} of {read.n_read:,} rows, which are "
            "null or empty",
            highlight=False, markup=False,
        )  # fmt: skip


def _require_enough(
    where: str,
    blocks: list[np.ndarray],
    found: int,
    asked: int | None,
    shortest: int,
    *,
    at_most: bool,
) -> None:
    if not blocks:
        raise InputError(
            f"tokens shorter than a context: required at least {shortest} in {where}, got fewer; "
            "choose a shorter context, a longer text, or split 'all' (a document's split follows "
            "from its content, and about one in ten is held out)"
        )
    if asked is None or found >= asked:
        return
    if not at_most:
        raise InputError(
            f"required {asked} tokens in {where}, got {found} in {len(blocks)} blocks of "
            f"{len(blocks[0])}; ask for at most {found}, or n_tokens=None (--tokens all) for all "
            "of them"
        )
    Console(stderr=True).print(
        f"{where}: all {found:,} tokens, which are fewer than {asked:,}",
        highlight=False, markup=False,
    )  # fmt: skip


def _whole(
    texts: Iterable[Document], encoder: Encoder, context: int, shortest: int
) -> Iterator[np.ndarray]:
    """Blocks of whole documents, each preceded by the separator and padded with separators.

    A block that is the only one is padded to `shortest` tokens.
    """
    separator = encoder.separator
    if not separator:
        raise InputError(
            "whole_documents needs a BOS or EOS token to fill blocks with, and this tokenizer has "
            "neither in the vocabulary of the model; name a separator"
        )
    block: list[int] = []
    length = shortest
    for batch in _batches(texts):
        for ids in encoder.encode(batch):
            for start in range(0, len(ids), context - 1):
                piece = separator + ids[start : start + context - 1]
                if len(block) + len(piece) > context:
                    length = context
                    yield np.array(block + separator * (length - len(block)), dtype=np.int64)
                    block = []
                block += piece
    if block:
        yield np.array(block + separator * (length - len(block)), dtype=np.int64)


def _cut_anywhere(
    texts: Iterable[Document], encoder: Encoder, context: int, shortest: int
) -> Iterator[np.ndarray]:
    """Blocks of a stream of documents, each starting with the separator.

    The last block is incomplete only if it is the first, of `shortest` tokens or more.
    """
    separator = encoder.separator
    n_text = context - len(separator)
    stream: list[int] = []
    is_first = True
    for batch in _batches(texts):
        for ids in encoder.encode(batch):
            stream += separator + ids
        start = 0
        while True:  # a separator with which a block begins is not repeated
            first = start + (len(separator) if stream[start : start + 1] == separator else 0)
            if first + n_text > len(stream):
                break
            start = first + n_text
            yield np.array(separator + stream[first:start], dtype=np.int64)
            is_first = False
        del stream[:start]
    if is_first and len(stream) >= shortest:
        yield np.array(stream, dtype=np.int64)


def _batches(texts: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
