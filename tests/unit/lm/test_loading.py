import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models

from dictlearn.core.errors import CorruptFileError, InputError
from dictlearn.lm.builtin import BUILTIN_MODELS
from dictlearn.lm.identity import model_name
from dictlearn.lm.loading import boot_native_folder, load_model

CONFIG = {
    "n_layers": 2,
    "d_model": 16,
    "d_mlp": 32,
    "n_heads": 2,
    "d_head": 8,
    "n_ctx": 12,
    "d_vocab": 3,
    "act_fn": "gelu",
    "normalization_type": "LN",
    "eps": 1e-5,
    "positional_embedding_type": "standard",
    "held_out_loss": 1.0,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A native model saved under the names of its own module, as the built-in one is."""
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge.sources.native import NativeModel

    config = {k: v for k, v in CONFIG.items() if k != "held_out_loss"}
    torch.manual_seed(0)
    module = NativeModel(TransformerBridgeConfig.from_dict(config))
    save_file({k: v.half() for k, v in module.state_dict().items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    vocabulary = {"<|endoftext|>": 0, "a": 1, "b": 2}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<|endoftext|>"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_native_folder_gives_the_saved_modules_logits(folder: Path) -> None:
    from safetensors.torch import load_file
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge.sources.native import NativeModel

    state = torch.get_rng_state()
    model = boot_native_folder(folder, "test", "cpu", torch.float32)
    assert torch.equal(torch.get_rng_state(), state)
    config = {k: v for k, v in CONFIG.items() if k != "held_out_loss"}
    module = NativeModel(TransformerBridgeConfig.from_dict(config))
    module.load_state_dict(
        {k: v.float() for k, v in load_file(folder / "model.safetensors").items()}
    )
    ids = torch.tensor([[0, 1, 2, 1]])
    torch.testing.assert_close(model(ids), module(ids))
    tokenizer = model.tokenizer
    assert tokenizer.bos_token_id == tokenizer.eos_token_id == tokenizer.pad_token_id == 0
    assert tokenizer.all_special_ids == [0]
    assert (model.cfg.model_name, model.cfg.d_vocab) == ("test", 3)
    assert boot_native_folder(folder, "test", "cpu", torch.bfloat16)(ids).dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_absent_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CorruptFileError, match=name):
        boot_native_folder(folder, "test", "cpu", torch.float32)


@pytest.mark.parametrize("change", [{"n_layers": 3}, {"n_layers": 1}, {"d_mlp": 8}])
def test_weights_that_do_not_fit(folder: Path, change: dict) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG | change))
    with pytest.raises(CorruptFileError, match="do not fit the config"):
        boot_native_folder(folder, "test", "cpu", torch.float32)


@pytest.mark.parametrize("name", BUILTIN_MODELS)
def test_builtin_models(name: str) -> None:
    model = load_model(name, "cpu")
    assert model_name(model) == name
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    text = "Once upon a time"
    assert model.tokenizer.decode(model.tokenizer(text).input_ids) == text
    assert model.to_tokens(text).shape[1] == 1 + len(model.tokenizer(text).input_ids)


def test_local_folder(shared, capsys: pytest.CaptureFixture[str]) -> None:
    model = load_model(shared("models/stories260K"), "cpu", torch.bfloat16)
    assert model_name(model) == "stories260K"
    assert not model.training
    assert {(p.dtype, p.requires_grad) for p in model.parameters()} == {(torch.bfloat16, False)}
    assert capsys.readouterr().err == ""


def test_loaded_model_is_returned_as_it_is(native) -> None:
    model = native()
    assert load_model(model) is model
    with pytest.raises(InputError, match=r"with TransformerLens hooks.*got Linear"):
        load_model(torch.nn.Linear(2, 2))


def test_names_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'builtin:stories'"):
        load_model("builtin:storys")
    (tmp_path / "my-model").mkdir()
    with pytest.raises(InputError, match="no folder; did you mean 'my-model'"):
        load_model(tmp_path / "my-modle")
    with pytest.raises(InputError, match="no folder; its parent does not exist"):
        load_model("./no-such/folder")
    with pytest.raises(InputError, match=r"got no config\.json"):
        load_model(tmp_path / "my-model")


@pytest.mark.parametrize("device", ["cuda:99", "nonsense"])
def test_a_device_that_cannot_be_used(device: str) -> None:
    with pytest.raises(InputError, match=rf"the device '{device}' cannot be used .*use 'cpu'"):
        load_model("builtin:stories", device)


def test_folder_that_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "nothing"}')
    with pytest.raises(InputError, match=r"(?s)could not be loaded.*builtin:stories"):
        load_model(tmp_path)


def test_transformer_lens_is_imported_only_when_a_model_is_loaded() -> None:
    code = (
        "import sys, dictlearn.lm.loading, dictlearn.lm.sites, dictlearn.lm.identity\n"
        "assert not {'transformer_lens', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
