"""Files written by hand: what they compute is worked out here from each library's definition."""

import json

import pytest
import torch

import dictlearn as dl
from dictlearn.core.errors import CorruptFileError, InputError, NonFiniteError
from tests.unit.interop.samples import (
    STANDARD,
    YAML,
    D,
    K,
    L,
    circuit_tracer,
    dictionary_learning,
    pick,
    rows_first,
    saelens,
    sparsify,
    tensors,
    theirs,
    write,
)


@pytest.fixture
def x() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return 2 * torch.randn(50, D, generator=generator, dtype=torch.float64)


def keep_largest(scores: torch.Tensor) -> torch.Tensor:
    """By sorting, as a definition would have it."""
    floor = scores.sort(dim=1, descending=True).values[:, K - 1 : K]
    return torch.where(scores >= floor, scores, 0.0).clamp_min(0)


def test_saelens_jumprelu_without_subtraction(x, tmp_path):
    w = tensors()
    config = {"architecture": "jumprelu", "apply_b_dec_to_input": False}
    d = dl.load(f"saelens:{saelens(tmp_path, config, pick(w, *STANDARD, 'threshold'))}")
    pre = x @ w["W_enc"] + w["b_enc"]
    acts = pre * (pre > w["threshold"])
    torch.testing.assert_close(d.encode(x), acts)
    torch.testing.assert_close(d.decode(acts), acts @ w["W_dec"] + w["b_dec"])
    assert d.config.kind == "jumprelu_sae"
    assert d.sites.is_autoencoder


