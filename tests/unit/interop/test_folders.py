"""Folders that hold an export already, and exports that were cut short."""

from pathlib import Path

import pytest
import torch

import dictlearn as dl
from dictlearn.core.errors import CorruptFileError, DictLearnError, InputError
from dictlearn.interop.formats import FORMATS

D, N = 4, 6
SITE = dl.Site("blocks.0.hook_mlp_out", D)
AUTO = dl.Sites(SITE, SITE)


def pair(layer: int) -> dl.Sites:
    block = f"blocks.{layer}.mlp.hook_"
    return dl.Sites(dl.Site(f"{block}in", D), dl.Site(f"{block}out", D))


def layer(i: int = 0, k: int = 2) -> dl.FeatureDictionary:
    return dl.TopKTranscoderConfig(n_features=N, k=k).build(pair(i), seed=i)


def across(n_layers: int) -> dl.FeatureDictionary:
    pairs = [pair(i) for i in range(n_layers)]
    sites = dl.Sites(
        dl.Site.joined([p.source for p in pairs]), dl.Site.joined([p.target for p in pairs])
    )
    return dl.CrossLayerTranscoderConfig(n_features=N).build(sites)


def export(dictionary: dl.FeatureDictionary, folder: Path, format: str) -> Path:
    return dl.save(dictionary, folder, format=format)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix != ".lock"}


def test_fewer_layers_take_the_place_of_more(tmp_path):
    export(across(4), tmp_path, "circuit_tracer")
    fewer = across(3)
    export(fewer, tmp_path, "circuit_tracer")
    back = dl.load(f"circuit_tracer:{tmp_path}")
    assert back.sites == fewer.sites
    assert not list(tmp_path.glob("W_*_3.safetensors"))


def test_a_layer_of_somebody_else_is_in_the_way(tmp_path):
    export(across(2), tmp_path, "circuit_tracer")
    foreign = tmp_path / "W_enc_2.safetensors"
    foreign.write_bytes(b"theirs")
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r"W_enc_2\.safetensors is not a file that an export"):
        export(across(2), tmp_path, "circuit_tracer")
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("first", "second", "format"),
    [
        (layer(), across(2), "circuit_tracer"),
        (across(2), layer(), "circuit_tracer"),
    ],
    ids=["set, then cross-layer", "cross-layer, then set"],
)
def test_one_kind_of_set_does_not_replace_another(first, second, format, tmp_path):
    path = export(first, tmp_path, format)
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r"holds a .* cannot describe a .* as well"):
        export(second, tmp_path, format)
    assert contents(tmp_path) == before
    assert dl.load(f"{format}:{path}").sites == first.sites


@pytest.mark.parametrize("first", FORMATS)
@pytest.mark.parametrize("second", FORMATS)
def test_every_export_that_succeeds_leaves_every_other_readable(first, second, tmp_path):
    """Two libraries may use one name for a config."""
    dictionaries = {f: dl.TopKSAEConfig(n_features=N, k=2).build(AUTO) for f in FORMATS}
    dictionaries["circuit_tracer"] = layer()
    path = export(dictionaries[first], tmp_path, first)
    before = contents(tmp_path)
    if {first, second} == {"saelens", "sparsify"}:
        with pytest.raises(InputError, match="holds an export for another library"):
            export(dictionaries[second], tmp_path, second)
        assert contents(tmp_path) == before
    else:
        other = export(dictionaries[second], tmp_path, second)
        assert torch.equal(dl.load(f"{second}:{other}").atoms, dictionaries[second].atoms)
    assert torch.equal(dl.load(f"{first}:{path}").atoms, dictionaries[first].atoms)


@pytest.mark.parametrize("dictionary", [layer(), across(2)], ids=["set", "cross-layer"])
def test_no_config_cut_short_loads_as_something_else(dictionary, tmp_path):
    path = export(dictionary, tmp_path, "circuit_tracer")
    file = tmp_path / "config.yaml"
    text = file.read_text()
    for end in range(len(text) - 1):
        file.write_text(text[:end])
        with pytest.raises(CorruptFileError, match=r"config\.yaml"):
            dl.load(f"circuit_tracer:{path}")
    file.write_text(text[:-1])  # without the last line break, nothing is missing
    back = dl.load(f"circuit_tracer:{path}")
    assert (back.config, back.sites) == (dictionary.config, dictionary.sites)
    assert torch.equal(back.atoms, dictionary.atoms)


@pytest.mark.parametrize("format", [f for f in FORMATS if f != "circuit_tracer"])
def test_no_other_config_cut_short_loads_as_something_else(format, tmp_path):
    d = dl.TopKSAEConfig(n_features=N, k=2).build(AUTO)
    path = export(d, tmp_path, format)
    (file,) = tmp_path.glob("c*.json")
    text = file.read_text()
    for end in range(len(text) - 2):
        file.write_text(text[:end])
        with pytest.raises(DictLearnError):
            dl.load(f"{format}:{path}")


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ("- a\n- b", "required entries"),
        ("model_kind: [", "not valid YAML"),
        ("model_kind: transcoder_set\nfeature_input_hook: a", "'feature_output_hook' must be str"),
        ("model_kind: 3\nfeature_input_hook: a\nfeature_output_hook: b", "'model_kind' must be"),
        ("model_kind: !!python/name:os.system", "not valid YAML"),
        ("model_kind: transcoder_set\nfeature_input_hook: a\nfeature_output_hook: b\nk: 0",
         "'k' must be a whole number of at least 1, got 0"),
        ("model_kind: transcoder_set\nfeature_input_hook: a\nfeature_output_hook: b\n"
         "activation: jumprelu", "do not fit layer_0.safetensors, which has no thresholds"),
        ("model_kind: transcoder_set\nfeature_input_hook: a\nfeature_output_hook: b\n"
         "activation: topk", "do not fit layer_0.safetensors"),
    ],
)  # fmt: skip
def test_entries_of_a_config_are_checked(entries, words, tmp_path):
    path = export(layer(), tmp_path, "circuit_tracer")
    (tmp_path / "config.yaml").write_text(entries)
    with pytest.raises(CorruptFileError, match=words):
        dl.load(f"circuit_tracer:{path}")


def test_entries_that_this_package_cannot_follow_are_refused(tmp_path):
    path = export(layer(), tmp_path / "set", "circuit_tracer")
    config = path.parent / "config.yaml"
    config.write_text(config.read_text().replace("topk", "groupmax"))
    with pytest.raises(InputError, match="activation function 'groupmax'"):
        dl.load(f"circuit_tracer:{path}")
    folder = export(across(2), tmp_path / "across", "circuit_tracer")
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text + "activation: topk\nk: 2\n")
    with pytest.raises(InputError, match="'topk', and cross_layer_transcoder here has ReLU"):
        dl.load(f"circuit_tracer:{folder}")
    (folder / "config.yaml").write_text(text.replace("n_layers: 2", "n_layers: 3"))
    with pytest.raises(CorruptFileError, match="n_layers = 3, and the files 2"):
        dl.load(f"circuit_tracer:{folder}")
