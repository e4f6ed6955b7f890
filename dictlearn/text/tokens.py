"""Tokens of a text: documents split by content, joined, and cut into blocks of one length."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from dictlearn.core.errors import InputError, nearest
from dictlearn.core.tokens import Tokens
from dictlearn.progress import progress
from dictlearn.text.corpora import documents, source_name

SPLITS = ("train", "held_out")
LONGEST_CONTEXT = 1024
"""The longest block unless `context` asks for more: longer ones rarely change a dictionary."""
_BATCH_CHARACTERS = 1 << 18


def load_tokens(
    source: str | Path,
    model: Any,
    split: str = "train",
    n_tokens: int | None = None,
    *,
    context: int | None = None,
    whole_documents: bool = False,
) -> Tokens:
    """Packed blocks of `split` of `source`, tokenised as `model` reads them.

    Every document belongs to one split by its own content (`split_of`), so "train" and
    "held_out" never share one. Documents are joined into one stream with a separator before
    each (the BOS token; EOS where there is no BOS; nothing where there is neither). The stream
    is cut into blocks of `context` tokens that all start with the separator; the incomplete
    tail is dropped. Special tokens spelled out in the text stay ordinary text.

    Args:
        source: what `documents` accepts.
        model: anything with a Hugging Face `tokenizer` and with `cfg.n_ctx`.
        split: "train" (about nine documents in ten) or "held_out".
        n_tokens: whole blocks are taken until they hold this many ordinary tokens, and
            nothing is read after that; None takes the whole split.
        context: tokens a block; the model's `n_ctx` unless given, but at most 1024.
        whole_documents: blocks hold whole documents and are filled up with separators, which
            count nowhere. No token then lacks the beginning of its document, which a block
            that opens in the middle of one withholds (only documents longer than a block are
            cut). The price is the filling.

    Raises:
        InputError: an argument is out of range, the model has no tokenizer, the text is
            shorter than one block, or it holds fewer tokens than asked for.
        CorruptFileError: a file of the source cannot be read.
    """
    context = _checked(model, split, n_tokens, context)
    chosen = (text for text in documents(source) if split_of(text) == split)
    special = np.array(sorted(model.tokenizer.all_special_ids), dtype=np.int64)
    blocks: list[np.ndarray] = []
    found = 0
    with progress("tokenising", n_tokens) as done:
        pack = _whole if whole_documents else _cut_anywhere
        for block in pack(chosen, model.tokenizer, context):
            blocks.append(block)
            found += context - int(np.isin(block, special).sum())
            done(found)
            if n_tokens is not None and found >= n_tokens:
                break
    _require_enough(source, split, len(blocks), found, n_tokens, context)
    array = np.stack(blocks)
    ids = torch.from_numpy(array)
    ordinary = torch.from_numpy(~np.isin(array, special))
    return Tokens(ids, ordinary, source_name(source), split, hash_ids(ids))


def split_of(text: str) -> str:
    """The split of a document: "held_out" for one in ten, by the hash of its content.

    The first 8 bytes of the SHA-256 of its UTF-8 text, as a big-endian number, decide: a
    multiple of 10 is held out.

    >>> split_of("Once upon a time")
    'train'
    """
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return "held_out" if int.from_bytes(digest[:8], "big") % 10 == 0 else "train"


def hash_ids(ids: Int[Tensor, "b pos"]) -> str:
    """The SHA-256 of the ids (64-bit little-endian) followed by their shape."""
    digest = hashlib.sha256(ids.cpu().numpy().astype("<i8").tobytes())
    digest.update(str(tuple(ids.shape)).encode())
    return digest.hexdigest()


def _checked(model: Any, split: str, n_tokens: int | None, context: int | None) -> int:
    if split not in SPLITS:
        raise InputError(
            f"required split {' or '.join(SPLITS)}, got {split!r}; {nearest(split, SPLITS)}"
        )
    if getattr(model, "tokenizer", None) is None:
        raise InputError("required a model with a tokenizer, got none; set model.tokenizer")
    longest = model.cfg.n_ctx
    context = min(longest, LONGEST_CONTEXT) if context is None else context
    if not 2 <= context <= longest:
        raise InputError(
            f"required a context from 2 to the model's n_ctx ({longest}), got {context}"
        )
    if n_tokens is not None and n_tokens < context:
        raise InputError(
            f"required n_tokens of at least one context ({context}), got {n_tokens}; ask for more "
            "tokens or a shorter context"
        )
    return context


def _require_enough(
    source: str | Path, split: str, n_blocks: int, found: int, asked: int | None, context: int
) -> None:
    if n_blocks == 0:
        raise InputError(
            f"tokens shorter than a context: required at least {context} in split {split!r} of "
            f"{source}, got fewer; choose a shorter context or a longer text (a document's split "
            "follows from its content, and about one in ten is held out)"
        )
    if asked is not None and found < asked:
        raise InputError(
            f"required {asked} tokens in split {split!r} of {source}, got {found} in {n_blocks} "
            f"blocks of {context}; ask for at most {found}, or n_tokens=None for all of them"
        )


def _separator(tokenizer: Any) -> list[int]:
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    return [i for i in (bos, eos) if i is not None][:1]


def _whole(texts: Iterable[str], tokenizer: Any, context: int) -> Iterator[np.ndarray]:
    """Blocks of whole documents, each led by the separator; separators fill up the rest."""
    separator = _separator(tokenizer)
    if not separator:
        raise InputError(
            "whole_documents needs a BOS or EOS token to fill blocks with, and this tokenizer has "
            "neither; set tokenizer.eos_token"
        )
    block: list[int] = []
    for batch in _batches(texts):
        for ids in _encode(tokenizer, batch):
            for start in range(0, len(ids), context - 1):
                piece = separator + ids[start : start + context - 1]
                if len(block) + len(piece) > context:
                    yield np.array(block + separator * (context - len(block)), dtype=np.int64)
                    block = []
                block += piece
    if block:
        yield np.array(block + separator * (context - len(block)), dtype=np.int64)


def _cut_anywhere(texts: Iterable[str], tokenizer: Any, context: int) -> Iterator[np.ndarray]:
    """Blocks of one running stream of documents, each led by the separator."""
    separator = _separator(tokenizer)
    stream: list[int] = []
    for batch in _batches(texts):
        for ids in _encode(tokenizer, batch):
            stream += separator + ids
        yield from _cut(stream, separator, context)


def _cut(stream: list[int], separator: list[int], context: int) -> list[np.ndarray]:
    """Whole blocks, removed from the front of `stream` and each led by the separator.

    A separator that comes first in a block is that block's own: it is not doubled.
    """
    blocks = []
    n_text = context - len(separator)
    start = 0
    while True:
        first = start + (len(separator) if stream[start : start + 1] == separator else 0)
        if first + n_text > len(stream):
            break
        start = first + n_text
        blocks.append(np.array(separator + stream[first:start], dtype=np.int64))
    del stream[:start]
    return blocks


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _encode(tokenizer: Any, batch: list[str]) -> list[list[int]]:
    encoded = tokenizer(
        batch,
        add_special_tokens=False,
        split_special_tokens=True,
        return_attention_mask=False,
        verbose=False,
    )
    return encoded["input_ids"]
