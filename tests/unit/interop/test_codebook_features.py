"""Folders of the authors' code of codebooks: what is read, and what is refused by name."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dictlearn.core.errors import CorruptFileError, InputError, NonFiniteError
from dictlearn.interop.codebook_features import is_released, read_released
from tests.unit.interop import released
from tests.unit.interop.released import CONFIG, N_CODES, N_HEADS, D

MLP = "model.gpt_neox.layers.1.mlp"
Z = "model.gpt_neox.layers.0.attention.codebook_layer.codebook.2"


@pytest.fixture(scope="module")
def tensors(tmp_path_factory) -> dict[str, torch.Tensor]:
    """Those of a GPT-NeoX with the settings of the published TokFSM model."""
    folder = tmp_path_factory.mktemp("released") / "theirs"
    released.write(folder, "gpt_neox", CONFIG)
    return load_file(folder / "model.safetensors")


def test_codebooks_and_model_come_apart(tensors, tmp_path: Path) -> None:
    released.save(tmp_path, CONFIG, tensors)
    assert is_released(tmp_path)
    found = read_released(tmp_path)
    parts = ("attn.hook_z", "hook_mlp_out")
    assert list(found.codebooks) == [f"blocks.{i}.{part}" for i in range(3) for part in parts]
    heads, mlp = (found.codebooks[f"blocks.0.{part}"] for part in parts)
    assert (heads.n_groups, heads.k, heads.n_codes, heads.sites.target.d) == (
        N_HEADS,
        3,
        N_CODES,
        D,
    )
    assert (mlp.n_groups, mlp.k, mlp.n_codes, mlp.sites.target.d) == (1, 2, N_CODES, D)
    torch.testing.assert_close(heads.codes[2], tensors[f"{Z}.codebook.weight"])
    torch.testing.assert_close(heads.norm_bias[2], tensors[f"{Z}.ln.bias"])
    torch.testing.assert_close(mlp.atoms, mlp.codes[0] / 2)
    assert found.weights.keys() == released.base_model("gpt_neox").state_dict().keys()
    name = "gpt_neox.layers.1.mlp.dense_h_to_4h.weight"
    wrapped = tensors[f"{MLP}.module_layer.dense_h_to_4h.weight"]
    assert torch.equal(found.weights[name], wrapped)


def test_other_folders_are_not_of_this_kind(tmp_path: Path) -> None:
    assert not is_released(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    assert not is_released(tmp_path)


def test_names_of_earlier_versions(tensors, tmp_path: Path) -> None:
    types = {"codebook_type": ["compositional", "vanilla"]}
    for at, hook in (("preproj_attention", "attn.hook_z"), ("attention", "hook_attn_out")):
        released.save(tmp_path, CONFIG | types | {"codebook_at": [at, "mlp"]}, tensors)
        heads = read_released(tmp_path).codebooks[f"blocks.2.{hook}"]
        assert heads.n_groups == N_HEADS


PLACES = "'attn_preproj', 'attn', 'mlp_mid', 'mlp', 'transformer_block', 'preproj_attention', "
REFUSED = [
    ({"codebook_at": ["qkv", "mlp"]}, f"codebook_at is 'qkv'; read here are {PLACES}"),
    ({"codebook_at": ["attn_plus_mlp", "mlp"]}, "codebook_at is 'attn_plus_mlp'; read here are"),
    ({"codebook_at": ["mlp", "mlp"]}, "codebook_at has 'mlp' after 'mlp'"),
    ({"codebook_at": ["mlp", "mlp_mid"]}, "codebook_at has 'mlp_mid' after 'mlp'.*inner .*before"),
    ({"codebook_at": ["attn", "attn_preproj"]}, "has 'attn_preproj' after 'attn'"),
    ({"codebook_at": ["attn_preproj", "attn"]}, "has 'attn' after 'attn_preproj'"),
    ({"codebook_at": ["transformer_block", "mlp"]}, "'mlp' after 'transformer_block'"),
    ({"codebook_type": ["grouped", "vanilla"]}, "codebook_type is 'grouped'; read .*'group'"),
    ({"codebook_type": "vanilla"}, "num_codebooks is 4 where codebook_type is 'vanilla'"),
    ({"similarity_metric": "cosine"}, "is 'cosine'; read here are 'inner_product', 'euclidean'"),
    ({"codebook_kwargs": {"soft_snap": True}}, "settings soft_snap, which are unknown"),
    ({"codebook_kwargs": {"snap": False}}, "settings snap, which are unknown"),
    ({"temperature_of_codes": 1}, "settings temperature_of_codes, which are unknown"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "words"), REFUSED)
def test_settings_that_cannot_be_expressed(tensors, tmp_path: Path, change, words) -> None:
    released.save(tmp_path, CONFIG | change, tensors)
    with pytest.raises(InputError, match=rf"config\.json: .*{words}"):
        read_released(tmp_path)


MALFORMED = [
    ({"k_codebook": [3, 13]}, r"k.* at most n_codes \(12\), got 13"),
    ({"k_codebook": 0}, "'k_codebook' must be a whole number of at least 1, got 0"),
    ({"num_codes": 11}, r"must have shape \(11, any\), got \(12, 4\)"),
    ({"num_codes": 10**12}, r"must have shape \(1000000000000, any\)"),
    ({"num_codes": [12, 12, 12]}, "'num_codes' must be one value or 2"),
    ({"num_codebooks": [2, 1]}, r"holds gpt_neox\.layers\.0\.\w+\.codebook_layer\.codebook\.2"),
    ({"num_codebooks": [10**12, 1]}, r"required a tensor '.*codebook_layer\.codebook\.4\.codebook"),
    ({"num_codebooks": [-2, 1]}, "'num_codebooks' must be a whole number of at least 1, got -2"),
    ({"layers_to_snap": [0, 1]}, r"holds gpt_neox\.layers\.2.*does not account for"),
    ({"layers_to_snap": [0, 3]}, "'all' or a list of numbers from -3 to 2, got"),
    ({"layers_to_snap": "some"}, "'all' or a list of numbers from -3 to 2, got 'some'"),
    ({"codebook_kwargs": [1]}, "'codebook_kwargs' must be dict"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "words"), MALFORMED)
def test_settings_that_do_not_fit(tensors, tmp_path: Path, change, words) -> None:
    released.save(tmp_path, CONFIG | change, tensors)
    with pytest.raises(CorruptFileError, match=words) as raised:
        read_released(tmp_path)
    assert str(tmp_path) in str(raised.value)


def test_weights_that_do_not_fit(tensors, tmp_path: Path) -> None:
    released.save(tmp_path, CONFIG, tensors | {f"{Z}.codebook.weight": torch.zeros(N_CODES, 5)})
    with pytest.raises(CorruptFileError, match=r"must have shape \(12, 4\), got \(12, 5\)"):
        read_released(tmp_path)
    released.save(tmp_path, CONFIG, tensors | {f"{Z}.ln.bias": torch.full((4,), torch.nan)})
    with pytest.raises(NonFiniteError, match=r"model\.safetensors: norm_bias"):
        read_released(tmp_path)
    released.save(tmp_path, CONFIG, tensors | {f"{MLP}.dense_h_to_4h.weight": torch.ones(1)})
    with pytest.raises(CorruptFileError, match=r"differ in 'model\.' or '\.module_layer' alone"):
        read_released(tmp_path)
    released.save(tmp_path, CONFIG, {"model.model.layers.0.mlp.weight": torch.ones(1)})
    with pytest.raises(InputError, match=r"required weights of GPT-2.*got model\.layers\.0\.mlp"):
        read_released(tmp_path)


def test_pickled_weights_are_refused_with_a_way_out(tensors, tmp_path: Path, monkeypatch) -> None:
    """The line in the message makes the file that is required, also from tied weights."""
    released.save(tmp_path, CONFIG, tensors)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CorruptFileError, match=r"model\.safetensors: cannot be read"):
        read_released(tmp_path)
    embedding, unembedding = "gpt_neox.embed_in.weight", "lm_head.weight"
    tied = {f"model.{unembedding}": tensors[f"model.{embedding}"]}
    torch.save(tensors | tied, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pickle can run code; convert it once") as raised:
        read_released(tmp_path)
    line = re.search(r"save_file\(.*'model\.safetensors'\)", str(raised.value))[0]
    monkeypatch.chdir(tmp_path)
    eval(line, {"torch": torch, "save_file": save_file})
    weights = read_released(tmp_path).weights
    assert torch.equal(weights[embedding], tensors[f"model.{embedding}"])
    assert torch.equal(weights[unembedding], weights[embedding])
