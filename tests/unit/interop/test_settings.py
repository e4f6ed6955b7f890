"""Settings in other libraries' files: each is followed, known to change nothing, or refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import dictlearn as dl
from dictlearn.core.errors import CorruptFileError, InputError

D, L, K = 4, 6, 2
SITE = dl.Site("blocks.0.hook_mlp_out", D)


def exported(folder: Path, format: str, config: dl.SAEConfig | None = None) -> Path:
    config = config or dl.TopKSAEConfig(n_features=L, k=K)
    return dl.save(config.build(dl.Sites(SITE, SITE)), folder, format=format)


def changed(path: Path, change: dict, *inside: str) -> None:
    """Change entries of the config in a folder, at the top or inside others."""
    (file,) = path.glob("c*.json")
    config = entry = json.loads(file.read_text())
    for name in inside:
        entry = entry[name]
    entry |= change
    file.write_text(json.dumps(config))


@pytest.mark.parametrize("key", ["hook_head_index", "hook_head_index_out"])
def test_saelens_of_one_head_are_refused(key, tmp_path):
    path = exported(tmp_path, "saelens")
    changed(path, {key: None}, "metadata")
    dl.load(f"saelens:{path}")
    changed(path, {key: 3}, "metadata")
    with pytest.raises(InputError, match=rf"cfg\.json: is of head 3 alone \({key}\)"):
        dl.load(f"saelens:{path}")


def test_old_saelens_of_one_head_are_refused(tmp_path):
    path = exported(tmp_path, "saelens", dl.SAEConfig(n_features=L))
    old = {"hook_point": "blocks.0.attn.hook_z", "hook_point_head_index": None, "lr": 1e-4}
    (path / "cfg.json").write_text(json.dumps(old))
    assert dl.load(f"saelens:{path}").sites.source.hook == "blocks.0.attn.hook_z"
    (path / "cfg.json").write_text(json.dumps(old | {"hook_point_head_index": 0}))
    with pytest.raises(InputError, match="of head 0 alone"):
        dl.load(f"saelens:{path}")


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"k": 0}, CorruptFileError, "'k' must be a whole number of at least 1, got 0"),
        ({"k": True}, CorruptFileError, "'k' must be a whole number of at least 1, got True"),
        ({"k": L + 1}, CorruptFileError, "k must be"),
        ({"rescale_acts_by_decoder_norm": "yes"}, CorruptFileError, "must be bool, got 'yes'"),
        ({"d_sae": L + 1}, CorruptFileError, "d_sae = 7, and the weights 6"),
        ({"reshape_activations": "hook_q"}, InputError, "got reshape_activations 'hook_q'"),
        ({"activation_noise": 0.1}, InputError, "the settings activation_noise, which are unknown"),
    ],
)
def test_settings_of_saelens(change, error, words, tmp_path):
    path = exported(tmp_path, "saelens")
    changed(path, change)
    with pytest.raises(error, match=words) as told:
        dl.load(f"saelens:{path}")
    assert str(path) in str(told.value)


@pytest.mark.parametrize("k", [0, 0.0, -1, float("nan"), "two"])
def test_a_mean_number_of_features_is_above_zero(k, tmp_path):
    path = exported(tmp_path, "saelens")
    changed(path, {"architecture": "matryoshka_batchtopk", "k": k, "matryoshka_widths": [2, L]})
    file = path / "sae_weights.safetensors"
    save_file(load_file(file) | {"topk_threshold": torch.tensor(0.5)}, file)
    with pytest.raises(CorruptFileError, match=r"cfg\.json: the entry 'k' must be"):
        dl.load(f"saelens:{path}")
    changed(path, {"k": 0.4})
    assert dl.load(f"saelens:{path}").config.k == 1
    changed(path, {"matryoshka_widths": ["2"]})
    with pytest.raises(CorruptFileError, match=r"cfg\.json: the entry 'matryoshka_widths\[0\]'"):
        dl.load(f"saelens:{path}")


def test_saelens_transcoders_subtract_nothing(tmp_path):
    config = dl.TranscoderConfig(n_features=L)
    d = config.build(dl.Sites(dl.Site("x", D), dl.Site("y", D)))
    path = dl.save(d, tmp_path, format="saelens")
    changed(path, {"apply_b_dec_to_input": True})
    with pytest.raises(InputError, match="apply_b_dec_to_input = false of a transcoder"):
        dl.load(f"saelens:{path}")


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"k": 0}, CorruptFileError, "'k' must be a whole number of at least 1, got 0"),
        ({"transcode": "false"}, CorruptFileError, "'transcode' must be bool, got 'false'"),
        ({"skip_connection": 1}, CorruptFileError, "'skip_connection' must be bool, got 1"),
        ({"num_latents": "6"}, CorruptFileError, "'num_latents' must be a whole number"),
        ({"signed": True}, InputError, "the settings signed, which are unknown"),
    ],
)
def test_settings_of_sparsify(change, error, words, tmp_path):
    path = exported(tmp_path, "sparsify")
    changed(path, change)
    with pytest.raises(error, match=words) as told:
        dl.load(f"sparsify:{path}")
    assert str(path) in str(told.value)


def test_what_sparsify_has_for_training_changes_nothing(tmp_path):
    path = exported(tmp_path, "sparsify")
    before = dl.load(f"sparsify:{path}")
    changed(path, {"multi_topk": True, "normalize_decoder": True})
    assert torch.equal(dl.load(f"sparsify:{path}").atoms, before.atoms)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"k": torch.tensor(0)}, "'k' must be a whole number of at least 1, got 0"),
        ({"k": torch.tensor(2.5)}, r"'k' must be a whole number of at least 1, got 2\.5"),
        ({"k": torch.tensor(3)}, r"ae\.pt: holds k = 3, and config\.json has 2"),
        ({"group_sizes": torch.tensor([2, 3])}, "group_sizes add up to 5, and it has 6 features"),
    ],
)
def test_tensors_of_dictionary_learning(change, words, tmp_path):
    path = exported(tmp_path, "dictionary_learning")
    file = path / "ae.pt"
    torch.save(torch.load(file) | change, file)
    with pytest.raises(CorruptFileError, match=words):
        dl.load(f"dictionary_learning:{path}")


def test_what_dictionary_learning_read_of_a_module(tmp_path):
    path = exported(tmp_path, "dictionary_learning")
    config = json.loads((path / "config.json").read_text())
    del config["dictlearn"]
    (path / "config.json").write_text(json.dumps(config))
    for io, hooks in (("out", ("m",)), ("in", ("m.in",)), ("in_and_out", ("m.in", "m.out"))):
        changed(path, {"io": io}, "buffer")
        changed(path, {"submodule_name": "m"}, "trainer")
        assert dl.load(f"dictionary_learning:{path}").sites.hooks == hooks
    changed(path, {"io": "sideways"}, "buffer")
    with pytest.raises(CorruptFileError, match="'io' must be one of out, in, in_and_out, got"):
        dl.load(f"dictionary_learning:{path}")


def test_a_decoder_without_direction_has_no_unit_norm(tmp_path):
    path = exported(tmp_path, "dictionary_learning", dl.SAEConfig(n_features=L))
    state = torch.load(path / "ae.pt")
    state["bias"] = state.pop("decoder.bias")
    state["decoder.weight"][:, 1] = 0
    torch.save(state, path / "ae.pt")
    changed(path, {"dict_class": "AutoEncoder"}, "trainer")
    with pytest.raises(
        CorruptFileError, match=r"decoder directions that differ from 0.*; 1 do not"
    ):
        dl.load(f"dictionary_learning:{path}")