def test_saelens_thresholds_below_zero_are_relu(x, tmp_path):
    w = tensors()
    w["threshold"] = torch.linspace(-1, 0, L, dtype=torch.float64)
    names = pick(w, *STANDARD, "threshold")
    d = dl.load(f"saelens:{saelens(tmp_path, {'architecture': 'jumprelu'}, names)}")
    torch.testing.assert_close(d.encode(x), ((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu())


def test_saelens_old_thresholds_are_logarithms(x, tmp_path):
    w = tensors()
    weights = pick(w, *STANDARD) | {"log_threshold": w["threshold"].log()}
    d = dl.load(f"saelens:{saelens(tmp_path, {'architecture': 'jumprelu'}, weights)}")
    pre = (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    torch.testing.assert_close(d.encode(x), pre * (pre > w["threshold"]))


@pytest.mark.parametrize("apply", [True, False])
def test_saelens_gated(apply, x, tmp_path):
    w = tensors()
    weights = pick(w, "W_enc", "W_dec", "b_dec", "b_mag", "r_mag") | {"b_gate": w["b_enc"]}
    config = {"architecture": "gated", "apply_b_dec_to_input": apply}
    d = dl.load(f"saelens:{saelens(tmp_path, config, weights)}")
    linear = (x - apply * w["b_dec"]) @ w["W_enc"]
    magnitude = (linear * w["r_mag"].exp() + w["b_mag"]).relu()
    torch.testing.assert_close(d.encode(x), magnitude * (linear + w["b_enc"] > 0))


def test_saelens_topk_rescaled_by_norms(x, tmp_path):
    w = tensors()
    config = {"architecture": "topk", "k": K, "rescale_acts_by_decoder_norm": True}
    d = dl.load(f"saelens:{saelens(tmp_path, config, pick(w, *STANDARD))}")
    norms = w["W_dec"].pow(2).sum(dim=1).sqrt()
    acts = keep_largest(((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]) * norms)
    torch.testing.assert_close(d.encode(x), acts)
    torch.testing.assert_close(d(x), (acts / norms) @ w["W_dec"] + w["b_dec"])


def test_saelens_skip_transcoder(x, tmp_path):
    w = tensors(d_out=3)
    config = {
        "architecture": "skip_transcoder",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "metadata": {"hook_name": "in", "hook_name_out": "out", "sae_lens_version": "6.54.12"},
    }
    d = dl.load(f"saelens:{saelens(tmp_path, config, pick(w, *STANDARD, 'W_skip'))}")
    acts = (x @ w["W_enc"] + w["b_enc"]).relu()
    torch.testing.assert_close(d(x), acts @ w["W_dec"] + w["b_dec"] + x @ w["W_skip"].T)
    assert d.sites == dl.Sites(dl.Site("in", D), dl.Site("out", 3))
    assert d.provenance.versions == {"sae-lens": "6.54.12"}


def test_saelens_configs_from_before_version_6(x, tmp_path):
    w = tensors()
    config = {
        "hook_point": "blocks.{layer}.hook_resid_pre",
        "hook_point_layer": 8,
        "model_name": "gpt2-small",
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": K},
        "normalize_activations": False,
    }
    weights = pick(w, *STANDARD) | {"scaling_factor": torch.ones(L)}
    d = dl.load(f"saelens:{write(tmp_path, config, weights, 'sae_weights.safetensors')}")
    pre = (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    torch.testing.assert_close(d.encode(x), keep_largest(pre))
    assert d.sites.source.hook == "blocks.8.hook_resid_pre"
    assert d.provenance.model == "gpt2-small"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architecture": "matching_pursuit"}, "architecture 'matching_pursuit'"),
        ({"architecture": "temporal"}, "architecture 'temporal'"),
        ({"normalize_activations": "layer_norm"}, "layer_norm"),
        ({"normalize_activations": "expected_average_only_in"}, "fold_activation_norm"),
        ({"activation_fn": "tanh-relu"}, "tanh-relu"),
    ],
)
def test_what_no_kind_computes_is_refused_by_name(config, message, tmp_path):
    path = saelens(tmp_path, config, pick(tensors(), *STANDARD))
    with pytest.raises(InputError, match=message):
        dl.load(f"saelens:{path}")


def test_saelens_rescaled_coefficients_are_refused(tmp_path):
    weights = pick(tensors(), *STANDARD) | {"scaling_factor": torch.full((L,), 2.0)}
    with pytest.raises(InputError, match="rescaled"):
        dl.load(f"saelens:{saelens(tmp_path, {}, weights)}")


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        ({}, {"W_dec": torch.zeros(L, D + 1)}, r"'W_dec' must have shape \(7, 4\), got \(7, 5\)"),
        ({}, {"W_skip": torch.zeros(D, D)}, "holds W_skip"),
        ({"architecture": "gated"}, {}, "required a tensor 'b_gate'"),
        ({"architecture": "topk"}, {}, "'k' must be a whole number of at least 1, got None"),
        ({"apply_b_dec_to_input": "yes"}, {}, "'apply_b_dec_to_input' must be bool, got 'yes'"),
        ({"architecture": None}, {}, "'architecture' must be str"),
    ],
)
def test_files_that_do_not_fit_are_named(config, change, message, tmp_path):
    path = saelens(tmp_path, config, pick(tensors(), *STANDARD) | change)
    with pytest.raises(CorruptFileError, match=message):
        dl.load(f"saelens:{path}")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"b_enc": torch.full((L,), torch.nan)}, NonFiniteError, "b_enc holds NaN or infinity"),
        ({"b_enc": torch.ones(L, dtype=torch.int64)}, CorruptFileError, "'b_enc' must be real"),
        ({"b_dec": torch.ones(D, dtype=torch.complex64)}, CorruptFileError, "'b_dec' must be real"),
        ({"W_enc": torch.ones(0, L), "W_dec": torch.ones(L, 0), "b_dec": torch.ones(0)},
         CorruptFileError, "a width of at least 1"),
    ],
)  # fmt: skip
def test_weights_that_are_no_numbers_are_refused(change, error, message, tmp_path):
    path = saelens(tmp_path, {}, pick(tensors(), *STANDARD) | change)
    with pytest.raises(error, match=message) as told:
        dl.load(f"saelens:{path}")
    assert str(tmp_path) in str(told.value)


def test_half_precision_is_read_as_float32(x, tmp_path):
    w = {name: t.to(torch.bfloat16) for name, t in tensors().items()}
    d = dl.load(f"saelens:{saelens(tmp_path, {}, pick(w, *STANDARD))}")
    assert d.atoms.dtype == torch.float32
    assert torch.equal(d.atoms, w["W_dec"].float())


