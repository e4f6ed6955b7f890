"""Features that are active on a text of one's own, of several dictionaries side by side."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dictlearn.core.errors import InputError, nearest
from dictlearn.core.named import Dictionaries
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.evaluation.origins import required_dictionaries
from dictlearn.evaluation.stream.activations import ActivationStream
from dictlearn.lm.hooks import LanguageModel
from dictlearn.lm.identity import require_same_model
from dictlearn.pages import environment
from dictlearn.records.features import Context
from dictlearn.text.concepts import token_texts
from dictlearn.text.prompts import prompt_ids

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class ActiveFeature:
    """A feature that is active on a text."""

    dictionary: str
    feature: int
    context: Context
    """The text, with the coefficient at each token; 0 at special tokens."""


@dataclass(frozen=True, repr=False)
class ActiveFeatures:
    """The strongest features on a text, those of each dictionary in order of their largest size.

    Displayed as the shaded text in a notebook, and as a list in a terminal.
    """

    tokens: tuple[str, ...]
    features: tuple[ActiveFeature, ...]
    dictionaries: tuple[str, ...]
    """The names of all dictionaries, those without an active feature included."""

    def to_pandas(self) -> "pd.DataFrame":
        """Coefficients, one row for each token and one column for each feature."""
        import pandas as pd

        rows = pd.MultiIndex.from_tuples(enumerate(self.tokens), names=["position", "token"])
        columns = pd.MultiIndex.from_tuples(
            [(one.dictionary, one.feature) for one in self.features],
            names=["dictionary", "feature"],
        )
        values = zip(*(one.context.activations for one in self.features), strict=True)
        return pd.DataFrame(list(values), index=rows, columns=columns)

    def of(self, dictionary: str) -> list[ActiveFeature]:
        """The features of one dictionary, the strongest first; none if none is active.

        Raises:
            InputError: the text was not read with such a dictionary.
        """
        if dictionary not in self.dictionaries:
            raise InputError(
                f"there is no dictionary {dictionary!r}; {nearest(dictionary, self.dictionaries)}"
            )
        return [one for one in self.features if one.dictionary == dictionary]

    def _repr_html_(self) -> str:
        pages = environment(Path(__file__).parent / "templates")
        return pages.get_template("active_features.html.jinja").render(found=self)

    def __repr__(self) -> str:
        return "\n".join(
            f"{one.dictionary} {one.feature}: {one.context.strength:.3g}  {one.context.marked()}"
            for one in self.features
        )


@torch.no_grad()
def activating(
    dictionaries: Dictionaries,
    model: LanguageModel,
    text: str,
    *,
    n_features: int = 10,
    allow_other_model: bool = False,
) -> ActiveFeatures:
    """The features of one or several dictionaries that are most active on `text`.

    Features are ranked by the largest size of their coefficient at a token, in raw units of each
    dictionary, which do not compare between dictionaries. Special tokens (BOS) do not count.

    Args:
        dictionaries: a dictionary, or several by name.
        model: the model that they were trained on.
        text: a text that fits the context of the model.
        n_features: the number of features of each dictionary, at most.
        allow_other_model: whether dictionaries of another model are used as well.

    Raises:
        InputError: there is no dictionary, the text is empty or too long, or the tokenizer is not
            a fast one.
        ProvenanceError: a dictionary was trained on another model.
    """
    dictionaries = required_dictionaries("activating", dictionaries)
    if n_features < 1:
        raise InputError(f"required n_features of 1 or more, got {n_features}")
    if not isinstance(text, str):
        raise InputError(f"required one text, got {text!r:.80}")
    if not allow_other_model:
        require_same_model(model, dictionaries)
    ids, n_special = prompt_ids(model.tokenizer, text)
    if not n_special < len(ids) <= model.cfg.n_ctx:
        raise InputError(
            f"required a text of 1 to {model.cfg.n_ctx - n_special} tokens, got "
            f"{len(ids) - n_special}"
        )
    counted = torch.arange(len(ids)) >= n_special
    hooks = [hook for d in dictionaries.values() for hook in d.sites.source.hooks]
    stream = ActivationStream(model, ids[None], counted[None], hooks, batch_size=1)
    tokens = tuple(token_texts(ids.tolist(), model.tokenizer))
    found: list[ActiveFeature] = []
    with stream.batches() as batches:
        batch = next(batches)
        for name, dictionary in dictionaries.items():
            acts = batch.encode(dictionary)
            chosen = _strongest(acts, n_features)
            for feature, own in zip(chosen.tolist(), acts.columns(chosen).T.cpu(), strict=True):
                context = _context(tokens, n_special, own)
                found.append(ActiveFeature(name, feature, context))
    return ActiveFeatures(tokens, tuple(found), tuple(dictionaries))


def _strongest(acts: SparseActs, n: int) -> Int[Tensor, " m"]:
    """The active features by the largest size of their coefficients, at most `n`."""
    largest = acts.values.new_zeros(acts.n_features)
    largest.scatter_reduce_(0, acts.indices.long(), acts.values.abs(), "amax")
    order = largest.argsort(descending=True, stable=True)[:n]
    return order[largest[order] > 0]


def _context(tokens: tuple[str, ...], n_special: int, acts: Float[Tensor, " n"]) -> Context:
    peak = n_special + int(acts.abs().argmax())
    return Context(list(tokens), [0.0] * n_special + acts.tolist(), peak, sequence=0)
