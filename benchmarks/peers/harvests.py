"""Reading activations, in units of the bare forward pass that must be paid anyway."""

from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.peers import ours_runs
from benchmarks.peers.language import Setting, builtin, not_there, second
from benchmarks.peers.measure import Work, digits, in_turn
from benchmarks.peers.page import Table
from benchmarks.peers.part import Part, Run
from benchmarks.peers.peer import Plan


def _table(run: Run, setting: Setting, folder: Path) -> Table:
    from benchmarks.peers import saelens_runs

    size = run.size
    plan = Plan(setting.sites.target.d, 1, 1, steps=1000, learning_rate=1e-3)
    dataset = saelens_runs.as_dataset(setting.train)
    n_rows = int(setting.train.ordinary.sum())
    batch = size.run_batch
    works: dict[str, Work] = {
        "dictlearn, `harvest` to disk": lambda: ours_runs.store(setting, folder / "store"),
        "dictlearn, live batches": lambda: ours_runs.stream(setting, n_rows, batch),
        "SAELens, `ActivationsStore`": lambda: saelens_runs.stream(
            setting, plan, dataset, n_rows, batch
        ),
    }
    timings = in_turn(
        works,
        rounds=size.harvest_rounds,
        unit=lambda: setting.bare_forward(setting.train.ids),
        done=lambda label: run.done(f"{setting.name}: {label}"),
    )
    ids = setting.train.ids
    table = Table(
        f"{setting.name}, `{setting.hook}`: {ids.shape[0]:,} sequences of {ids.shape[1]}",
        ("what", "bare forward passes", "tokens / s"),
    )
    for name, timing in timings.items():
        speed = ids.numel() / sorted(timing.seconds)[len(timing.seconds) // 2]
        table.add(name, str(timing.units()), digits(speed))
    bare = sorted(u for t in timings.values() for u in t.unit_seconds)
    table.add("the bare forward pass", "1", digits(ids.numel() / bare[len(bare) // 2]))
    return table


def _harvests(run: Run) -> list[Table]:
    n_tokens = run.size.harvest_tokens
    found = (builtin(n_tokens, 0), second(run, n_tokens, 0))
    tables = []
    for setting in found:
        with TemporaryDirectory() as folder:
            tables.append(_table(run, setting, Path(folder)) if setting else not_there())
    return tables


HARVEST = Part(
    "Harvest",
    "From tokens to rows of activations at one hook, in units of the model's own forward pass to "
    "the end of that layer (`model(ids, stop_at_layer=...)`, in the batches in which it is "
    "fastest, nothing kept). Libraries choose their own batches. `harvest` writes float32 rows to "
    "disk; live batches and SAELens' store hold shuffled rows in memory. dictlearn runs attention "
    "without its table of scores where nobody reads it, so it can take less than the bare pass. "
    "SAELens' harvest to disk (`CacheActivationsRunner`) loads its model by a name on the hub, so "
    "it takes no part; dictionary_learning and sparsify read activations through modules of "
    "Hugging Face models, without hooks of TransformerLens.",
    _harvests,
)
