"""Tables of a feature's weights that no prompt enters."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from dictlearn.blind.case import Route, Upstream, Weighted
from dictlearn.circuits.weights import Heads, de_embedding, virtual_weights
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError
from dictlearn.core.numbers import significant
from dictlearn.lm.hooks import LanguageModel
from dictlearn.text.concepts import vocabulary_texts

N_TOKENS = 10
N_FEATURES = 5


class Weights:
    """De-embeddings and virtual weights of one feature, and reasons where there are none."""

    def __init__(
        self,
        model: LanguageModel,
        dictionaries: Mapping[str, FeatureDictionary],
        name: str,
        feature: int,
        *,
        de_embeddings: bool,
    ) -> None:
        self._model, self._dictionaries = model, dictionaries
        self._name, self._feature, self._tokens = name, feature, de_embeddings
        self.left_out: dict[str, str] = {}

    def route(self, heads: list[tuple[int, int]]) -> Route:
        """The tokens and the features with the largest weights through these heads."""
        reader, features = self._dictionaries[self._name], list[Weighted]()
        for name, upstream in self._dictionaries.items():
            if name == self._name:
                continue
            try:
                weights = virtual_weights(
                    self._model, upstream, reader, features=[self._feature], heads=heads
                )[0]
            except InputError as error:
                self.left_out[f"weights from {name}{_through(heads)}"] = str(error)
                continue
            top = weights.topk(min(N_FEATURES, len(weights)))
            features += [
                Weighted(f"{name} {i}", significant(v))
                for v, i in zip(top.values.tolist(), top.indices.tolist(), strict=True)
                if v > 0
            ]
        return Route(heads, self._read(self._name, self._feature, heads), features)

    def upstream(self, attributions: Mapping[tuple[str, int], float]) -> list[Upstream]:
        """The features with the largest attributions, each with the tokens that it reads."""
        order = sorted(attributions, key=lambda one: -attributions[one])[:N_FEATURES]
        return [
            Upstream(
                f"{name} {feature}",
                significant(attributions[name, feature]),
                self._read(name, feature),
            )
            for name, feature in order
        ]

    def _read(self, name: str, feature: int, heads: Heads = ()) -> list[Weighted]:
        """The tokens with the largest de-embeddings of a feature; none where not allowed."""
        if not self._tokens:
            return []
        try:
            weights = de_embedding(self._model, self._dictionaries[name], [feature], heads=heads)
        except InputError as error:
            self.left_out[f"tokens that {name} reads{_through(heads)}"] = str(error)
            return []
        return self._largest(weights[0])

    def _largest(self, weights: Float[Tensor, " vocab"]) -> list[Weighted]:
        tokenizer = self._model.tokenizer
        n = min(len(tokenizer), len(weights))  # beyond it is padding
        top = weights[:n].topk(min(N_TOKENS, n))
        texts = vocabulary_texts(top.indices.tolist(), tokenizer)
        return [
            Weighted(text, significant(value))
            for text, value in zip(texts, top.values.tolist(), strict=True)
        ]


def _through(heads: Heads) -> str:
    return "".join(f" through head {layer}.{head}" for layer, head in heads)
