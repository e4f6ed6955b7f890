"""Run by each of two processes, of which the second does what `how` says while the first trains."""

import os

import torch

import dictlearn as dl
from dictlearn.dictionaries.objectives import SparsityL1

how = globals().get("how")  # given by who runs this
second = os.environ.get("RANK") == "1"


class Dying(SparsityL1):
    """An objective that, in the second process, never comes to its fifth step."""

    steps = 0

    def __call__(self, fit_pass):
        Dying.steps += second
        if Dying.steps == 5 and how == "dies":
            os._exit(3)
        if Dying.steps == 5 and how == "fails":
            raise KeyError("lost")
        return super().__call__(fit_pass)


class DyingSAEConfig(dl.SAEConfig):
    """An SAE with that objective."""

    def objective(self):
        return Dying(self.l1_coefficient)


if __name__ == "__main__":
    seed = int(second and how == "calls otherwise")
    run = dl.FitConfig(steps=1000, batch_size=8, standardize_rows=8, seed=seed)
    dl.fit(DyingSAEConfig(n_features=8), torch.eye(8), run, progress=False)
