"""Train, evaluate and compare feature dictionaries on the activations of language models.

import dictlearn as dl

model = dl.load_model("builtin:stories")
train = dl.load_tokens("builtin:stories", model, split="train", n_tokens=500_000)
activations = dl.harvest(model, train, dl.mlp_sites(model, 1), out="runs/mlp1")
configs = {"sae": dl.SAEConfig(n_features=1024), "codes": dl.CodebookConfig(n_codes=1024, k=8)}
dictionaries = dl.fit(configs, activations, dl.FitConfig(steps=2000))
held_out = dl.load_tokens("builtin:stories", model, split="held_out", n_tokens=50_000)
dl.evaluate(dictionaries, model, held_out).to_pandas()
"""

import lazy_loader

import dictlearn._threads  # noqa: F401  (before torch)
from dictlearn.core.errors import nearest as _nearest

_exported, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    if name in __all__ or name.startswith("_"):
        return _exported(name)
    raise AttributeError(f"dictlearn has no {name!r}; {_nearest(name, __all__)}")
