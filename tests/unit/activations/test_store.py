import json
import shutil
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dictlearn.activations import store as store_module
from dictlearn.activations.store import ActivationStore, estimated_bytes, write_store
from dictlearn.activations.tensors import TensorActivations
from dictlearn.core.batches import Rows
from dictlearn.core.errors import CorruptFileError, InputError, NonFiniteError, StorageError
from dictlearn.core.file_lists import LIST_FILE
from dictlearn.core.mlp_weights import MLPWeights
from dictlearn.core.provenance import Provenance
from dictlearn.core.sites import Site, Sites

N_ROWS = 100
ROWS_PER_SHARD = 16  # by the fixture small_shards
SITES = Sites(Site("blocks.0.in", 4), Site("blocks.0.out", 3))
X = torch.randn(N_ROWS, 4, generator=torch.Generator().manual_seed(0))
Y = torch.randn(N_ROWS, 3, generator=torch.Generator().manual_seed(1))
PROVENANCE = Provenance(model="toy", model_hash="abc", split="train", exclude_special=False)
TOKENS = {"source": "stories", "hash": "123", "n_tokens": 100}


def batches(x: torch.Tensor = X, y: torch.Tensor = Y, size: int = 13) -> Iterator[Rows]:
    for a, b in zip(x.split(size), y.split(size), strict=True):
        yield Rows({SITES.source.hook: a, SITES.target.hook: b})


def write(out: Path, rows: Iterator[Rows] | None = None, **changes) -> ActivationStore:
    options = {
        "sites": [SITES], "n_rows": N_ROWS, "dtype": torch.float32, "provenance": PROVENANCE,
        "tokens": TOKENS,
    } | changes  # fmt: skip
    return write_store(out, batches() if rows is None else rows, **options)


def same(a: Rows, b: Rows) -> bool:
    return a.at.keys() == b.at.keys() and all(torch.equal(x, b.at[h]) for h, x in a.at.items())


def test_a_store_gives_the_rows_that_tensors_give(tmp_path):
    write(tmp_path)
    stored, in_memory = ActivationStore.open(tmp_path), TensorActivations(X, Y, sites=SITES)
    for seed, step, n in [(0, 0, 10), (0, 3, 10), (1, 0, 100), (0, 1, 64), (2, 0, 250), (0, 0, 1)]:
        assert same(stored.rows(seed, step, n), in_memory.rows(seed, step, n))


def test_what_was_written_is_what_is_offered(tmp_path):
    for store in (write(tmp_path), ActivationStore.open(tmp_path, verify=True)):
        assert store.sites == (SITES,)
        assert store.n_rows == N_ROWS
        assert store.provenance == PROVENANCE
        assert store.tokens == TOKENS
        assert store.dtype == torch.float32
        assert store.path == tmp_path


def test_the_folder_holds_shards_of_the_target_size_and_a_manifest(tmp_path):
    write(tmp_path)
    names = [f"shard_{i:05d}.safetensors" for i in range(7)]
    assert sorted(p.name for p in tmp_path.iterdir()) == [LIST_FILE, "manifest.json", *names]
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert [shard["n_rows"] for shard in manifest["shards"]] == [16] * 6 + [4]
    assert manifest["widths"] == {"blocks.0.in": 4, "blocks.0.out": 3}


@pytest.mark.parametrize("size", [1, 16, 99, 100])
def test_the_size_of_batches_does_not_matter(tmp_path, size):
    a, b = write(tmp_path / "a"), write(tmp_path / "b", batches(size=size))
    for i in range(7):
        name = f"shard_{i:05d}.safetensors"
        assert (a.path / name).read_bytes() == (b.path / name).read_bytes()


def test_order_of_access_and_freshness_change_nothing(tmp_path):
    write(tmp_path)
    sequential = [ActivationStore.open(tmp_path).rows(4, step, 30) for step in range(6)]
    store = ActivationStore.open(tmp_path)
    for step in [5, 0, 3, 3, 1]:
        assert same(store.rows(4, step, 30), sequential[step])


def test_batches_do_not_alias_the_store(tmp_path):
    store = write(tmp_path)
    before = store.rows(0, 0, 20)
    for x in store.rows(0, 0, 20).at.values():
        x.zero_()
    assert same(store.rows(0, 0, 20), before)


