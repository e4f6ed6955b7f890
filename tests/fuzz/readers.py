"""Every reader of files, and tiny samples of what it reads."""

import gzip
import json
import lzma
import shutil
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import torch

import dictlearn as dl
from dictlearn.activations.store import ActivationStore, write_store
from dictlearn.activations.tensors import TensorActivations
from dictlearn.blind.case import GUESS_FILE, BlindCase, ShownPath, ShownPrompt, Weighted
from dictlearn.blind.guess import seal_guess, sealed_guess
from dictlearn.circuits.graph import CircuitGraph
from dictlearn.comparison.figures.training import _curves, read_training_log
from dictlearn.comparison.runs import load_run
from dictlearn.config_files import read_config_file
from dictlearn.contract.subject import synthetic
from dictlearn.core.errors import CorruptFileError
from dictlearn.core.file_lists import read_list
from dictlearn.core.files import write_json
from dictlearn.core.own_files import OwnFiles
from dictlearn.core.provenance import Provenance
from dictlearn.dictionaries.registry import KINDS
from dictlearn.distributed.process_group import ProcessGroup
from dictlearn.interop.codebook_features import read_released
from dictlearn.kernels import fastest
from dictlearn.records.base import SavedRecords
from dictlearn.studies.folder import begin, begun_in, origin
from dictlearn.text.concepts import DEFAULT_CONCEPTS, Concept
from dictlearn.text.corpora import documents
from dictlearn.text.tokens import load_tokens
from dictlearn.training.checkpoints import CHECKPOINT_FILE, load_checkpoint
from dictlearn.training.fit_run import FitRun, set_up
from dictlearn.training.progress import LOG_FILE, _lines_until
from tests.fuzz.run import Reader
from tests.integration.test_own_files import TINY
from tests.unit.circuits.graphs import known_graph
from tests.unit.circuits.test_neuronpedia import theirs as theirs_of_circuit_tracer
from tests.unit.interop import released, samples
from tests.unit.interop.test_folders import across, layer
from tests.unit.records.test_base import KINDS as RECORDS
from tests.unit.records.test_base import SAVED
from tests.unit.text.test_tokens import model, of_split
from tests.unit.training.test_trust import CONFIGS, RUN, X, killed_run

ACTIVATIONS = synthetic(seed=0)
SITES = ACTIVATIONS.sites[0]


# Dictionaries


def content_of(dictionary: dl.FeatureDictionary) -> Any:
    """All of a dictionary, which is used on rows to see that its parts fit."""
    tensors = dictionary.state_dict()
    x = torch.ones(2, dictionary.sites.source.d, dtype=dictionary.x_mean.dtype)
    acts = dictionary.encode(x)
    assert acts.shape == (2, dictionary.n_features)
    assert dictionary.decode(acts).shape == (2, dictionary.sites.target.d)
    most = dictionary.traits.max_active
    assert most is None or (acts != 0).sum(1).le(most).all()
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    return tensors, dictionary.config, dictionary.sites, dictionary.provenance


def make_dictionaries(folder: Path) -> None:
    for kind in KINDS:
        config = kind.tiny().given(ACTIVATIONS.mlp_weights(SITES))
        dl.save(config.build(config.among(ACTIVATIONS.sites)), folder / kind.kind)


# A run of training


def make_checkpoint(folder: Path) -> None:
    killed_run(folder / "run")
    (folder / "run" / LOG_FILE).unlink()


def read_checkpoint(folder: Path) -> Any:
    if not (folder / CHECKPOINT_FILE).exists():  # then a run begins anew
        raise CorruptFileError(f"{folder}: has no checkpoint")
    run = _run()
    checkpoint = load_checkpoint(OwnFiles(folder, "training"), run.learners, run.description)
    return checkpoint, {name: learner.state() for name, learner in run.learners.items()}


@cache
def _run() -> FitRun:
    return set_up(CONFIGS, TensorActivations(X), RUN, ProcessGroup(), "run")


def make_log(folder: Path) -> None:
    killed_run(folder / "run")
    (folder / "run" / CHECKPOINT_FILE).unlink()


