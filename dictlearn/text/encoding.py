"""Documents as token ids of one model: the tokenizer, its special tokens and the separator."""

import re
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from dictlearn.core.errors import InputError, nearest
from dictlearn.text.columns import Document, Messages


class Encoder:
    """Makes the token ids of documents for a model, all within its vocabulary.

    `separator` is put before each document: the token of this name, or BOS, or EOS if there is no
    BOS, or nothing. A token that is not within the vocabulary is none: TransformerLens adds an EOS
    token to tokenizers that have none, with the id behind the last row of the embedding.

    Special tokens that a text spells out (`<|im_start|>`) are tokenized as plain text, and such
    texts counted, unless `control_tokens` is set.
    """

    def __init__(
        self, model: Any, separator: str | None = None, *, control_tokens: bool = False
    ) -> None:
        if getattr(model, "tokenizer", None) is None:
            raise InputError("required a model with a tokenizer, got none; set model.tokenizer")
        self._tokenizer, self._n_vocab = model.tokenizer, model.cfg.d_vocab
        self.separator = self._separator(separator)
        added = getattr(self._tokenizer, "added_tokens_decoder", {})
        special = {*self._tokenizer.all_special_ids, *(i for i, t in added.items() if t.special)}
        self.special: Int[np.ndarray, " n"] = np.array(
            sorted({*special, *self.separator}), dtype=np.int64
        )
        """The ids of special tokens and of the separator, in ascending order."""
        self.control_tokens = control_tokens
        spelt = map(re.escape, self._tokenizer.convert_ids_to_tokens(sorted(special)))
        self._control = re.compile("|".join(spelt) or r"(?!)")
        self.n_spelt: Counter[str] = Counter()
        """How many texts spell a special token that was read as plain text, by the first."""

    def encode(self, batch: Sequence[Document]) -> list[list[int]]:
        """The ids of each document, without separators, checked to be in the vocabulary."""
        texts = iter(self._of_texts([d for d in batch if isinstance(d, str)]))
        encoded = [next(texts) if isinstance(d, str) else self._own(d) for d in batch]
        for ids in encoded:
            self._require_known(ids)
        return encoded

    def _of_texts(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        if not self.control_tokens:
            found = (self._control.search(text) for text in texts)
            self.n_spelt.update(match.group() for match in found if match)
        encoded = self._tokenizer(
            texts,
            add_special_tokens=False,
            split_special_tokens=not self.control_tokens,
            return_attention_mask=False,
            verbose=False,
        )["input_ids"]
        return [*map(self._without_separator, encoded)] if self.control_tokens else encoded

    def _own(self, document: list[Any]) -> list[int]:
        """The ids of a document that is no text."""
        ids = document if isinstance(document[0], int) else self._of_messages(document)
        return self._without_separator(ids)

    def _without_separator(self, ids: list[int]) -> list[int]:
        """The ids less a separator that they begin with, since one is put before them."""
        n = len(self.separator)
        return ids[n:] if ids[:n] == self.separator else ids

    def _of_messages(self, messages: Messages) -> list[int]:
        if getattr(self._tokenizer, "chat_template", None) is None:
            raise InputError(
                "required a tokenizer with a chat template, since the column holds messages, got "
                "one without; set model.tokenizer.chat_template, or name a column of text"
            )
        try:
            return self._tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
        except Exception as error:  # of the template: it may refuse a role or an order of roles
            raise InputError(
                f"the chat template does not accept the messages {messages!r:.200}: {error}"
            ) from error

    def warn(self, source: str) -> None:
        """Warn if texts spell special tokens that were read as plain text."""
        if self.n_spelt:
            token, _ = self.n_spelt.most_common(1)[0]
            warnings.warn(
                f"{self.n_spelt.total():,} documents of {source} spell control tokens such as "
                f"{token!r}, which were read as plain text; control_tokens=True "
                "(--control-tokens) reads them as control tokens",
                stacklevel=3,
            )

    def _separator(self, name: str | None) -> list[int]:
        if name is not None:
            known = self._tokenizer.get_vocab()
            if known.get(name, self._n_vocab) >= self._n_vocab:
                raise InputError(
                    f"required as separator a token in the vocabulary of this model, got {name!r}; "
                    f"{nearest(name, self._tokenizer.all_special_tokens)}"
                )
            return [known[name]]
        ends = (self._tokenizer.bos_token_id, self._tokenizer.eos_token_id)
        return [i for i in ends if i is not None and i < self._n_vocab][:1]

    def _require_known(self, ids: list[int]) -> None:
        least, most = (min(ids), max(ids)) if ids else (0, 0)
        if least < 0 or most >= self._n_vocab:
            bad = least if least < 0 else most
            known = (
                self._tokenizer.convert_ids_to_tokens(bad)
                if bad in range(len(self._tokenizer))
                else None
            )
            raise InputError(
                f"required token ids from 0 to {self._n_vocab - 1}, the vocabulary of this model, "
                f"got {bad!s:.40} ({known!r}); use the "
                "tokenizer that belongs to the model"
            )
