"""Sizes of the TokFSM study: the machine, the model, and how long everything is trained."""

import re
from dataclasses import dataclass, replace
from typing import Any

from dictlearn.dictionaries.codebook import CodebookConfig
from dictlearn.finetuning.config import FinetuneConfig
from dictlearn.lm.native import NativeModelConfig
from dictlearn.synthetic.tokfsm import SMALL, TokFSM


@dataclass(frozen=True)
class Row:
    """Codebooks in every head, and after every MLP if they have a k."""

    attention: int = 1
    """Codes chosen in each head."""
    mlp: int | None = None
    """Codes chosen after each MLP; None for no codebook there."""
    config: tuple[tuple[str, Any], ...] = ()
    """Fields of the codebooks other than their size, where they differ from the defaults."""
    run: tuple[tuple[str, Any], ...] = ()
    """Settings of the run that differ."""
    n_codes: float = 1.0
    """Codes of every codebook, as a multiple of those of the recipe."""


@dataclass(frozen=True)
class Recipe:
    """One size of the study."""

    machine: TokFSM
    model: NativeModelConfig
    n_codes: int
    base: FinetuneConfig
    """Training of the model without codebooks."""
    finetune: FinetuneConfig
    """Training of the model through its codebooks."""
    n_steps_ablated: int = 400
    """Steps of the runs that differ in one setting, and of those that are trained end to end."""
    n_evaluated: int = 512
    """Fresh sequences on which losses are measured."""
    n_sampled: int = 200
    """Sequences sampled from the model."""

    def codebooks(self, row: Row) -> dict[str, CodebookConfig]:
        """The codebook at each hook."""
        fields = {"n_codes": int(row.n_codes * self.n_codes), **dict(row.config)}
        found = {}
        for layer in range(self.model.n_layers):
            found[f"blocks.{layer}.attn.hook_z"] = CodebookConfig(
                k=row.attention, n_groups=self.model.n_heads, **fields
            )
            if row.mlp is not None:
                found[f"blocks.{layer}.mlp.hook_out"] = CodebookConfig(k=row.mlp, **fields)
        return found

    def run(self, row: Row, seed: int, steps: int | None = None) -> FinetuneConfig:
        """The settings of the run of a row; of other length if `steps` are given."""
        settings = {"steps": steps or self.finetune.steps} | dict(row.run)
        return replace(self.finetune, seed=seed, **settings)


DETAILED = "attention + MLP k = 1"
"""The row whose codes are looked at."""
TABLE_1 = {
    "attention k = 1": Row(),
    DETAILED: Row(mlp=1),
    "attention + MLP k = 4": Row(mlp=4, config=(("combine", "mean"),)),
    "attention + MLP k = 16": Row(mlp=16, config=(("combine", "mean"),)),
    "attention + MLP k = 128": Row(mlp=128, config=(("combine", "mean"),)),
}
"""The rows of Table 1 of Codebook Features; several codes are averaged, as in the released code."""

ABLATIONS = {
    DETAILED: Row(mlp=1),
    "k = 4, mean": Row(mlp=4, config=(("combine", "mean"),)),
    "k = 4, sum": Row(mlp=4),
    "k = 16, mean": Row(mlp=16, config=(("combine", "mean"),)),
    "k = 16, sum": Row(mlp=16),
    "half the codes": Row(mlp=1, n_codes=0.5),
    "twice the codes": Row(mlp=1, n_codes=2.0),
    "euclidean similarity": Row(mlp=1, config=(("similarity", "euclidean"),)),
    "no auxiliary loss": Row(mlp=1, run=(("local_weight", 0.0),)),
    "unused codes replaced": Row(mlp=1, config=(("replace_after_steps", 50),)),
    "input norm": Row(mlp=1, config=(("input_norm", True),)),
    "codes fall from 16 to 1": Row(mlp=1, run=(("k_start", 16),)),
    "random codes, raw units": Row(mlp=1, run=(("from_data", False),)),
    "model frozen": Row(mlp=1, run=(("model_learning_rate", None),)),
    "learning rate of the model x 5": Row(mlp=1, run=(("model_learning_rate", 1e-3),)),
}
"""Changes of one setting; the first row has none."""

ALONE, JOINT = "own objective alone", "with the loss of the model"
END_TO_END = {
    ALONE: (("model_loss_weight", 0.0),),
    JOINT: (),
    "loss of the model alone": (("local_weight", 0.0),),
}
"""Settings of top-k SAEs after every MLP of the frozen model."""

_SMALL_RUN = FinetuneConfig(
    steps=1000, batch_size=64, learning_rate=1e-2, model_learning_rate=2e-4, dead_after=100
)
_PAPER_RUN = FinetuneConfig(
    steps=20_000, batch_size=512, learning_rate=1e-3, model_learning_rate=1e-3, dead_after=1000
)
RECIPES = {
    "small": Recipe(
        machine=SMALL,
        model=NativeModelConfig(n_layers=2, d_model=64, n_heads=4, d_mlp=256, n_ctx=32, d_vocab=6),
        n_codes=200,
        base=replace(_SMALL_RUN, steps=1500, model_learning_rate=1e-3),
        finetune=_SMALL_RUN,
    ),
    "paper": Recipe(
        machine=TokFSM(),
        model=NativeModelConfig(
            n_layers=4, d_model=128, n_heads=4, d_mlp=512, n_ctx=128, d_vocab=11
        ),
        n_codes=10_000,
        base=_PAPER_RUN,
        finetune=replace(_PAPER_RUN, model_learning_rate=2e-4),
        n_steps_ablated=5000,
        n_evaluated=2048,
        n_sampled=100,
    ),
}
"""The recipes by the name of their size."""


def slug(name: str) -> str:
    """The name as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
