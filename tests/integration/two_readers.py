"""Run by one process, or by each of two: harvests a store and trains on a live stream into `out`.

The second process does what `how` says in the third pass of the model for the store. Each process
leaves the number of whole batches that it read for the store and for training in `read-RANK.json`.
"""

import json
import os
from functools import partial
from pathlib import Path

import pytest

import dictlearn as dl
from dictlearn.activations import store
from dictlearn.core.errors import ProcessError
from dictlearn.distributed.launching import join

BATCH = 32
"""Blocks in a pass."""
CONFIGS = {
    "sae": dl.SAEConfig(n_features=32, l1_coefficient=3.0, resample_steps=(15, 25),
                        resample_window=2, resample_rows=128),
    "topk": dl.TopKTranscoderConfig(n_features=64, k=2),
    "pca": dl.PCAConfig(k=3),
    "kmeans": dl.KMeansConfig(n_features=8),
}  # fmt: skip
RUN = dl.FitConfig(
    steps=100, batch_size=64, standardize_rows=128, dead_after=3, learning_rate=3e-2,
    max_norm_ratio=3.0, dtype="float64",
)  # fmt: skip


def main(out: Path, how: str) -> None:
    store.SHARD_BYTES = 500_000  # six shards, none of which ends where a batch does
    rank = join().rank
    model = dl.load_model("builtin:stories")
    tokens = dl.load_tokens("builtin:stories", model, n_tokens=9_600, context=16)
    passes: list[int] = []

    def passing(_: object, given: tuple) -> None:
        passes.append(len(given[0]))
        if rank == (how != "first dies") and passes.count(BATCH) == 3:
            if how == "fails":
                passes.append(BATCH)  # it does so once
                raise RuntimeError("out of luck")
            if how.endswith("dies"):
                os._exit(3)

    model.register_forward_pre_hook(passing)
    sites = dl.mlp_sites(model, 1)
    live = dl.harvest(model, tokens, sites, batch_size=BATCH)
    harvest = partial(dl.harvest, model, tokens, sites, batch_size=BATCH, progress=False)
    if how == "fails":
        with pytest.raises(RuntimeError if rank == 1 else ProcessError, match="out of luck"):
            harvest(out / "store")
        assert rank == 1 or list((out / "store").iterdir()) == []
    harvest(out / "store")
    counts = {"stored": passes.count(BATCH)}  # trials of shortcuts are of other sizes
    passes.clear()
    if how == "trains":
        dl.fit(CONFIGS, live, RUN, out=out / "dictionaries", progress=False)
        counts["trained"] = passes.count(BATCH)
        if rank == 0:
            assert len(live.rows(1, 0, 8)) == 8, "outside of training, a process reads alone"
    (out / f"read-{rank}.json").write_text(json.dumps(counts), encoding="utf-8")


if __name__ == "__main__":
    main(globals()["out"], globals()["how"])  # given by the test that runs this
