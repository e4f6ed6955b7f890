"""The dictionaries of a study, with the learning rates that validation tokens decide for."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import count
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console

from dictlearn.comparison.statistics.learning_rates import chosen_rates
from dictlearn.core.batches import Activations
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.kinds import DictionaryConfig
from dictlearn.dictionaries.files import CONFIG_FILE, load
from dictlearn.dictionaries.random import RandomConfig
from dictlearn.distributed.tasks import Task, run_tasks
from dictlearn.evaluation.faithfulness.evaluate import evaluate
from dictlearn.harvesting import harvest
from dictlearn.progress import progress, timed
from dictlearn.records.results import RESULTS_FILE, Records
from dictlearn.studies.folder import SEARCH
from dictlearn.studies.inputs import Inputs
from dictlearn.studies.study import Place, RateSearch
from dictlearn.training.checkpoints import CHECKPOINT_FILE
from dictlearn.training.config import FitConfig
from dictlearn.training.fit import fit
from dictlearn.training.output import stopped_in
from dictlearn.training.progress import LOG_FILE

_BATCHES_OF_A_BASELINE = 100
"""Number of batches that baselines are fitted to; fewer give a biased mean ablation."""
Rates = Mapping[tuple[Place, str], float]
"""The learning rate of each kind at each place."""


class _Run(NamedTuple):
    """Dictionaries that are trained together, and their folder."""

    place: Place
    folder: Path
    configs: Mapping[str, DictionaryConfig]
    fit: FitConfig


@dataclass(frozen=True)
class Training:
    """The dictionaries of a study, trained where its folder does not have them."""

    inputs: Inputs
    nproc: int = 1
    """The processes in which runs of training share the machine."""

    @cached_property
    def dictionaries(self) -> dict[str, FeatureDictionary]:
        """All dictionaries of the study: of every seed at full length, and the baselines."""
        study = self.inputs.study
        found: dict[str, FeatureDictionary] = {}
        self._train([
            run for seed in study.seeds for place in study.places
            for run in self._planned(place, seed, study.fit.steps)
        ])  # fmt: skip
        for place in study.places:
            learned: dict[str, FeatureDictionary] = {}
            for seed in study.seeds:
                learned |= self._learned(place, seed, study.fit.steps)
            fit_config = replace(study.fit, steps=_BATCHES_OF_A_BASELINE, seed=study.seeds[0])
            plain = {**study.baselines, **self._randoms(place, learned)}
            folder = self.inputs.folder(place) / "baselines"
            fixed = self._fitted(_Run(place, folder, plain, fit_config))
            found |= learned | {self.name(name, place): d for name, d in fixed.items()}
        return found

    def after(self, steps: int) -> dict[str, FeatureDictionary]:
        """The dictionaries of the first seed after a length of the search, without baselines."""
        study = self.inputs.study
        return {
            name: dictionary
            for place in study.places
            for name, dictionary in self._learned(place, study.seeds[0], steps).items()
        }

    def logs(self) -> dict[str, Path]:
        """The training logs of one seed by place, and of runs in which something diverged.

        It is the first seed, or the last where the first one's runs are those of a search.
        """
        study = self.inputs.study
        shown = study.seeds[-1 if study.search else 0]
        return {
            self.name(f"rate {rate:g}" if study.search else "", place,
                      None if seed == shown else seed): folder / LOG_FILE
            for place in study.places
            for seed in study.seeds
            for rate, folder in self._runs(place, seed, study.fit.steps).items()
            if seed == shown or stopped_in(folder)
        }  # fmt: skip

    def name(self, name: str, place: Place, seed: int | None = None) -> str:
        """The name of a dictionary among all of the study."""
        study, parts = self.inputs.study, [name]
        if len(study.places) > 1:
            parts.append(str(place))
        if seed is not None and len(study.seeds) > 1:
            parts.append(f"s{seed}")
        return " ".join(filter(None, parts))

    # Search

    @cached_property
    def _rates(self) -> dict[int, Rates]:
        """The rates chosen at each length, after the runs and evaluations that decide."""
        study, found = self.inputs.study, dict[int, Rates]()
        assert study.search
        rates: Rates | None = None
        for steps in study.lengths:
            rates = found[steps] = self._chosen(self._validated(study.search, steps, rates))
        return found

    def _validated(self, search: RateSearch, steps: int, before: Rates | None) -> Records:
        """The results on validation tokens of all rates tried at a length."""
        own = self.inputs.own.folder(SEARCH, str(steps))
        if not (own.path / RESULTS_FILE).exists():
            runs = self._tried(search, steps, before)
            self._train(runs)
            found = {
                self.name(f"{name} rate {run.fit.learning_rate:g}", run.place): dictionary
                for run in runs
                for name, dictionary in self._fitted(run).items()
            }
            evaluate(found, self.inputs.model, self.inputs.validation).save(own)
        return Records.load(own.path)

    def _tried(self, search: RateSearch, steps: int, before: Rates | None) -> list[_Run]:
        """The runs of all rates that are tried at a length."""
        study = self.inputs.study
        return [
            _Run(
                place,
                self._searched(place, steps, rate),
                {
                    name: config
                    for name, config in study.learned.items()
                    if before is None or rate in search.around(before[place, config.kind])
                },
                replace(study.fit, steps=steps, seed=study.seeds[0], learning_rate=rate),
            )
            for place in study.places
            for rate in search.learning_rates
        ]

    def _chosen(self, validation: Records) -> Rates:
        """The best rate of each kind at each place, by results on validation tokens."""
        places = {str(p.sites(self.inputs.model).target): p for p in self.inputs.study.places}
        return {
            (places[hook], kind): rate for (hook, kind), rate in chosen_rates(validation).items()
        }

    def _searched(self, place: Place, steps: int, rate: float) -> Path:
        return self.inputs.folder(place) / SEARCH / str(steps) / f"rate{rate:g}"

    # Runs

    def _runs(self, place: Place, seed: int, steps: int) -> dict[float | None, Path]:
        """The folders of the runs that train the dictionaries of a seed, by learning rate."""
        study = self.inputs.study
        folder = self.inputs.folder(place) / "dictionaries"
        if len(study.seeds) > 1:
            folder /= f"seed{seed}"
        if not study.search:
            return {study.fit.learning_rate: folder}
        rates = sorted({rate for (at, _), rate in self._rates[steps].items() if at == place})
        if seed == study.seeds[0]:
            return {rate: self._searched(place, steps, rate) for rate in rates}
        return {rate: folder / f"rate{rate:g}" for rate in rates}

    def _planned(self, place: Place, seed: int, steps: int) -> list[_Run]:
        """The runs of one place, seed and length, with the kinds whose rate each has."""
        study = self.inputs.study
        return [
            _Run(
                place,
                folder,
                {
                    name: config
                    for name, config in study.learned.items()
                    if not study.search or self._rates[steps][place, config.kind] == rate
                },
                replace(study.fit, steps=steps, seed=seed, learning_rate=rate),
            )
            for rate, folder in self._runs(place, seed, steps).items()
        ]

    def _learned(self, place: Place, seed: int, steps: int) -> dict[str, FeatureDictionary]:
        """The dictionaries of one place, seed and length, each at the rate of its kind."""
        found: dict[str, FeatureDictionary] = {}
        for run in self._planned(place, seed, steps):
            found |= self._fitted(run)
        learned = self.inputs.study.learned
        return {self.name(n, place, seed): found[n] for n in learned if n in found}

    def _fitted(self, run: _Run) -> dict[str, FeatureDictionary]:
        """The dictionaries of a run but for those that diverged, trained first if need be."""
        self._train([run])
        left = run.configs.keys() - stopped_in(run.folder)
        return {name: load(run.folder / name) for name in run.configs if name in left}

    def _train(self, runs: Sequence[_Run]) -> None:
        """Train the dictionaries that their folders do not have."""
        tasks: dict[str, Task] = {}
        for place, folder, configs, config in runs:
            begun = (folder / CHECKPOINT_FILE).exists()
            left = configs.keys() - stopped_in(folder)
            if begun or not all((folder / name / CONFIG_FILE).exists() for name in left):
                store = self.inputs.activations(place)
                out = self.inputs.written(folder, "training")
                work = partial(
                    _fit, configs, store, config, out,
                    overwrite=not begun, progress=self.nproc == 1,
                )  # fmt: skip
                tasks[str(folder.relative_to(self.inputs.own.path))] = Task(work)
        if tasks:
            Console(stderr=True).print(f"training {', '.join(tasks)}", highlight=False)
            finished = count(1)
            with timed("train"), progress("training", len(tasks), show=self.nproc > 1) as done:
                run_tasks(tasks, self.nproc, lambda name, _: done(next(finished)))

    @torch.no_grad()
    def _randoms(
        self, place: Place, learned: Mapping[str, FeatureDictionary]
    ) -> dict[str, DictionaryConfig]:
        """A random dictionary for each L0 of the learned ones on held-out tokens, rounded up."""
        n_features = self.inputs.study.randoms_with
        if n_features is None:
            return {}
        live = harvest(self.inputs.model, self.inputs.held_out, place.sites(self.inputs.model))
        rows = live.rows(0, 0, live.n_rows)
        found = set()
        for dictionary in learned.values():
            acts = dictionary.encode_sparse(rows.batch(dictionary.sites).x)
            found.add(math.ceil(float(acts.l0().float().mean())))
        return {f"random_k{k}": RandomConfig(n_features=n_features, k=k) for k in sorted(found)}


def _fit(
    configs: Mapping[str, DictionaryConfig],
    activations: Activations,
    config: FitConfig,
    out: Path,
    *,
    overwrite: bool,
    progress: bool,
) -> None:
    """Train dictionaries, and leave them in their folder."""
    fit(configs, activations, config, out=out, overwrite=overwrite, progress=progress)
