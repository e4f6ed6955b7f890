"""Documents as token ids of one model: the tokenizer, its special tokens and the separator."""

from typing import Any

import numpy as np
from jaxtyping import Int

from dictlearn.core.errors import InputError


class Encoder:
    """Makes the token ids of documents for a model, all within its vocabulary.

    `separator` is put before each document: BOS, or EOS if there is no BOS, or nothing. A token
    that is not within the vocabulary is none: TransformerLens adds an EOS token to tokenizers
    that have none, with the id behind the last row of the embedding.
    """

    def __init__(self, model: Any) -> None:
        if getattr(model, "tokenizer", None) is None:
            raise InputError("required a model with a tokenizer, got none; set model.tokenizer")
        self._tokenizer, self._n_vocab = model.tokenizer, model.cfg.d_vocab
        self.separator = self._default_separator()
        self.special: Int[np.ndarray, " n"] = np.array(
            sorted(self._tokenizer.all_special_ids), dtype=np.int64
        )
        """The ids of special tokens, in ascending order."""

    def encode(self, batch: list[str]) -> list[list[int]]:
        """The ids of each document, without separators.

        Raises:
            InputError: the tokenizer gives an id that is not in the vocabulary of the model.
        """
        encoded = self._tokenizer(
            batch,
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            verbose=False,
        )["input_ids"]
        for ids in encoded:
            self._require_known(ids)
        return encoded

    def _default_separator(self) -> list[int]:
        ends = (self._tokenizer.bos_token_id, self._tokenizer.eos_token_id)
        return [i for i in ends if i is not None and i < self._n_vocab][:1]

    def _require_known(self, ids: list[int]) -> None:
        least, most = (min(ids), max(ids)) if ids else (0, 0)
        if least < 0 or most >= self._n_vocab:
            bad = least if least < 0 else most
            raise InputError(
                f"required token ids from 0 to {self._n_vocab - 1}, the vocabulary of this model, "
                f"got {bad} ({self._tokenizer.convert_ids_to_tokens(max(bad, 0))!r}); use the "
                "tokenizer that belongs to the model"
            )