def test_bfloat16_round_trip(tmp_path):
    write(tmp_path, dtype=torch.bfloat16)
    stored = ActivationStore.open(tmp_path, verify=True)
    assert stored.dtype == torch.bfloat16
    rounded = TensorActivations(X.bfloat16(), Y.bfloat16(), sites=SITES)
    assert same(stored.rows(0, 0, 50), rounded.rows(0, 0, 50))


def test_several_sites_share_hooks(tmp_path):
    at_target = SITES.at_target()
    write(tmp_path, sites=[SITES, at_target])
    store = ActivationStore.open(tmp_path)
    assert store.sites == (SITES, at_target)
    assert list(store.select(at_target).rows(0, 0, 5).at) == [SITES.target.hook]


def test_locate_names_shard_and_row(tmp_path):
    store = write(tmp_path)
    for row, value in enumerate(store.rows(9, 1, 40).at[SITES.source.hook]):
        shard, number = store.locate(9, 1, 40, row).split(".safetensors, row ")
        assert int(number) < ROWS_PER_SHARD
        position = int(shard.removeprefix("shard_")) * ROWS_PER_SHARD + int(number)
        assert torch.equal(X[position], value)


def mlp(gated: bool, act_name: str) -> MLPWeights:
    generator = torch.Generator().manual_seed(0)
    W_in, W_gate = torch.randn(2, 4, 6, generator=generator)
    return MLPWeights(
        W_in=W_in, b_in=torch.ones(6), W_out=torch.randn(6, 3, generator=generator),
        b_out=torch.zeros(3), act_name=act_name, W_gate=W_gate if gated else None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("gated", "act_name"), [(False, "relu"), (False, "gelu"), (False, "gelu_new"), (True, "silu")]
)
def test_mlp_weights_round_trip(tmp_path, gated, act_name):
    given = mlp(gated, act_name)
    write(tmp_path, sites=[SITES.at_target(), SITES], mlps={SITES: given})
    store = ActivationStore.open(tmp_path, verify=True)
    assert store.mlp_weights(SITES.at_target()) is None
    restored = store.select(SITES).mlp_weights(SITES)
    assert restored.act_name == act_name
    assert torch.equal(restored.hidden(X) @ restored.W_out, given.hidden(X) @ given.W_out)
    for name in ("W_in", "b_in", "W_out", "b_out", "W_gate"):
        a, b = getattr(restored, name), getattr(given, name)
        assert a is b if b is None else torch.equal(a, b)


def test_the_estimate_is_close_and_names_no_headers(tmp_path):
    mlps = {SITES: mlp(gated=False, act_name="relu")}
    write(tmp_path, sites=[SITES], mlps=mlps)
    files = list(tmp_path.glob("*.safetensors"))
    written = sum(path.stat().st_size for path in files)
    estimate = estimated_bytes([SITES], N_ROWS, torch.float32, mlps.values())
    assert 0 <= written - estimate <= 500 * len(files)


# Failures while writing


def assert_no_store(folder: Path) -> None:
    assert list(folder.iterdir()) == []
    with pytest.raises(CorruptFileError, match="did not finish"):
        ActivationStore.open(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3.4e38])
def test_a_value_that_is_not_finite_names_shard_and_row(tmp_path, value):
    y = Y.clone()
    rows_per_shard = 2 * ROWS_PER_SHARD  # of half the width; 3.4e38 overflows bfloat16 only
    y[2 * rows_per_shard + 5, 1] = value
    message = r"shard_00002.safetensors, hook 'blocks.0.out': .* row 5"
    with pytest.raises(NonFiniteError, match=message):
        write(tmp_path, batches(y=y), dtype=torch.bfloat16)
    assert_no_store(tmp_path)


def test_a_harvest_that_fails_half_way_leaves_nothing(tmp_path):
    def failing() -> Iterator[Rows]:
        yield from list(batches())[:5]
        assert list(tmp_path.glob("shard_*")), "shards are written as rows arrive"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, failing())
    assert_no_store(tmp_path)


@pytest.mark.parametrize("promised", [99, 101])
def test_a_wrong_number_of_rows_is_refused(tmp_path, promised):
    with pytest.raises(InputError, match=f"required batches of {promised} rows in all, got 100"):
        write(tmp_path, n_rows=promised)
    assert_no_store(tmp_path)