def test_dictionary_learning_autoencoders(x, tmp_path):
    w = tensors()
    old = theirs(w, **{"encoder.bias": "b_enc", "bias": "b_dec"})
    path = dictionary_learning(tmp_path / "old", "AutoEncoder", old)
    d = dl.load(f"dictionary_learning:{path}")
    acts = ((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    norms = w["W_dec"].pow(2).sum(dim=1).sqrt()
    torch.testing.assert_close(d.atoms.norm(dim=1), torch.ones_like(norms))
    torch.testing.assert_close(d.encode(x), acts * norms)
    torch.testing.assert_close(d(x), acts @ w["W_dec"] + w["b_dec"])
    assert d.sites.source == dl.Site("layers.3", D)
    new = theirs(w, **{"encoder.bias": "b_enc", "decoder.bias": "b_dec"})
    path = dictionary_learning(tmp_path / "new", "AutoEncoderNew", new)
    d = dl.load(f"dictionary_learning:{path}")
    torch.testing.assert_close(d.encode(x), (x @ w["W_enc"] + w["b_enc"]).relu())


def test_dictionary_learning_gates_and_thresholds(x, tmp_path):
    w = tensors()
    names = {"gate_bias": "b_enc", "mag_bias": "b_mag", "r_mag": "r_mag", "decoder_bias": "b_dec"}
    path = dictionary_learning(tmp_path / "gated", "GatedAutoEncoder", theirs(w, **names))
    linear = (x - w["b_dec"]) @ w["W_enc"]
    acts = (linear + w["b_enc"] > 0) * (w["r_mag"].exp() * linear + w["b_mag"]).relu()
    torch.testing.assert_close(dl.load(f"dictionary_learning:{path}").encode(x), acts)
    jump = pick(w, *STANDARD, "threshold")
    path = dictionary_learning(tmp_path / "jump", "JumpReluAutoEncoder", jump)
    pre = x @ w["W_enc"] + w["b_enc"]
    acts = pre * (pre > w["threshold"])
    torch.testing.assert_close(dl.load(f"dictionary_learning:{path}").encode(x), acts)


def test_a_threshold_that_was_never_set_is_refused_with_a_way_out(x, tmp_path):
    w = tensors()
    state = theirs(w, **{"encoder.bias": "b_enc", "b_dec": "b_dec"})
    state |= {"k": torch.tensor(K), "threshold": torch.tensor(-1.0)}
    path = dictionary_learning(tmp_path, "BatchTopKSAE", state)
    with pytest.raises(InputError, match=r"never set.*change dict_class"):
        dl.load(f"dictionary_learning:{path}")
    d = dl.load(f"dictionary_learning:{dictionary_learning(tmp_path, 'AutoEncoderTopK', state)}")
    pre = (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    torch.testing.assert_close(d.encode(x), keep_largest(pre))


def test_dictionary_learning_checkpoints_and_modules_with_two_ends(x, tmp_path):
    w = tensors()
    state = theirs(w, **{"encoder.bias": "b_enc", "b_dec": "b_dec"})  # older: no tensor k
    path = dictionary_learning(tmp_path, "AutoEncoderTopK", state, k=K, submodule_name="mlp")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"buffer": {"io": "in_and_out"}}))
    (path / "checkpoints").mkdir()
    checkpoint = (path / "ae.pt").rename(path / "checkpoints" / "ae_100.pt")
    d = dl.load(f"dictionary_learning:{checkpoint}")
    assert d.sites.hooks == ("mlp.in", "mlp.out")
    pre = (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    torch.testing.assert_close(d.encode(x), keep_largest(pre))


class Evil:
    def __reduce__(self):
        return (open, ("/nonexistent/should-never-be-opened", "w"))


def test_a_pickle_that_holds_more_than_tensors_is_not_run(tmp_path):
    path = dictionary_learning(tmp_path, "AutoEncoder", {"encoder.weight": Evil()})
    with pytest.raises(CorruptFileError, match="tensors and nothing else"):
        dl.load(f"dictionary_learning:{path}")
    (tmp_path / "ae.pt").write_bytes(b"not a pickle")
    with pytest.raises(CorruptFileError, match=r"ae\.pt"):
        dl.load(f"dictionary_learning:{path}")
    torch.save([torch.zeros(2)], tmp_path / "ae.pt")
    with pytest.raises(CorruptFileError, match="a dictionary of tensors, got <class 'list'>"):
        dl.load(f"dictionary_learning:{path}")


def test_dictionary_learning_refuses_what_it_does_not_know(tmp_path):
    w = tensors()
    path = dictionary_learning(tmp_path, "IdentityDict", {})
    with pytest.raises(InputError, match="no kind of ours is a 'IdentityDict'"):
        dl.load(f"dictionary_learning:{path}")
    torn = theirs(w) | {"decoder.weight": torch.zeros(D + 1, L)}
    path = dictionary_learning(tmp_path, "AutoEncoder", torn)
    with pytest.raises(CorruptFileError, match="do not fit"):
        dl.load(f"dictionary_learning:{path}")


@pytest.mark.parametrize("transcode", [False, True])
def test_sparsify(transcode, x, tmp_path):
    w = tensors()
    weights = {"encoder.weight": w["W_enc"].T, "encoder.bias": w["b_enc"]}
    weights |= pick(w, "W_dec", "b_dec", "W_skip")
    folder = tmp_path / "layers.1.mlp" / "seed2"
    path = sparsify(folder, weights, transcode=transcode, skip_connection=True)
    d = dl.load(f"sparsify:{path}")
    centre = torch.zeros(D) if transcode else w["b_dec"]
    acts = keep_largest(((x - centre) @ w["W_enc"] + w["b_enc"]).relu())
    torch.testing.assert_close(d.encode(x), acts)
    torch.testing.assert_close(d(x), acts @ w["W_dec"] + w["b_dec"] + x @ w["W_skip"].T)
    hooks = ("layers.1.mlp.in", "layers.1.mlp.out") if transcode else ("layers.1.mlp",)
    assert d.sites.hooks == hooks


def test_sparsify_sizes_and_activations(tmp_path):
    weights = {"encoder.weight": torch.ones(8, D), "encoder.bias": torch.ones(8)}
    weights |= {"W_dec": torch.ones(8, D), "b_dec": torch.ones(D)}
    assert dl.load(f"sparsify:{sparsify(tmp_path, weights, num_latents=0)}").n_features == 8
    with pytest.raises(CorruptFileError, match=r"must have shape \(7, 4\), got \(8, 4\)"):
        dl.load(f"sparsify:{sparsify(tmp_path, weights)}")
    with pytest.raises(InputError, match="'groupmax'"):
        dl.load(f"sparsify:{sparsify(tmp_path, weights, activation='groupmax')}")


@pytest.mark.parametrize(
    ("more", "extra"), [("activation: topk\nk: 2\n", {}), ("", {"k": torch.tensor(K)})]
)
def test_circuit_tracer_top_k(more, extra, x, tmp_path):
    """`k` from the config, or from the tensor that circuit-tracer itself writes."""
    w = tensors()
    d = dl.load(f"circuit_tracer:{circuit_tracer(tmp_path, YAML + more, rows_first(w) | extra)}")
    acts = keep_largest(x @ w["W_enc"] + w["b_enc"])
    torch.testing.assert_close(d.encode(x), acts)
    torch.testing.assert_close(d(x), acts @ w["W_dec"] + w["b_dec"])
    assert d.sites.hooks == ("blocks.0.mlp.hook_in", "blocks.0.mlp.hook_out")
    assert d.provenance.model == "org/model"


def test_circuit_tracer_relu_with_skip(x, tmp_path):
    w = tensors()
    path = circuit_tracer(tmp_path, YAML, rows_first(w) | pick(w, "W_skip"), layer=11)
    d = dl.load(f"circuit_tracer:{path.parent}")
    acts = (x @ w["W_enc"] + w["b_enc"]).relu()
    torch.testing.assert_close(d(x), acts @ w["W_dec"] + w["b_dec"] + x @ w["W_skip"].T)
    assert d.sites.source.hook == "blocks.11.mlp.hook_in"


def test_circuit_tracer_thresholds(x, tmp_path):
    w = tensors()
    jump = rows_first(w) | {"activation_function.threshold": torch.full((L,), 0.7)}
    d = dl.load(f"circuit_tracer:{circuit_tracer(tmp_path, YAML, jump)}")
    pre = x @ w["W_enc"] + w["b_enc"]
    torch.testing.assert_close(d.encode(x), pre * (pre > 0.7))
    assert d.config == dl.JumpReLUTranscoderConfig(n_features=L)


@pytest.mark.parametrize("skip", [False, True])
def test_saelens_jumprelu_transcoders(skip, x, tmp_path):
    w = tensors()
    architecture = "jumprelu_skip_transcoder" if skip else "jumprelu_transcoder"
    config = {
        "architecture": architecture,
        "apply_b_dec_to_input": False,
        "d_in": D,
        "d_sae": L,
        "normalize_activations": "none",
        "metadata": {"hook_name": "a", "hook_name_out": "b"},
    }
    weights = pick(w, *STANDARD, *(["W_skip"] if skip else [])) | {
        "threshold": torch.full((L,), 0.7)
    }
    d = dl.load(f"saelens:{write(tmp_path, config, weights, 'sae_weights.safetensors')}")
    pre = x @ w["W_enc"] + w["b_enc"]
    acts = pre * (pre > 0.7)
    expected = acts @ w["W_dec"] + w["b_dec"] + (x @ w["W_skip"].T if skip else 0)
    torch.testing.assert_close(d.encode(x), acts)
    torch.testing.assert_close(d(x), expected)
    assert d.config == dl.JumpReLUTranscoderConfig(n_features=L, linear_skip=skip)


def test_saelens_matryoshka_widths_become_prefixes(x, tmp_path):
    config = {
        "architecture": "matryoshka_batchtopk",
        "apply_b_dec_to_input": True,
        "d_in": D,
        "d_sae": L,
        "k": K,
        "rescale_acts_by_decoder_norm": False,
        "matryoshka_widths": [1, L // 2, L],
        "metadata": {},
    }
    weights = pick(tensors(), *STANDARD) | {"topk_threshold": torch.tensor(0.3)}
    d = dl.load(f"saelens:{write(tmp_path, config, weights, 'sae_weights.safetensors')}")
    assert isinstance(d.config, dl.MatryoshkaSAEConfig)
    assert d.config.widths == (1, L // 2)
    w = tensors()
    pre = (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    torch.testing.assert_close(d.encode(x), pre * (pre > 0.3))


def test_circuit_tracer_refusals(tmp_path):
    w = rows_first(tensors())
    path = circuit_tracer(tmp_path, YAML, w)
    circuit_tracer(tmp_path, YAML.replace("transcoder_set", "cross_layer_transcoder"), w)
    with pytest.raises(InputError, match="cross_layer_transcoder"):
        dl.load(f"circuit_tracer:{path}")
    circuit_tracer(tmp_path, YAML + "activation: topk\nk: many\n", w)
    with pytest.raises(
        CorruptFileError, match="'k' must be a whole number of at least 1, got 'many'"
    ):
        dl.load(f"circuit_tracer:{path}")
    circuit_tracer(tmp_path, YAML, w, layer=1)
    with pytest.raises(InputError, match=r"layer_0\.safetensors, layer_1\.safetensors"):
        dl.load(f"circuit_tracer:{tmp_path}")
    (tmp_path / "config.yaml").unlink()
    with pytest.raises(CorruptFileError, match=r"config\.yaml"):
        dl.load(f"circuit_tracer:{path}")


def transcoder(layer: int, k: int = K) -> dl.FeatureDictionary:
    block = f"blocks.{layer}.mlp.hook_"
    sites = dl.Sites(dl.Site(f"{block}in", D), dl.Site(f"{block}out", D))
    return dl.TopKTranscoderConfig(n_features=L, k=k).build(sites, seed=layer)


def test_a_set_of_layers_is_written_one_by_one(x, tmp_path):
    layers = [transcoder(0), transcoder(1)]
    paths = [dl.save(layer, tmp_path, format="circuit_tracer") for layer in layers]
    assert [path.name for path in paths] == ["layer_0.safetensors", "layer_1.safetensors"]
    for path, layer in zip(paths, layers, strict=True):
        torch.testing.assert_close(dl.load(f"circuit_tracer:{path}")(x), layer(x))
    lines = (tmp_path / "config.yaml").read_text().splitlines()
    assert lines == [
        'model_kind: "transcoder_set"',
        'model_name: ""',
        'activation: "topk"',
        "k: 2",
        'feature_input_hook: "mlp.hook_in"',
        'feature_output_hook: "mlp.hook_out"',
    ]
    with pytest.raises(InputError, match="a set shares"):
        dl.save(transcoder(2, k=3), tmp_path, format="circuit_tracer")
    assert not (tmp_path / "layer_2.safetensors").exists()


def test_hooks_that_circuit_tracer_cannot_name_are_refused(tmp_path):
    for source, target in (("x", "y"), ("blocks.0.mlp.hook_in", "blocks.1.mlp.hook_out")):
        sites = dl.Sites(dl.Site(source, D), dl.Site(target, D))
        d = dl.TranscoderConfig(n_features=L).build(sites)
        with pytest.raises(InputError, match="of one layer; got"):
            dl.save(d, tmp_path, format="circuit_tracer")


def test_what_saelens_is_told(tmp_path):
    """The entries by which SAELens finds out how to run and where to attach it."""
    site = dl.Site("blocks.0.attn.hook_z", D)
    ours = dl.BatchTopKSAEConfig(n_features=L, k=K).build(dl.Sites(site, site))
    config = json.loads((dl.save(ours, tmp_path, format="saelens") / "cfg.json").read_text())
    assert config["metadata"].pop("dictlearn")["provenance"] == ours.provenance.to_dict()
    assert config == {
        "architecture": "jumprelu", "d_in": D, "d_sae": L, "dtype": "float32", "device": "cpu",
        "apply_b_dec_to_input": True, "normalize_activations": "none",
        "reshape_activations": "hook_z",
        "metadata": {
            "sae_lens_version": "6.54.12", "model_name": None, "hook_name": site.hook,
            "exclude_special_tokens": True,
        },
    }  # fmt: skip
