"""Evaluating several dictionaries on the same tokens."""

from benchmarks.peers.language import Setting, builtin
from benchmarks.peers.measure import digits, seconds
from benchmarks.peers.page import Table
from benchmarks.peers.part import Part, Run
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.dictionaries.topk_sae import TopKSAEConfig
from dictlearn.evaluation.faithfulness.evaluate import evaluate
from dictlearn.harvesting import harvest
from dictlearn.records.results import DictionaryRecord, Records
from dictlearn.training.config import FitConfig
from dictlearn.training.fit import fit

_SEQUENCES = 8
"""A forward pass of SAELens: its default, and on the CPU its fastest."""
_SHOWN = {  # a metric of theirs, and the same one of ours
    "l0": "l0",
    "explained_variance": "explained_variance",
    "cossim": "cosine",
    "ce_loss_with_sae": "cross_entropy_spliced",
    "ce_loss_score": "loss_recovered_zero",
    "kl_div_with_sae": "kl",
}


def _dictionaries(run: Run, setting: Setting) -> dict[str, FeatureDictionary]:
    """Top-k SAEs after a few steps: what they hold does not change the work."""
    size = run.size
    configs = {
        f"k{k}": TopKSAEConfig(n_features=size.run_features, k=k)
        for k in range(size.k, size.k + size.evaluated)
    }
    live = harvest(setting.model, setting.train, setting.sites)
    run.done(f"training {len(configs)} dictionaries")
    return fit(configs, live, FitConfig(steps=20, batch_size=1024), progress=False)


def _evaluation(run: Run) -> list[Table]:
    from benchmarks.peers import saelens_runs

    size = run.size
    setting = builtin(5_000, size.eval_sequences * 255)
    tokens = setting.held_out
    dictionaries = _dictionaries(run, setting)
    found: list[Records] = []
    theirs: list[dict[str, float]] = []
    dataset = saelens_runs.as_dataset(tokens)
    context = tokens.ids.shape[1]
    names = list(dictionaries)[: size.evaluated_by_saelens]
    ours_took, took = [], []
    for name in names:
        run.done(f"dictlearn, {len(dictionaries)} dictionaries")
        ours_took.append(
            seconds(
                lambda: found.append(
                    evaluate(
                        dictionaries, setting.model, tokens, ablations=["zero"], progress=False
                    )
                )
            )
        )
        run.done(f"SAELens, {name}")
        sae = saelens_runs.converted(dictionaries[name], setting, context)
        took.append(
            seconds(
                lambda sae=sae: theirs.append(
                    saelens_runs.evaluate(sae, setting, dataset, len(tokens), _SEQUENCES)
                )
            )
        )
    ours_seconds = sum(ours_took) / len(ours_took)
    their_seconds = sum(took) / len(took) * len(dictionaries)
    table = Table(
        f"{len(dictionaries)} top-k SAEs ({size.run_features:,} of width "
        f"{setting.sites.target.d}) of {setting.name} on {tokens.n_tokens:,} tokens",
        ("library", "seconds", "time / dictlearn's"),
    )
    table.add("dictlearn, one `evaluate`", digits(ours_seconds), "1")
    table.add(
        f"SAELens, `run_evals` {len(dictionaries)} times",
        digits(their_seconds),
        digits(their_seconds / ours_seconds),
    )
    table.notes.append(
        f"in turn: dictlearn {' and '.join(map(digits, ours_took))} s, SAELens "
        f"{' and '.join(map(digits, took))} s for one, of which the mean counts "
        f"{len(dictionaries)} times"
    )
    return [table, _agreement(theirs[0], found[0].dictionaries[names[0]], names[0])]


def _agreement(theirs: dict[str, float], ours: DictionaryRecord, name: str) -> Table:
    table = Table(
        f"The same metrics of the first dictionary ({name})", ("metric", "SAELens", "dictlearn")
    )
    for their_name, our_name in _SHOWN.items():
        value = ours.metrics[our_name].value
        table.add(our_name, f"{theirs[their_name]:.4f}", f"{value:.4f}")
    return table


EVALUATION = Part(
    "Evaluation",
    "The same top-k SAEs (ours, converted to SAELens' class with the same weights) on the same "
    "held-out tokens: L0, explained variance, cosine, norms, densities, cross-entropy and KL "
    "divergence with the estimate spliced in and with zeros. `evaluate` measures top-1 agreement "
    "on the way, and leaves out its two further ablations (`ablations=['zero']`). The metrics of "
    "one dictionary by both libraries stand below; SAELens counts a prediction by the token it is "
    "made from, dictlearn by the token that is predicted, so cross-entropies differ by the few "
    "that follow or precede a special token.",
    _evaluation,
)