def test_rows_that_do_not_fit_the_sites_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"got none at blocks\.0\.out"):
        write(tmp_path, iter([Rows({SITES.source.hook: X})]))
    with pytest.raises(InputError, match=r"required rows of shape \(100, 3\) at hook"):
        write(tmp_path, batches(y=X, size=100))
    assert_no_store(tmp_path)


@pytest.mark.parametrize("changes", [{"dtype": torch.float16}, {"n_rows": 0}, {"sites": []}])
def test_bad_arguments_are_refused_before_anything_is_written(tmp_path, changes):
    with pytest.raises(InputError, match="required"):
        write(tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_a_store_is_replaced_only_if_asked(tmp_path):
    write(tmp_path)
    with pytest.raises(InputError, match=r"holds a store already; .*overwrite=True"):
        write(tmp_path, n_rows=10)
    assert ActivationStore.open(tmp_path, verify=True).n_rows == N_ROWS
    write(tmp_path, batches(X[:10], Y[:10]), n_rows=10, overwrite=True)
    assert ActivationStore.open(tmp_path, verify=True).n_rows == 10
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == [LIST_FILE, "manifest.json", "shard_00000.safetensors"]


def test_an_unfinished_harvest_is_replaced_and_other_files_are_kept(tmp_path):
    write(tmp_path)
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "notes.txt").write_text("mine")
    write(tmp_path, batches(X[:10], Y[:10]), n_rows=10)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == [LIST_FILE, "manifest.json", "notes.txt", "shard_00000.safetensors"]


@pytest.mark.parametrize("name", ["shard_00000.safetensors", "shard_00006.safetensors",
                                  "mlp_0.safetensors", "manifest.json"])  # fmt: skip
def test_a_users_file_in_the_way_is_refused_and_kept(tmp_path, name):
    (tmp_path / name).write_bytes(b"mine")
    for overwrite in (False, True):
        with pytest.raises(InputError, match=f"{name} is not a file that harvest wrote here"):
            write(tmp_path, overwrite=overwrite)
        assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"mine"


def test_a_users_shards_beside_a_store_are_kept(tmp_path):
    """Also where they stand in the way of the next one, which leaves the store as it is."""
    mine = tmp_path / "shard_00003.safetensors"
    mine.write_bytes(b"mine")
    for _ in range(2):
        write(tmp_path, batches(X[:40], Y[:40]), n_rows=40, overwrite=True)
    with pytest.raises(InputError, match=r"shard_00003\.safetensors is not a file"):
        write(tmp_path, overwrite=True)
    with pytest.raises(InputError, match="rows in all"):
        write(tmp_path, batches(X[:20], Y[:20]), n_rows=40, overwrite=True)
    assert mine.read_bytes() == b"mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["shard_00003.safetensors"]


def test_a_shard_that_changed_since_is_not_removed(tmp_path):
    write(tmp_path)
    (tmp_path / "shard_00002.safetensors").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"shard_00002\.safetensors has changed"):
        write(tmp_path, overwrite=True)
    assert (tmp_path / "manifest.json").exists()


def test_shards_are_hashed_once(tmp_path):
    store = write(tmp_path)
    listed = json.loads((tmp_path / LIST_FILE).read_text())["runs"]["harvest"]["files"]
    for shard in store._manifest.shards:
        assert listed[shard.file][0]["sha256"] == shard.sha256


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(StorageError, match="required a folder that can be written"):
        write(tmp_path / "out")


def test_a_disk_that_is_too_small(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1000, 0, 1000))
    with pytest.raises(StorageError, match="are required"):
        write(tmp_path)
    assert_no_store(tmp_path)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux process memory")
def test_opening_maps_the_store_and_does_not_load_it(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "SHARD_BYTES", 16_000_000)
    site = Site("x", 128)
    n_rows = 125_000  # 64 MB
    rows = (Rows({"x": torch.ones(5000, 128)}) for _ in range(25))
    write(tmp_path, rows, sites=[Sites(site, site)], n_rows=n_rows)
    before = _anonymous_bytes()
    store = ActivationStore.open(tmp_path)
    assert store.rows(0, 0, 100).at["x"].sum() == 12_800
    assert _anonymous_bytes() - before < 8_000_000


def _anonymous_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1000