def read_log(folder: Path) -> Any:
    kept = _lines_until(folder / LOG_FILE, 40)
    rows = read_training_log(folder / LOG_FILE)
    return kept, rows, _curves({"": rows})


# Activations, records, studies


def make_stores(folder: Path) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        write_store(
            folder / str(dtype),
            [ACTIVATIONS.rows(0, 0, 6)],
            sites=[SITES],
            mlps={SITES: ACTIVATIONS.mlp_weights(SITES)},
            n_rows=6,
            dtype=dtype,
            provenance=Provenance(),
            tokens={"source": "s"},
        )


def read_store(folder: Path) -> Any:
    store = ActivationStore.open(folder)
    weights = [store.mlp_weights(sites) for sites in store.sites]
    rows = store.rows(0, 0, store.n_rows).at
    return store.sites, store.dtype, store.provenance, store.tokens, weights, rows


def records_reader(kind: type[SavedRecords], **flags: bool) -> Reader:
    return Reader(
        lambda folder: kind.load(SAVED).save(folder / kind.kind),
        load_run if kind is dl.Records else kind.load,
        **flags,
    )


def make_first_records(folder: Path) -> None:
    for kind in RECORDS:
        (folder / kind.kind).mkdir()
        for name in {kind.file, *(["sums.safetensors"] if kind is dl.Records else [])}:
            shutil.copy(SAVED / name, folder / kind.kind)


def read_first_records(folder: Path) -> Any:
    return {kind.kind: kind for kind in RECORDS}[folder.name].load(folder)


def make_study(folder: Path) -> None:
    origin = {"provenance": Provenance().to_dict(), "tokens": {"train": {"n_tokens": 7}}}
    begin(OwnFiles.of(folder / "run", "a study"), TINY.to_dict(), lambda: origin, overwrite=False)


def read_study(folder: Path) -> Any:
    begun = begun_in(folder)
    return begun, origin(begun)


def make_list(folder: Path) -> None:
    own = OwnFiles.of(folder / "run", "training")
    own.write_json("a.json", {})
    own.write_text("b.txt", "b")
    own.grow("c")
    own.folder("inner").write_text("a.txt", "")
    (folder / "run" / "a.json").unlink()
    (folder / "run" / "b.txt").unlink()
    shutil.rmtree(folder / "run" / "inner")


def read_own_list(folder: Path) -> Any:
    if not (folder / "dictlearn.files").exists():  # then it is empty
        raise CorruptFileError(f"{folder}: has no list")
    own = OwnFiles(folder, "training")
    own.require("a.json", "d.txt")
    return read_list(folder), own.folders()


# Circuits


def make_neuronpedia(folder: Path) -> None:
    known_graph().to_neuronpedia(folder / "ours" / "graph.json", node_share=1.0)
    (folder / "theirs").mkdir()
    (folder / "theirs" / "graph.json").write_text(json.dumps(theirs_of_circuit_tracer()))


def make_groups(folder: Path) -> None:
    groups = {"supernodes": {"a": ["c 0 @ 1", "a 2 @ 0"]}, "pinned": ["position 1"]}
    (folder / "page").mkdir()
    (folder / "page" / "groups.json").write_text(json.dumps(groups))


def read_groups(folder: Path) -> Any:
    found = known_graph().grouped_from(folder / "groups.json")
    return found.supernodes, found.pinned


# Texts and settings

TEXTS = [*of_split("train", 3), "é\n", "", None, *of_split("held_out", 2)]
IDS = [[3, 4, 5, 6, 7], [4, 4, 5], [], None, [5, 6, 7, 3, 4, 9], [3], [9, 9, 9, 9, 9, 9], [4] * 9]


