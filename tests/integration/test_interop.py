"""The other libraries themselves: what we write they load, what they write we load, both equal.

SAELens comes with the pinned set. The others ask for versions that clash with it, so their tests
are skipped unless they are installed (dictionary_learning 0.1.0, eai-sparsify 1.3.3 when this was
written).
"""

import importlib.util
import json
from collections.abc import Callable
from dataclasses import fields
from importlib import import_module
from itertools import product
from typing import Any

import pytest
import torch

import dictlearn as dl
from dictlearn.core.files import read_json, write_json
from dictlearn.interop import saelens

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs, on being imported
D, L = 12, 40
AUTOENCODERS = {
    "sae": dl.SAEConfig(n_features=L),
    "topk": dl.TopKSAEConfig(n_features=L, k=4),
    "batchtopk": dl.BatchTopKSAEConfig(n_features=L, k=4),
    "jumprelu": dl.JumpReLUSAEConfig(n_features=L),
    "gated": dl.GatedSAEConfig(n_features=L),
}
TRANSCODERS = {
    "transcoder": dl.TranscoderConfig(n_features=L),
    "skip": dl.TranscoderConfig(n_features=L, linear_skip=True),
    "topk_transcoder": dl.TopKTranscoderConfig(n_features=L, k=4),
    "topk_skip": dl.TopKTranscoderConfig(n_features=L, k=4, linear_skip=True),
}
DTYPES = [torch.float64, torch.float32]


HOW = {"sae_lens": "pip install dictlearn[saelens], which needs TransformerLens 3"}


def needs(library: str) -> pytest.MarkDecorator:
    absent = importlib.util.find_spec(library) is None
    how = HOW.get(library, "it asks for other versions than the pinned ones")
    return pytest.mark.skipif(absent, reason=f"needs {library}: {how}")


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    """Rows whose mean and scale are far from 0 and 1."""
    generator = torch.Generator().manual_seed(0)
    mean = 3 * torch.randn(D, generator=generator)
    return mean + 5 * torch.randn(1000, D, generator=generator)


@pytest.fixture(scope="module")
def fitted(x: torch.Tensor) -> Callable[[str], Any]:
    """Dictionaries trained for a moment, their standardization fitted to the rows."""
    mixing = torch.randn(D, D, generator=torch.Generator().manual_seed(1))
    y = 1 + (x @ mixing).relu()
    run = dl.FitConfig(steps=60, batch_size=256, learning_rate=1e-2, standardize_rows=512)
    trained = dl.fit(AUTOENCODERS, x, run, progress=False)
    trained |= dl.fit(TRANSCODERS, (x, y), run, progress=False)
    return lambda name: trained[name]


def assert_equal(theirs: torch.Tensor, ours: torch.Tensor) -> None:
    """Equal but for rounding, which float64 tells from a mistake, on any processor."""
    tolerance = 1e-12 if ours.dtype == torch.float64 else 1e-4
    assert theirs.dtype == ours.dtype
    assert float((theirs - ours).abs().max() / ours.abs().max()) < tolerance


@needs("sae_lens")
@torch.no_grad()
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [*AUTOENCODERS, "transcoder", "skip"])
def test_saelens_loads_what_we_write(name, dtype, fitted, x, tmp_path):
    ours = fitted(name).to(dtype)
    path = dl.save(ours, tmp_path, format="saelens")
    theirs = import_module("sae_lens").SAE.load_from_disk(path)
    rows = x.to(dtype)
    acts = ours.encode(rows)
    assert 0 < (acts > 0).double().mean() < 1
    assert_equal(theirs.encode(rows), acts)
    assert_equal(theirs(rows), ours(rows))
    if name != "skip":
        assert_equal(theirs.decode(acts), ours.decode(acts))
    assert theirs.cfg.metadata.hook_name == ours.sites.source.hook


