"""Quantities measured on a model of TokFSM that runs through its codebooks."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from dictlearn.core.batches import Rows
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.experiments.codes import best_by_label, frequencies, mean_scores, score_codes
from dictlearn.interventions.features import PassFeatures, Substitute
from dictlearn.interventions.inside import inside
from dictlearn.lm.forward import activations_at
from dictlearn.lm.generation import generate
from dictlearn.lm.hooks import LanguageModel
from dictlearn.metrics.divergence import jensen_shannon_divergence
from dictlearn.metrics.purity import purity
from dictlearn.metrics.reconstruction import fraction_variance_unexplained
from dictlearn.synthetic.tokfsm import TokFSM

Dictionaries = Mapping[str, FeatureDictionary]
HELD_OUT = 10**9
"""Seeds from here on are not used in training."""


@torch.no_grad()
def prediction(
    machine: TokFSM, model: LanguageModel, dictionaries: Dictionaries, n: int
) -> dict[str, float]:
    """Next-token loss in nats and accuracy on `n` fresh sequences, and the dead fraction."""
    loss = hits = predicted = 0.0
    fired = {name: torch.zeros(d.n_features) for name, d in dictionaries.items()}
    with inside(model, dictionaries) as running:
        for i, size in enumerate(torch.arange(n).split(128)):
            ids = machine.sample(len(size), HELD_OUT + i)
            logits, targets = model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
            loss += float(cross_entropy(logits, targets, reduction="sum"))
            hits += float((logits.argmax(dim=1) == targets).sum())
            predicted += len(targets)
            for name in dictionaries:
                fired[name] += running[name].acts.firing_counts()
    found = {"loss": loss / predicted, "accuracy": hits / predicted}
    if fired:
        found["dead"] = float((torch.cat(list(fired.values())) == 0).float().mean())
    return found


def transitions(
    machine: TokFSM, model: LanguageModel, dictionaries: Dictionaries, n: int, seed: int
) -> float:
    """The fraction of legal transitions in `n` sequences that the model samples from BOS."""
    start = torch.full((n, 1), machine.bos)
    with inside(model, dictionaries):
        ids = generate(model, start, machine.context - 1, seed=seed)
    return machine.transition_accuracy(ids)[0]


@torch.no_grad()
def purities(
    machine: TokFSM, model: LanguageModel, dictionaries: Dictionaries
) -> dict[str, dict[str, float]]:
    """The purity of each dictionary's codes at the last position, by n-gram and dictionary.

    A dictionary that chooses several codes partitions the inputs by the set of them.
    """
    found: dict[str, dict[str, float]] = {}
    for gram, ids in (("bigram", machine.bigrams()), ("trigram", machine.trigrams())):
        with inside(model, dictionaries) as running:
            model(ids)
        found[gram] = {name: purity(_last(running[name])) for name in dictionaries}
    return found


def _last(found: PassFeatures) -> Int[Tensor, "b k"]:
    """The codes at the last position, sorted, padded with -1 where a code has several slots."""
    b, pos = found.positions.shape
    acts = found.acts.select(torch.arange(b) * pos + pos - 1)
    counts = acts.l0()
    codes = torch.full((b, int(counts.max())), -1)
    place = torch.arange(len(acts.indices)) - acts.offsets[:-1].repeat_interleave(counts)
    codes[acts.rows(), place] = acts.indices
    return codes.sort(dim=1).values


@torch.no_grad()
def intervention_divergence(
    machine: TokFSM,
    model: LanguageModel,
    dictionaries: Dictionaries,
    components: Mapping[str, Iterable[str]],
) -> dict[str, float]:
    """The distance of predictions from those of another input whose codes are patched in.

    For every ordered pair of different states (a, b), the codes of b at the last position replace
    those of a at the dictionaries of a component; the value is the mean Jensen-Shannon divergence
    of the prediction from that of b, divided by that without a patch. 0 if codes decide everything,
    1 if they decide nothing; a part may exceed 1.
    """
    ids = machine.bigrams()
    n, last = len(ids), ids.shape[1] - 1
    with inside(model, dictionaries) as running:
        wanted = model(ids)[:, -1].log_softmax(dim=1)
    codes = {name: running[name] for name in dictionaries}
    a, b = torch.arange(n).repeat_interleave(n), torch.arange(n).repeat(n)
    a, b = a[a != b], b[a != b]

    def mean_divergence(names: Iterable[str]) -> float:
        edits = [Substitute(codes[m].sequences(b), at=m, positions=last) for m in names]
        with inside(model, dictionaries, edits=edits):
            patched = model(ids[a])[:, -1].log_softmax(dim=1)
        return float(jensen_shannon_divergence(patched, wanted[b]).mean())

    unpatched = mean_divergence(())
    return {"none": 1.0} | {
        name: mean_divergence(members) / unpatched for name, members in components.items()
    }


@torch.no_grad()
def state_precision(
    machine: TokFSM,
    model: LanguageModel,
    dictionaries: Dictionaries,
    base: LanguageModel,
    neurons: Sequence[str],
    n: int,
) -> dict[str, dict[str, float]]:
    """The mean precision of codes as detectors of states, and of the best neuron at equal recall.

    Tokens are the second digits of states; labels and neurons are chosen on one half of the
    sequences. Neurons are the dimensions at the hooks `neurons` of the `base` model. Means are over
    "all codes", and over the "best code of each state".
    """
    ids = machine.sample(n, HELD_OUT + 10**6)
    states = machine.states(ids)
    rows = (states >= 0).flatten().nonzero()[:, 0]
    with inside(model, dictionaries) as running:
        model(ids)
    at = activations_at(base, ids, neurons)
    scores = score_codes(
        {name: running[name].acts.select(rows) for name in dictionaries},
        torch.cat([at[hook].flatten(0, 1) for hook in neurons], dim=1)[rows],
        one_hot(states.flatten()[rows], machine.n_states).bool(),
        rows < ids.numel() // 2,
    )
    groups = {"all codes": scores, "best code of each state": list(best_by_label(scores).values())}
    chance = {"chance": 1 / machine.n_states}
    return {name: mean_scores(some) | chance for name, some in groups.items()}


@torch.no_grad()
def code_frequencies(
    machine: TokFSM, model: LanguageModel, dictionaries: Dictionaries, n: int
) -> dict[str, list[float]]:
    """The fraction of tokens on which each code is active, the most frequent first."""
    with inside(model, dictionaries) as running:
        model(machine.sample(n, HELD_OUT))
    return frequencies({name: running[name].acts for name in dictionaries})


@torch.no_grad()
def variance_unexplained(
    machine: TokFSM, model: LanguageModel, dictionaries: Dictionaries, n: int
) -> float:
    """The fraction of variance unexplained of clean activations, averaged over dictionaries."""
    ids = machine.sample(n, HELD_OUT)
    hooks = [hook for d in dictionaries.values() for hook in d.sites.hooks]
    at = activations_at(model, ids, list(dict.fromkeys(hooks)))
    rows = Rows({hook: x.flatten(0, 1) for hook, x in at.items()})
    found = []
    for dictionary in dictionaries.values():
        batch = rows.batch(dictionary.sites)
        y_hat = dictionary.estimate(batch.x, dictionary.encode_sparse(batch.x))
        found.append(float(fraction_variance_unexplained(batch.y, y_hat)))
    return fmean(found)