def make_corpora(folder: Path) -> None:
    for name in ("jsonl", "txt", "blank", "gz", "xz", "parquet"):
        (folder / name).mkdir()
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    joined = "\n<|endoftext|>\n".join(filter(None, TEXTS))
    (folder / "jsonl" / "a.jsonl").write_text(lines)
    (folder / "txt" / "a.txt").write_text(joined)
    (folder / "blank" / "a.txt").write_text("\n\n".join(filter(None, TEXTS)))
    (folder / "gz" / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
    (folder / "xz" / "a.txt.xz").write_bytes(lzma.compress(joined.encode()))
    table = pa.table({"text": TEXTS, "n": list(range(len(TEXTS)))})
    pa.parquet.write_table(table, folder / "parquet" / "a.parquet")


def read_corpus(folder: Path) -> Any:
    return list(documents(next(folder.iterdir(), folder)))


def make_ids(folder: Path) -> None:
    (folder / "jsonl").mkdir()
    (folder / "parquet").mkdir()
    lines = "".join(json.dumps({"ids": ids}) + "\n" for ids in IDS * 3)
    (folder / "jsonl" / "a.jsonl").write_text(lines)
    pa.parquet.write_table(pa.table({"ids": IDS * 3}), folder / "parquet" / "a.parquet")


def ids_reader() -> Reader:
    tiny = model()

    def read(folder: Path) -> Any:
        return load_tokens(folder / f"a.{folder.name}", tiny, context=8, ids_column="ids")

    return Reader(make_ids, read)


def make_timings(folder: Path) -> None:
    (folder / "timings").mkdir()
    timings = fastest.Timings("a processor", int8=0.8, int8_search=0.7)
    write_json(folder / "timings" / "searches.json", asdict(timings))


def make_patterns(folder: Path) -> None:
    """No file of patterns is read here; a user's own code may."""
    (folder / "patterns").mkdir()
    text = "\n".join(concept.pattern for concept in DEFAULT_CONCEPTS)
    (folder / "patterns" / "a.txt").write_text(text)


def read_patterns(folder: Path) -> Any:
    if not (folder / "a.txt").exists():
        return []
    with warnings.catch_warnings(action="ignore"):  # of Python's `re`, of doubtful patterns
        lines = (folder / "a.txt").read_text(errors="replace").split("\n")
        return [Concept("a.txt", line) for line in lines]


CONFIG_FILE = """
[fit]
steps = 20
batch_size = 64
learning_rate = 1e-3
adam_betas = [0.9, 0.99]
device = "cpu"

[dictionaries.a]
kind = "topk_sae"
n_features = 32
k = 4
at = ["blocks.0.in -> blocks.0.out", "all"]

[dictionaries.b]
kind = "matryoshka_sae"
n_features = 32
k = 4
prefixes = [0.25, 0.5]
at = "all"

[dictionaries.c]
kind = "codebook"
n_codes = 32

[dictionaries.d]
kind = "sae"
n_features = 32
l1_coefficient = 0.5
"""


def make_config_file(folder: Path) -> None:
    (folder / "config").mkdir()
    (folder / "config" / "train.toml").write_text(CONFIG_FILE)


# Other libraries


def theirs(format: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        inner = folder / "layers.1.mlp"  # a folder by whose name sparsify knows the hook
        return content_of(dl.load(f"{format}:{inner if inner.is_dir() else folder}"))

    return read


def make_saelens(folder: Path) -> None:
    w, narrow = samples.tensors(), samples.tensors(d_out=3)
    standard, across = samples.STANDARD, (*samples.STANDARD, "W_skip")
    of_gates = samples.pick(w, "W_enc", "W_dec", "b_dec", "b_mag", "r_mag") | {"b_gate": w["b_enc"]}
    threshold = {"topk_threshold": torch.tensor(0.3, dtype=torch.float64)}
    at = {"metadata": {"hook_name": "in", "hook_name_out": "out", "model_name": "m",
                       "sae_lens_version": "6.54.12"}}  # fmt: skip
    base = {"d_in": samples.D, "d_sae": samples.L, "normalize_activations": "none",
            "reshape_activations": "none", "dtype": "float64"}  # fmt: skip
    out = {"apply_b_dec_to_input": False, "d_out": 3, **at}
    widths = {"matryoshka_widths": [1, 3, samples.L], "k": 2.5}
    for name, config, weights in (
        ("standard", {}, samples.pick(w, *standard)),
        ("topk", {"k": 2, "rescale_acts_by_decoder_norm": True}, samples.pick(w, *standard)),
        ("jumprelu", {"apply_b_dec_to_input": False}, samples.pick(w, *standard, "threshold")),
        ("gated", {"metadata": {"hook_name": "in"}}, of_gates),
        ("batchtopk", {"k": 2}, samples.pick(w, *standard) | threshold),
        ("matryoshka_batchtopk", widths, samples.pick(w, *standard) | threshold),
        ("transcoder", out, samples.pick(narrow, *standard)),
        ("skip_transcoder", out, samples.pick(narrow, *across)),
        ("jumprelu_transcoder", out, samples.pick(narrow, *standard, "threshold")),
        ("jumprelu_skip_transcoder", out, samples.pick(narrow, *across, "threshold")),
    ):
        samples.saelens(folder / name, base | {"architecture": name} | config, weights)
    old = {"hook_point": "blocks.{layer}.hook_resid_pre", "hook_point_layer": 8, "model_name": "m",
           "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 2}}  # fmt: skip
    weights = samples.pick(w, *standard) | {"scaling_factor": torch.ones(samples.L)}
    samples.write(folder / "old", old, weights, "sae_weights.safetensors")


def make_dictionary_learning(folder: Path) -> None:
    w, k = samples.tensors(), {"k": torch.tensor(2, dtype=torch.int32)}
    whole, at = samples.pick(w, *samples.STANDARD), {"threshold": torch.tensor(0.3)}
    top_k = samples.theirs(w, **{"encoder.bias": "b_enc", "b_dec": "b_dec"}) | k | at
    gates = {"gate_bias": "b_enc", "mag_bias": "b_mag", "r_mag": "r_mag", "decoder_bias": "b_dec"}
    for name, state in (
        ("AutoEncoder", samples.theirs(w, **{"encoder.bias": "b_enc", "bias": "b_dec"})),
        ("AutoEncoderNew", samples.theirs(w, **{"encoder.bias": "b_enc", "decoder.bias": "b_dec"})),
        ("GatedAutoEncoder", samples.theirs(w, **gates)),
        ("JumpReluAutoEncoder", whole | samples.pick(w, "threshold")),
        ("AutoEncoderTopK", top_k),
        ("BatchTopKSAE", top_k),
        ("MatryoshkaBatchTopKSAE", whole | k | at | {"group_sizes": torch.tensor([1, 2, 4])}),
    ):
        more = {"k": 2} if "TopK" in name else {}
        path = samples.dictionary_learning(folder / name, name, state, **more)
        config = json.loads((path / "config.json").read_text())
        buffer = {"io": "out", "d_submodule": samples.D}
        (path / "config.json").write_text(json.dumps(config | {"buffer": buffer}))
    dl.save(_ours(), folder / "ours", format="dictionary_learning")


def _ours(**fields: Any) -> dl.FeatureDictionary:
    return dl.TopKSAEConfig(n_features=6, k=2).build(SITES.at_target())


def make_sparsify(folder: Path) -> None:
    w = samples.tensors()
    weights = {"encoder.weight": w["W_enc"].T, "encoder.bias": w["b_enc"]}
    weights |= samples.pick(w, "W_dec", "b_dec")
    at = Path("layers.1.mlp")
    samples.sparsify(folder / "sae" / at, weights, normalize_decoder=True)
    skip = weights | samples.pick(w, "W_skip")
    samples.sparsify(folder / "transcoder" / at, skip, transcode=True, skip_connection=True)
    dl.save(_ours(), folder / "ours", format="sparsify")


def make_circuit_tracer(folder: Path) -> None:
    w = samples.rows_first(samples.tensors())
    text = samples.YAML
    threshold = {"activation_function.threshold": samples.tensors()["threshold"]}
    samples.circuit_tracer(folder / "relu", text, w | samples.pick(samples.tensors(), "W_skip"))
    samples.circuit_tracer(folder / "topk", text + "activation: topk\nk: 2\n", w)
    samples.circuit_tracer(folder / "jumprelu", text, w | threshold)
    samples.circuit_tracer(folder / "k", text, w | {"k": torch.tensor(2)})
    dl.save(layer(), folder / "ours", format="circuit_tracer")


def make_cross_layer(folder: Path) -> None:
    dl.save(across(2), folder / "ours", format="circuit_tracer")


def make_released(folder: Path) -> None:
    """Two layers of a GPT-NeoX of which little is left, with codebooks of heads and of MLPs."""
    tensors = {}
    for i in range(2):
        own = f"model.gpt_neox.layers.{i}"
        for place, n_groups in (("attention", 4), ("mlp", None)):
            held = released.random_codebook(8, n_groups, i)
            tensors |= {f"{own}.{place}.codebook_layer.{name}": t for name, t in held.items()}
        tensors[f"{own}.attention.dense.weight"] = torch.ones(2, 2)
        tensors[f"{own}.mlp.module_layer.dense_h_to_4h.bias"] = torch.ones(2)
    for name, metric in (("inner", "inner_product"), ("euclidean", "euclidean")):
        config = released.CONFIG | {"layers_to_snap": [0, -1], "similarity_metric": metric}
        released.save(folder / name, config, tensors)


def read_codebooks(folder: Path) -> Any:
    found = read_released(folder)
    return [content_of(codebook) for codebook in found.codebooks.values()], found.weights


def make_guess(folder: Path) -> None:
    """A case without a word of any text, and a guess."""
    case = BlindCase(
        dictionary="mlp0", feature=3, control=None, density=0.25,
        prompts=[ShownPrompt(1.5, [ShownPath(["feature @ 0", "token @ -1"], 0.5)])],
        nodes=[Weighted("token @ -1", 0.5)], edges=[], routes=[], upstream=[], left_out={},
        de_embeddings=False, restricted=False, tokens={"hash": "0"}, model={}, weights_sha256="0",
    )  # fmt: skip
    case.save(folder / "run")
    seal_guess(folder / "run", "commas", ",")


def read_guess(folder: Path) -> Any:
    if not (folder / GUESS_FILE).exists():  # then none was made
        raise CorruptFileError(f"{folder / GUESS_FILE}: is absent")
    return sealed_guess(folder)


_OWN = {
    "guess": Reader(make_guess, read_guess),
    "dictionary": Reader(make_dictionaries, lambda folder: content_of(dl.load(folder))),
    "checkpoint": Reader(make_checkpoint, read_checkpoint, reads_list=True),
    "store": Reader(make_stores, read_store),
    **{kind.kind: records_reader(kind) for kind in RECORDS},
    "study": Reader(make_study, read_study),
    "circuit": Reader(lambda f: known_graph().save(f / "graph"), CircuitGraph.load),
    "timings": Reader(make_timings, lambda folder: fastest.read(folder / "searches.json")),
    "file-list": Reader(make_list, read_own_list, reads_list=True),
}
READERS: dict[str, Reader] = {
    **{name: replace(reader, sealed=True) for name, reader in _OWN.items()},
    **{f"{name}-resealed": replace(reader, resealed=True) for name, reader in _OWN.items()},
    "first-records": Reader(make_first_records, read_first_records),
    "log": Reader(make_log, read_log),
    "neuronpedia": Reader(
        make_neuronpedia, lambda folder: CircuitGraph.from_neuronpedia(folder / "graph.json")
    ),
    "circuit-groups": Reader(make_groups, read_groups),
    "config-file": Reader(make_config_file, lambda folder: read_config_file(folder / "train.toml")),
    "corpus": Reader(make_corpora, read_corpus),
    "ids": ids_reader(),
    "patterns": Reader(make_patterns, read_patterns),
    "saelens": Reader(make_saelens, theirs("saelens")),
    "dictionary_learning": Reader(make_dictionary_learning, theirs("dictionary_learning")),
    "sparsify": Reader(make_sparsify, theirs("sparsify")),
    "circuit_tracer": Reader(make_circuit_tracer, theirs("circuit_tracer")),
    "cross-layer": Reader(make_cross_layer, theirs("circuit_tracer")),
    "codebook_features": Reader(make_released, read_codebooks),
}
"""By name. Those whose files carry hashes are there twice: as damaged, and with hashes that fit."""
