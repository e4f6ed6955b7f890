"""Cards of features, from the top contexts that a pass over the tokens collected."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError
from dictlearn.core.numbers import significant
from dictlearn.core.sites import Site
from dictlearn.core.tokens import Tokens
from dictlearn.evaluation.cards.nearest_atoms import neighbors
from dictlearn.evaluation.cards.top_contexts import TopContexts
from dictlearn.lm.hooks import LanguageModel
from dictlearn.lm.sites import is_same_site
from dictlearn.lm.unembedding import LogitMap, logit_map, why_not_in_stream
from dictlearn.records.features import Context, FeatureCard, TokenWeight
from dictlearn.text.concepts import text_around, vocabulary_texts

N_LOGITS = 10
"""Number of promoted tokens of a card, and of suppressed ones."""
N_NEAREST = 3
"""Number of nearest features of a card in each other dictionary."""


@dataclass(frozen=True)
class CardMaker:
    """Makes the cards of features whose top contexts on these tokens are known."""

    dictionaries: Mapping[str, FeatureDictionary]
    model: LanguageModel
    tokens: Tokens
    counted: Bool[Tensor, "b pos"]
    window: tuple[int, int]

    @torch.no_grad()
    def cards(self, name: str, top: TopContexts, features: Sequence[int]) -> list[FeatureCard]:
        """The cards of these features of the dictionary `name`."""
        dictionary = self.dictionaries[name]
        extremes, no_logits = self._logits(dictionary, features)
        atoms = dictionary.atoms[list(features)]
        near = neighbors(atoms, self._at_the_same_target(name), N_NEAREST)
        return [
            FeatureCard(
                dictionary=name,
                feature=feature,
                density=significant(top.firings[feature] / max(top.n_rows, 1)),
                contexts=[self._context(token, values) for token, values in top.of(feature)],
                promoted=promoted,
                suppressed=suppressed,
                no_logits=no_logits,
                nearest=nearest,
            )
            for feature, (promoted, suppressed), nearest in zip(
                features, extremes, near, strict=True
            )
        ]

    def _at_the_same_target(self, name: str) -> dict[str, FeatureDictionary]:
        """The other dictionaries with the same target."""
        target = self.dictionaries[name].sites.target
        return {
            other: dictionary
            for other, dictionary in self.dictionaries.items()
            if other != name and is_same_site(self.model, target, dictionary.sites.target)
        }

    def _context(self, token: int, values: Sequence[float]) -> Context:
        """The context around a token, given by its index along all sequences."""
        sequence, position = divmod(token, self.tokens.ids.shape[1])
        counted = self.counted[sequence].tolist()
        ids = self.tokens.ids[sequence].tolist()
        first, texts = text_around(ids, counted, position, self.window, self.model.tokenizer)
        skipped = self.window[0] - (position - first)
        return Context(
            tokens=texts,
            activations=[significant(v) for v in values[skipped : skipped + len(texts)]],
            peak=position - first,
            sequence=sequence,
        )

    def _logits(
        self, dictionary: FeatureDictionary, features: Sequence[int]
    ) -> tuple[list[tuple[list[TokenWeight] | None, list[TokenWeight] | None]], str]:
        """The promoted and suppressed tokens of each feature, or the reason why there are none."""
        none: list[tuple[list[TokenWeight] | None, list[TokenWeight] | None]]
        none = [(None, None)] * len(features)
        target = dictionary.sites.target
        for part in target.parts:
            if reason := self._why_not_in_stream(part):
                return none, reason
        try:
            logits = logit_map(self.model)
        except InputError as error:
            return none, str(error)
        atoms = dictionary.atoms[list(features)].to(logits.gain.device)
        atoms = torch.stack(target.split(atoms)).sum(dim=0)  # all are added to the one stream
        largest = self._largest(logits, atoms)
        smallest = [
            [TokenWeight(w.token, -w.weight) for w in weights]
            for weights in self._largest(logits, -atoms)
        ]
        return list(zip(largest, smallest, strict=True)), ""

    def _why_not_in_stream(self, part: Site) -> str:
        """`why_not_in_stream`, tried once for each hook, however many dictionaries write there."""
        if part.hook not in self._tried:
            self._tried[part.hook] = why_not_in_stream(self.model, part.hook, part.d)
        return self._tried[part.hook]

    @cached_property
    def _tried(self) -> dict[str, str]:
        return {}

    def _largest(self, logits: LogitMap, atoms: Float[Tensor, "k d"]) -> list[list[TokenWeight]]:
        """The tokens with the largest logit weights of each atom."""
        tokenizer = self.model.tokenizer
        n_vocab = min(len(tokenizer), logits.unembedding.shape[1])  # beyond it is padding
        values, ids = logits.weights(atoms)[:, :n_vocab].topk(min(N_LOGITS, n_vocab), dim=1)
        return [
            [
                TokenWeight(text, significant(value))
                for text, value in zip(vocabulary_texts(some, tokenizer), weights, strict=True)
            ]
            for some, weights in zip(ids.tolist(), values.tolist(), strict=True)
        ]
