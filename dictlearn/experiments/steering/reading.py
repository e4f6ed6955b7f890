"""Codes of a language model as detectors of concepts, beside the neurons of its MLPs."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dictlearn.core.sparse_acts import SparseActs
from dictlearn.core.tokens import Tokens
from dictlearn.experiments.codes import best_by_label, frequencies, mean_scores, score_codes
from dictlearn.experiments.experiment import Found
from dictlearn.finetuning.finetuned import Finetuned
from dictlearn.interventions.inside import inside
from dictlearn.lm.forward import reading
from dictlearn.lm.hooks import LanguageModel
from dictlearn.text.concepts import DEFAULT_CONCEPTS, concept_labels

_BATCH = 16
LEAST_MATCHES = 20
"""Concepts with fewer matching tokens in either half of the text are left out."""


@torch.no_grad()
def concept_precision(codes: Finetuned, base: LanguageModel, tokens: Tokens) -> Found:
    """How precisely codes detect concepts, beside the neurons of `base`; and their frequencies.

    Codes are those of the model that runs through its codebooks. Labels and neurons are chosen on
    the first half of the sequences and scored on the second; special tokens are left out.
    """
    rows = tokens.ordinary.flatten().nonzero()[:, 0]
    first = rows < len(tokens) // 2 * tokens.ids.shape[1]
    labels = concept_labels(tokens, base.tokenizer, DEFAULT_CONCEPTS).flatten(1).T[rows]
    counts = torch.stack([labels[half].sum(dim=0) for half in (first, ~first)])
    enough = counts.amin(dim=0) >= LEAST_MATCHES
    labels = labels[:, enough]
    names = [c.name for c, ok in zip(DEFAULT_CONCEPTS, enough.tolist(), strict=True) if ok]
    acts = _codes(codes, tokens, rows)
    scores = score_codes(acts, _neurons(base, tokens)[rows], labels, first)
    concepts = {
        names[label]: {
            "base_rate": float(labels[~first, label].float().mean()),
            "codes": best.precision, "neurons": best.neuron, "recall": best.recall,
            "code": f"{best.dictionary} {best.code}",
        }
        for label, best in best_by_label(scores).items()
    }  # fmt: skip
    return {
        "n_concepts": len(names), "concepts": concepts, "frequencies": frequencies(acts),
        "all codes": mean_scores(scores),
        "best code of each concept": mean_scores(list(best_by_label(scores).values())),
    }  # fmt: skip


def _codes(codes: Finetuned, tokens: Tokens, rows: Int[Tensor, " n"]) -> dict[str, SparseActs]:
    """The codes at `rows` of all tokens, by dictionary."""
    parts: dict[str, list[SparseActs]] = {name: [] for name in codes.dictionaries}
    with inside(codes.model, codes.dictionaries) as running:
        for ids in tokens.ids.split(_BATCH):
            codes.model(ids)
            for name, found in parts.items():
                found.append(running[name].acts)
    return {
        name: SparseActs.concatenated(found, codes.dictionaries[name].n_features).select(rows)
        for name, found in parts.items()
    }


def _neurons(model: LanguageModel, tokens: Tokens) -> Float[Tensor, "token neuron"]:
    """The hidden neurons of all MLPs."""
    hooks = [f"blocks.{layer}.mlp.hook_post" for layer in range(model.cfg.n_layers)]
    found = []
    with reading(model, hooks) as read:
        for ids in tokens.ids.split(_BATCH):
            at = read(ids)
            found.append(torch.cat([at[hook].flatten(0, 1) for hook in hooks], dim=1))
    return torch.cat(found)
