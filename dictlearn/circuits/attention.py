"""Why a head attends: an attention score as a bilinear form of query-side and key-side nodes.

With patterns of earlier layers and norms held, a query and a key are sums over the nodes of a local
replacement model, and a score is bilinear in the two (Elhage et al. 2021, "A Mathematical Framework
for Transformer Circuits"; Kamath et al. 2025, "Tracing Attention Computation Through Feature
Interactions"). The form is read from the model's own scores by differentiation, so that rotary
embeddings, grouped queries, held norms of queries and keys and scales need no list of cases.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dictlearn.circuits.checked import checked_model, require_complete
from dictlearn.circuits.local_model import LocalModel
from dictlearn.circuits.nodes import Nodes
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError
from dictlearn.core.numbers import whole
from dictlearn.lm.attention import score_cap
from dictlearn.lm.hooks import LanguageModel

if TYPE_CHECKING:
    import pandas as pd

Minus: TypeAlias = int | Literal["mean"] | None
"""A key whose score is subtracted, the mean over all other visible keys, or nothing."""


@dataclass(frozen=True)
class AttentionScore:
    """The score of a head before the softmax, from one token to another, by pairs of nodes.

    The contribution of query-side node a and key-side node b is the product of columns a and b of
    the two sides, summed over the `d_head` dimensions of the query.
    """

    layer: int
    head: int
    query: int
    key: int
    minus: Minus
    value: float
    """The score that the model computes, less that of `minus`."""
    nodes: Nodes
    names: list[str]
    """The nodes in words."""
    query_side: Float[Tensor, "d_head node"]
    """The contributions of nodes to the query."""
    key_side: Float[Tensor, "d_head node"]
    """The contributions of nodes to the keys, as the query reads them: rotated and scaled."""

    def matrix(self) -> Float[Tensor, "query_node key_node"]:
        """The contribution of each pair of nodes."""
        return self.query_side.T @ self.key_side

    def sum(self) -> float:
        """The sum over all pairs, which is the score."""
        return float(self.query_side.double().sum(dim=1) @ self.key_side.double().sum(dim=1))

    def marginals(self) -> tuple[Float[Tensor, " node"], Float[Tensor, " node"]]:
        """The contribution of each query-side node with all keys, and of each key-side node."""
        query, key = self.query_side.sum(dim=1), self.key_side.sum(dim=1)
        return key @ self.query_side, query @ self.key_side

    def to_pandas(self, n: int = 20) -> "pd.DataFrame":
        """A table of the `n` pairs with the largest contributions by size."""
        import pandas as pd

        matrix = self.matrix()
        places = matrix.abs().flatten().topk(min(n, matrix.numel())).indices.tolist()
        pairs = [divmod(place, len(self.nodes)) for place in places]
        columns = ["query_node", "key_node", "contribution"]
        rows = [(self.names[a], self.names[b], float(matrix[a, b])) for a, b in pairs]
        return pd.DataFrame(rows, columns=columns)

    def marginals_to_pandas(self) -> "pd.DataFrame":
        """A table of all nodes with the contribution of each on either side."""
        query, key = self.marginals()
        table = self.nodes.to_pandas().assign(query_side=query.tolist(), key_side=key.tolist())
        table.insert(0, "name", self.names)
        return table


def explain_attention(
    model: LanguageModel,
    prompt: str | Int[Tensor, " pos"],
    dictionaries: Mapping[str, FeatureDictionary],
    layer: int,
    head: int,
    query: int,
    key: int | None = None,
    *,
    minus: Minus = None,
    allow_other_model: bool = False,
) -> AttentionScore:
    """The attention score of a head from the token at `query` to that at `key`, by pairs of nodes.

    Nodes are those of `attribute`. The softmax ignores what raises all scores of a query alike:
    `minus`, another key or the mean over all other visible keys, leaves what makes it attend here
    and not there. Where a model caps its scores, the score is that before the cap.

    Args:
        model: the language model.
        prompt: a text, which BOS precedes if the model has one, or ids.
        dictionaries: of any kind, by name, at different targets.
        layer: the layer of the head.
        head: its number; where heads share keys, that of its query.
        query: a position; negative ones count from the end.
        key: a position not after `query`; by default the one with the most attention.
        minus: a position, or "mean".
        allow_other_model: also take dictionaries of another model.

    Raises:
        InputError: the model has no such head, the prompt no such positions, a key is not visible,
            or the score is not a bilinear form (ALiBi, for instance).
        ProvenanceError: a dictionary was trained on another model, and `allow_other_model` is off.
    """
    with checked_model(
        model, prompt, dictionaries, scores_of=layer, allow_other_model=allow_other_model
    ) as local:
        chosen = whole(head)
        if chosen is None or not 0 <= chosen < local.n_heads:
            raise InputError(f"required a head from 0 to {local.n_heads - 1}, got {head!r:.80}")
        if isinstance(minus, str) and minus != "mean":
            raise InputError(f"required minus as a position, 'mean' or None, got {minus!r:.80}")
        row = _Row(local, chosen, local.position(query), score_cap(model))
        at = int(row.scores.argmax()) if key is None else local.position(key)
        weights = row.weights(
            at, minus if minus is None or isinstance(minus, str) else local.position(minus)
        )
        value, readers = row.form(weights, at)
        query_side, key_side = row.sides(readers)
        told = local.describe()
        names = [
            local.nodes.name(node, told["tokens"], told["dictionaries"], told["hooks"])
            for node in range(len(local.nodes))
        ]
        return AttentionScore(
            layer, head, row.query, at, minus, value, local.nodes, names, query_side, key_side
        )


class _Row:
    """The scores of one query, as functions of queries and keys that are held."""

    def __init__(self, local: LocalModel, head: int, query: int, cap: float) -> None:
        self._local, self.query = local, query
        (self._live_q, self._q), (self._live_k, self._k) = local.run.operands
        found = local.run.scores
        assert found is not None
        self._head = head
        # Native models give the pattern in place of scores: its logarithm, up to a constant.
        self._from_pattern = bool((found >= 0).all() & ((found.sum(dim=2) - 1).abs() < 1e-3).all())
        seen = found[head, query, : query + 1]
        visible = seen > (0 if self._from_pattern else torch.finfo(seen.dtype).min / 2)
        if self._from_pattern:
            seen = seen.log()
        elif cap:
            seen = cap * (seen / cap).atanh()
        self._seen = seen
        self.scores = seen.detach().masked_fill(~visible, -torch.inf)
        """What the softmax sees, up to a constant; -inf of keys that are not visible."""

    def weights(self, key: int, minus: Minus) -> dict[int, float]:
        """The weights of scores in what is explained.

        Raises:
            InputError: a key is not visible, or there is no other.
        """
        visible = self.scores.isfinite().nonzero()[:, 0].tolist()
        if minus == "mean":
            others = [at for at in visible if at != key]
        else:
            others = [] if minus is None else [minus]
        if key not in visible or not set(others) <= set(visible) or key in others:
            raise InputError(
                f"required different keys that token {self.query} sees, of {visible}, got {key}"
                + ("" if minus is None else f" minus {minus}")
            )
        if minus == "mean" and not others:
            raise InputError(f"token {self.query} sees only itself: required minus=None")
        return {key: 1.0} | {at: -1.0 / len(others) for at in others}

    def form(
        self, weights: Mapping[int, float], key: int
    ) -> tuple[float, Float[Tensor, "d_head pos d_k"]]:
        """The weighted sum of scores, and for each dimension of the query its slope in keys.

        Raises:
            InputError: the scores are not bilinear in queries and keys.
        """
        alone = self._from_pattern and len(weights) == 1  # the constant is unknown: contrast it
        total = self._sum(self.weights(key, "mean") if alone else weights)
        readers, total = self.readers(total), total.detach()
        q, k = self._q[0, self.query, self._head].detach(), self._k[0].flatten(1).detach()
        terms = torch.einsum("d,dpk,pk->p", q, readers, k)
        gap = float((terms.sum() - total).abs() / torch.maximum(terms.abs().sum(), total.abs()))
        if not gap <= torch.finfo(q.dtype).eps ** 0.5:
            raise InputError(
                "required a head whose scores are a bilinear form of queries and keys, got one of "
                f"which {gap:.1%} is missing: it adds terms for positions (ALiBi), caps its scores "
                "in a way that is not known, or its scores are not at a hook"
            )
        if not alone:
            return float(total), readers
        only = torch.zeros_like(readers)
        only[:, key] = readers[:, key]
        return float(terms[key]), only

    def _sum(self, weights: Mapping[int, float]) -> Float[Tensor, ""]:
        return torch.stack([weight * self._seen[at] for at, weight in weights.items()]).sum()

    def readers(self, total: Float[Tensor, ""]) -> Float[Tensor, "d_head pos d_k"]:
        """The second derivatives of a sum of scores, in the query and in keys."""
        (slope,) = torch.autograd.grad(total, self._q, create_graph=True)
        own = slope[0, self.query, self._head]
        (found,) = torch.autograd.grad(
            own, self._k, torch.eye(len(own)).to(own), retain_graph=True, is_grads_batched=True
        )
        return found[:, 0].flatten(2).detach()

    def sides(
        self, readers: Float[Tensor, "d_head pos d_k"]
    ) -> tuple[Float[Tensor, "d_head node"], Float[Tensor, "d_head node"]]:
        """The contributions of nodes to each dimension of the query, and to its slope in keys."""
        q, k = self._live_q[0].flatten(1), self._live_k[0].flatten(1)
        d_head = len(readers)
        units = q.new_zeros(d_head, *self._live_q.shape[1:])
        units[:, self.query, self._head] = torch.eye(d_head).to(q)
        return self._contributions(q, units.flatten(2)), self._contributions(k, readers)

    def _contributions(
        self, tensor: Float[Tensor, "pos d"], seeds: Float[Tensor, "m pos d"]
    ) -> Float[Tensor, "m node"]:
        constants = tensor.new_zeros(len(seeds)).detach()
        rows = self._local.shares(self._local.run.gradients([(tensor, seeds)]), constants)
        require_complete(
            self._local, rows, torch.einsum("mpd,pd->m", seeds, tensor.detach()).tolist()
        )
        return rows