def random_(module: torch.nn.Module) -> Any:
    """Every parameter of another library's dictionary random."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            values = 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(values.abs() if "threshold" in name else values)
    return module


@needs("sae_lens")
@torch.no_grad()
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("architecture", "apply_b_dec"),
    [
        *product(["standard", "topk", "topk_rescaled", "jumprelu", "gated"], [True, False]),
        *product(["transcoder", "skip_transcoder"], [False]),
    ],
)
def test_we_load_what_saelens_writes(architecture, apply_b_dec, dtype, x, tmp_path):
    get_sae_class = import_module("sae_lens.registry").get_sae_class
    is_transcoder = "transcoder" in architecture
    sae_class, config_class = get_sae_class(architecture.removesuffix("_rescaled"))
    extra: dict[str, Any] = {"d_out": D + 3} if is_transcoder else {}
    if architecture.startswith("topk"):
        extra = {"k": 4, "rescale_acts_by_decoder_norm": architecture == "topk_rescaled"}
    name = str(dtype).removeprefix("torch.")
    config = config_class(d_in=D, d_sae=L, dtype=name, apply_b_dec_to_input=apply_b_dec, **extra)
    config.metadata.hook_name = "blocks.0.mlp.hook_in"
    config.metadata.hook_name_out = "blocks.0.mlp.hook_out" if is_transcoder else None
    config.metadata.model_name = "tiny"
    theirs = random_(sae_class(config))
    theirs.save_model(tmp_path)
    ours = dl.load(f"saelens:{tmp_path}")
    rows = x.to(dtype)
    acts = theirs.encode(rows)
    assert 0 < (acts > 0).double().mean() < 1
    assert_equal(ours.encode(rows), acts)
    assert_equal(ours.decode(acts), theirs.decode(acts))
    assert_equal(ours(rows), theirs(rows))
    assert ours.sites.source.hook == "blocks.0.mlp.hook_in"
    assert ours.provenance.model == "tiny"


@needs("sae_lens")
@torch.no_grad()
def test_we_load_what_saelens_leaves_of_batch_top_k(x, tmp_path):
    """A checkpoint of training, and what is made of it for use: the same coefficients."""
    sae_lens = import_module("sae_lens")
    config = sae_lens.BatchTopKTrainingSAEConfig(d_in=D, d_sae=L, k=4)
    training = random_(sae_lens.BatchTopKTrainingSAE(config))
    training.topk_threshold.fill_(0.7)
    training.save_model(tmp_path / "training")
    training.save_inference_model(tmp_path / "inference")
    checkpoint = dl.load(f"saelens:{tmp_path / 'training'}")
    used = dl.load(f"saelens:{tmp_path / 'inference'}")
    theirs = sae_lens.SAE.load_from_disk(tmp_path / "inference")
    assert checkpoint.config == dl.BatchTopKSAEConfig(n_features=L, k=4)
    for ours in (checkpoint, used):
        assert_equal(ours.encode(x), theirs.encode(x))
        assert_equal(ours(x), theirs(x))


@needs("sae_lens")
@torch.no_grad()
@pytest.mark.parametrize("architecture", ["standard", "gated", "jumprelu"])
def test_a_setting_that_saelens_ignores_there_is_ignored(architecture, x, tmp_path):
    """`rescale_acts_by_decoder_norm` belongs to top-k; a converter may have left it."""
    sae_lens = import_module("sae_lens")
    sae_class, config_class = import_module("sae_lens.registry").get_sae_class(architecture)
    random_(sae_class(config_class(d_in=D, d_sae=L))).save_model(tmp_path)
    config = read_json(tmp_path / "cfg.json") | {"rescale_acts_by_decoder_norm": True}
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    theirs = sae_lens.SAE.load_from_disk(tmp_path)
    ours = dl.load(f"saelens:{tmp_path}")
    assert_equal(ours.encode(x), theirs.encode(x))
    assert_equal(ours(x), theirs(x))


@needs("sae_lens")
@torch.no_grad()
@pytest.mark.parametrize("given", [True, False, None])
def test_checkpoints_are_rescaled_unless_they_say_otherwise(given, x, tmp_path):
    """As SAELens has it where the entry is absent."""
    sae_lens = import_module("sae_lens")
    more = {} if given is None else {"rescale_acts_by_decoder_norm": given}
    config = sae_lens.BatchTopKTrainingSAEConfig(d_in=D, d_sae=L, k=0.4, **more)
    training = random_(sae_lens.BatchTopKTrainingSAE(config))
    training.topk_threshold.fill_(0.7)
    training.save_model(tmp_path / "training")
    training.save_inference_model(tmp_path / "inference")
    file = tmp_path / "training" / "cfg.json"
    written = read_json(file)
    if given is None:
        del written["rescale_acts_by_decoder_norm"]
    file.write_text(json.dumps(written))
    ours = dl.load(f"saelens:{tmp_path / 'training'}")
    theirs = sae_lens.SAE.load_from_disk(tmp_path / "inference")
    assert_equal(ours.encode(x), theirs.encode(x))
    assert_equal(ours(x), theirs(x))
    assert ours.config.k == 1, "a mean of 0.4 a token, rounded up to something"


@needs("sae_lens")
def test_every_setting_of_saelens_is_read_or_known_to_change_nothing():
    registry = import_module("sae_lens.registry")
    known = {*saelens._READ, *saelens._WITHOUT_EFFECT}
    for classes in (registry.SAE_CLASS_REGISTRY, registry.SAE_TRAINING_CLASS_REGISTRY):
        for architecture, (_, config) in classes.items():
            if architecture in saelens.AUTOENCODERS + saelens.TRANSCODERS:
                assert {field.name for field in fields(config)} <= known, architecture


def their_classes() -> dict[str, Callable[..., Any]]:
    """The classes of dictionary_learning, by how each is made and how it is loaded."""
    classes = import_module("dictionary_learning.dictionary")
    top_k = import_module("dictionary_learning.trainers.top_k")
    batch_top_k = import_module("dictionary_learning.trainers.batch_top_k")
    matryoshka = import_module("dictionary_learning.trainers.matryoshka_batch_top_k")
    return {
        "AutoEncoder": classes.AutoEncoder,
        "AutoEncoderNew": classes.AutoEncoderNew,
        "GatedAutoEncoder": classes.GatedAutoEncoder,
        "JumpReluAutoEncoder": classes.JumpReluAutoEncoder,
        "AutoEncoderTopK": top_k.AutoEncoderTopK,
        "BatchTopKSAE": batch_top_k.BatchTopKSAE,
        "MatryoshkaBatchTopKSAE": matryoshka.MatryoshkaBatchTopKSAE,
    }


@needs("dictionary_learning")
@torch.no_grad()
@pytest.mark.parametrize("name", list(AUTOENCODERS))
def test_dictionary_learning_loads_what_we_write(name, fitted, x, tmp_path):
    ours = fitted(name).float()
    path = dl.save(ours, tmp_path, format="dictionary_learning")
    trainer = read_json(path / "config.json")["trainer"]
    theirs = their_classes()[trainer["dict_class"]].from_pretrained(path / "ae.pt")
    acts = ours.encode(x)
    assert_equal(theirs.encode(x), acts)
    assert_equal(theirs.decode(acts), ours.decode(acts))
    assert_equal(theirs(x), ours(x))


@needs("dictionary_learning")
@torch.no_grad()
@pytest.mark.parametrize(
    ("dict_class", "arguments"),
    [
        ("AutoEncoder", {}),
        ("AutoEncoderNew", {}),
        ("GatedAutoEncoder", {}),
        ("JumpReluAutoEncoder", {}),
        ("AutoEncoderTopK", {"k": 4}),
        ("BatchTopKSAE", {"k": 4}),
        ("MatryoshkaBatchTopKSAE", {"k": 4, "group_sizes": [10, 30]}),
    ],
)
def test_we_load_what_dictionary_learning_writes(dict_class, arguments, x, tmp_path):
    theirs = random_(their_classes()[dict_class](D, L, **arguments))
    if "TopKSAE" in dict_class:
        theirs.threshold.fill_(0.7)
    torch.save(theirs.state_dict(), tmp_path / "ae.pt")
    trainer = {"dict_class": dict_class, "submodule_name": "mlp", "lm_name": "tiny"} | arguments
    write_json(tmp_path / "config.json", {"trainer": trainer})
    ours = dl.load(f"dictionary_learning:{tmp_path}")
    theirs = type(theirs).from_pretrained(tmp_path / "ae.pt")  # may change units
    acts = theirs.encode(x)
    assert_equal(ours.encode(x), acts)
    assert_equal(ours.decode(acts), theirs.decode(acts))
    assert_equal(ours(x), theirs(x))
    assert (ours.sites.source.hook, ours.provenance.model) == ("mlp", "tiny")


def dense(encoded: Any, n_rows: int) -> torch.Tensor:
    acts = torch.zeros(n_rows, L, dtype=encoded.top_acts.dtype)
    return acts.scatter(1, encoded.top_indices, encoded.top_acts)


@needs("sparsify")
@torch.no_grad()
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["topk", "topk_transcoder", "topk_skip"])
def test_sparsify_loads_what_we_write(name, dtype, fitted, x, tmp_path):
    ours, rows = fitted(name).to(dtype), x.to(dtype)
    theirs = import_module("sparsify").SparseCoder.load_from_disk(
        dl.save(ours, tmp_path, format="sparsify")
    )
    assert_equal(dense(theirs.encode(rows), len(x)), ours.encode(rows))
    assert_equal(theirs(rows).sae_out, ours(rows))


@needs("sparsify")
@torch.no_grad()
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("transcode", [False, True])
def test_we_load_what_sparsify_writes(transcode, skip, dtype, x, tmp_path):
    sparsify = import_module("sparsify")
    config = sparsify.SparseCoderConfig(
        num_latents=L, k=4, transcode=transcode, skip_connection=skip
    )
    theirs, rows = random_(sparsify.SparseCoder(D, config, dtype=dtype)), x.to(dtype)
    theirs.save_to_disk(tmp_path / "layers.1.mlp")
    ours = dl.load(f"sparsify:{tmp_path / 'layers.1.mlp'}")
    assert_equal(ours.encode(rows), dense(theirs.encode(rows), len(x)))
    assert_equal(ours(rows), theirs(rows).sae_out)
    hook = "layers.1.mlp.in" if transcode else "layers.1.mlp"
    assert ours.sites.source.hook == hook
